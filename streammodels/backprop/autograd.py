"""The streamed pass as one differentiable function of the image and all tensors of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from streammodels.backprop.bptt import ImagePass
from streammodels.core.engine import NodeTensors


class StreamedFunction(torch.autograd.Function):
    """``StreamedFunction.apply(image_pass, image, *tensors)``, the result of `ImagePass.forward` with gradients.

    `image` is the tensor that the pass reads, or None for a lazy image. `tensors` are those of all nodes that are not
    None, of which the pass has leaves.
    """

    @staticmethod
    def forward(ctx: Any, image_pass: ImagePass, image: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run all strips."""
        values = image_pass.forward()
        ctx.image_pass, ctx.number = image_pass, len(tensors)
        # Saved by autograd, which frees them after the backward pass and checks them for changes in between.
        ctx.save_for_backward(image, *tensors, *image_pass.move_out())
        ctx.missing = [[tensor is None for tensor in node] for node in image_pass.tensors]
        image_pass.reader.source.tensor = None
        # None for a value without a gradient, which plain autograd would not go back from either.
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients; their own gradients raise."""
        with torch.no_grad():
            result = StreamedFunction._backward(ctx, *grads)
        if torch.is_grad_enabled() and any(grad is not None for grad in result):
            sources = [*ctx.saved_tensors[: 1 + ctx.number], *grads]
            result = _OnceDifferentiable.apply(len(result), *result, *sources)
        return (None, *result)

    @staticmethod
    def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Run the strips from last to first. The pass, which is freed with the result only, then holds no tensors."""
        image_pass: ImagePass = ctx.image_pass
        if all(grad is None for grad in grads):
            return (None, *[None] * ctx.number)
        source = image_pass.reader.source
        source.tensor, *saved = ctx.saved_tensors
        image_pass.move_in(saved[ctx.number :])
        if not image_pass.tensors:  # the graph was retained, and this is not its first backward pass
            image_pass.tensors = detach_as_leaves(_by_node(saved, ctx.missing))
        try:
            image_grad = None
            if image_pass.image_needs_grad:
                image_grad = _image_gradient(image_pass, grads)
            else:
                image_pass.backward(grads)
            return (image_grad, *(leaf.grad for leaf in flat_tensors(image_pass.tensors)))
        finally:
            image_pass.release()
            source.tensor = None


class _OnceDifferentiable(torch.autograd.Function):
    """Gradients that depend on other tensors in a way that is not computed, so that their own gradients raise.

    That of torch, `once_differentiable`, depends on no other tensor, and a Hessian computed through it is zero.
    """

    @staticmethod
    def forward(ctx: Any, number: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """The first `number` tensors, the gradients; the others are what they depend on."""
        return tuple(None if tensor is None else tensor.detach() for tensor in tensors[:number])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Raises."""
        raise RuntimeError(
            "a streamed module was asked to differentiate twice, which strips cannot. For second derivatives, such as "
            "gradient penalties and Hessians, use the plain module, its attribute 'module'."
        )


def detach(tensors: NodeTensors) -> list[list[Tensor | None]]:
    """The same tensors without graph, contiguous for the kernels."""
    return [[None if t is None else t.detach().contiguous() for t in node] for node in tensors]


def detach_as_leaves(tensors: NodeTensors) -> list[list[Tensor | None]]:
    """The same tensors, contiguous, as leaves of another graph."""
    leaves = detach(tensors)
    for leaf, tensor in zip(flat_tensors(leaves), flat_tensors(tensors), strict=True):
        leaf.requires_grad_(tensor.requires_grad)
    return leaves


def flat_tensors(tensors: NodeTensors) -> list[Tensor]:
    """The tensors of all nodes that are not None."""
    return [tensor for node in tensors for tensor in node if tensor is not None]


def _by_node(tensors: Sequence[Tensor], missing: Sequence[Sequence[bool]]) -> list[list[Tensor | None]]:
    """The inverse of `flat_tensors`; `missing` says which tensors are None."""
    remaining = iter(tensors)
    return [[None if gap else next(remaining) for gap in node] for node in missing]


def _image_gradient(image_pass: ImagePass, grads: Sequence[Tensor | None]) -> Tensor:
    """Run the backward pass, and return the gradient of the image."""
    source = image_pass.reader.source
    assert source.tensor is not None
    result = torch.empty_like(source.tensor)
    upright = result.transpose(2, 3) if source.sideways else result

    def write(rows: range, grad: Tensor) -> None:
        upright[:, :, rows.start : rows.stop] = grad

    image_pass.backward(grads, write)
    return result
