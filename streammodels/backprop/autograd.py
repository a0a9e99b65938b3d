"""The streamed pass as one differentiable function of the image and of all tensors the network computes with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from streammodels.backprop.bptt import Pass
from streammodels.core.engine import NodeTensors


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
        ctx.gaps = [[tensor is None for tensor in node] for node in job.tensors]
        job.reader.source.hold(None)
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Run the strips from last to first. What lives on with the result, the job, then holds no tensor of size."""
        job: Pass = ctx.job
        image, *saved = ctx.saved_tensors
        job.reader.source.hold(image)
        job.take_back(saved[ctx.number :])
        if not job.tensors:  # the graph was retained: this is not its first backward pass
            job.tensors = leaves(_in_nodes(saved, ctx.gaps))
        try:
            image_grad: Tensor | None = None
            if job.image_needs_grad:
                image_grad = _image_gradient(job, image, grads)
            else:
                job.backward(grads)
            return (None, image_grad, *(leaf.grad for leaf in present(job.tensors)))
        finally:
            job.drop()
            job.reader.source.hold(None)


def leaves(tensors: NodeTensors) -> list[list[Tensor | None]]:
    """The same tensors as leaves of a graph of their own; they still notice changes of the originals in place."""
    return [[None if t is None else t.detach().requires_grad_(t.requires_grad) for t in node] for node in tensors]


def present(tensors: NodeTensors) -> list[Tensor]:
    """The tensors of all nodes, without gaps."""
    return [tensor for node in tensors for tensor in node if tensor is not None]


def _in_nodes(tensors: Sequence[Tensor], gaps: Sequence[Sequence[bool]]) -> list[list[Tensor | None]]:
    """The tensors of all nodes, node by node; `gaps` says which are missing."""
    remaining = iter(tensors)
    return [[None if gap else next(remaining) for gap in node] for node in gaps]


def _image_gradient(job: Pass, image: Tensor, grads: Sequence[Tensor]) -> Tensor:
    """Run the backward pass; returns the gradient of the image."""
    result = torch.empty_like(image)
    upright = result.transpose(2, 3) if job.reader.source.sideways else result

    def take(rows: range, grad: Tensor) -> None:
        upright[:, :, rows.start : rows.stop] = grad

    job.backward(grads, take)
    return result
