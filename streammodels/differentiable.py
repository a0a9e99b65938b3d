"""The streamed pass as one differentiable function of the image and of all tensors the network computes with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .engine import NodeTensors
from .image_pass import Pass


class Streamed(torch.autograd.Function):
    """``Streamed.apply(job, image, *tensors)``: what `Pass.forward` returns, with gradients.

    `image` is the tensor that the job reads, or None for an image that is no tensor; `tensors` are those of all nodes,
    without gaps, of which the job has its own leaves.
    """

    @staticmethod
    def forward(ctx: Any, job: Pass, image: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run all strips, keep what the job keeps."""
        values = job.forward()
        ctx.job, ctx.number = job, len(tensors)
        # Saved as autograd saves: freed after the backward pass, and checked for changes in between.
        ctx.save_for_backward(image, *tensors, *job.give_away())
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Run the strips from last to first."""
        job: Pass = ctx.job
        image, *saved = ctx.saved_tensors
        job.take_back(saved[ctx.number :])
        image_grad: Tensor | None = None
        if job.image_needs_grad:
            image_grad = torch.empty_like(image)
            upright = image_grad.transpose(2, 3) if job.reader.source.sideways else image_grad

            def take(rows: range, grad: Tensor) -> None:
                upright[:, :, rows.start : rows.stop] = grad

            job.backward(grads, take)
        else:
            job.backward(grads)
        job.drop()
        return (None, image_grad, *_collected(job.tensors))


def leaves(tensors: NodeTensors) -> list[list[Tensor | None]]:
    """The same tensors as leaves of a graph of their own; they still notice changes of the originals in place."""
    return [[None if t is None else t.detach().requires_grad_(t.requires_grad) for t in node] for node in tensors]


def present(tensors: NodeTensors) -> list[Tensor]:
    """The tensors of all nodes, without gaps."""
    return [tensor for node in tensors for tensor in node if tensor is not None]


def _collected(tensors: NodeTensors) -> list[Tensor | None]:
    """The gradients of the leaves, which are ready for another backward pass then."""
    found = []
    for leaf in present(tensors):
        found.append(leaf.grad)
        leaf.grad = None
    return found
