"""The streamed pass as one differentiable function of the inputs and all tensors of the network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from streammodels.backprop.bptt import ImagePass
from streammodels.core.engine import NodeTensors
from streammodels.core.image_rows import ImageRows, TensorRows
from streammodels.core.tensors.copies import Downloads, copy_stream, write
from streammodels.core.tensors.memory_format import dense


class StreamedFunction(torch.autograd.Function):
    """``StreamedFunction.apply(image_pass, *images, *tensors)``, the result of `ImagePass.forward` with gradients.

    `images` are the tensors of the inputs that the pass reads, None for a lazy one. `tensors` are those of all nodes
    that are not None, of which the pass has leaves.
    """

    @staticmethod
    def forward(ctx: Any, image_pass: ImagePass, *images_and_tensors: Tensor | None) -> tuple[Tensor, ...]:
        """Run all strips."""
        values = image_pass.forward()
        ctx.image_pass, ctx.number = image_pass, len(images_and_tensors)
        # Saved by autograd, which frees them after the backward pass and checks them for changes in between.
        ctx.save_for_backward(*images_and_tensors, *image_pass.move_out())
        ctx.missing = [[tensor is None for tensor in node] for node in image_pass.tensors]
        image_pass.reader.set_tensors([None] * len(image_pass.reader.readers))
        # None for a value without a gradient, which plain autograd would not go back from either.
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients; their own gradients raise."""
        with torch.no_grad():
            result = StreamedFunction._backward(ctx, *grads)
        if torch.is_grad_enabled() and any(grad is not None for grad in result):
            sources: list[Tensor | None] = [*ctx.saved_tensors[: ctx.number], *grads]
            result = _OnceDifferentiable.apply(len(result), *result, *sources)
        return (None, *result)

    @staticmethod
    def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Run the strips from last to first. The pass, which is freed with the result only, then holds no tensors."""
        image_pass: ImagePass = ctx.image_pass
        if all(grad is None for grad in grads):
            nothing: tuple[None, ...] = (None,) * ctx.number
            return nothing
        reader = image_pass.reader
        saved, images = ctx.saved_tensors, len(reader.readers)
        reader.set_tensors(saved[:images])
        image_pass.move_in(saved[ctx.number :])
        if not image_pass.tensors:  # the graph was retained, and this is not its first backward pass
            image_pass.tensors = detach_as_leaves(_by_node(saved[images:], ctx.missing))
        try:
            own = {index: reader.readers[index].source for index in image_pass.inputs_needing_grad}
            copies = copy_stream(reader.device) if any(source.device.type == "cpu" for source in own.values()) else None
            with nullcontext() if copies is None else Downloads(copies) as downloads:
                image_grads = {index: _GradOfRows(source, downloads) for index, source in own.items()}
                image_pass.backward(grads, {index: grad.add for index, grad in image_grads.items()})
            of_images = [image_grads[i].whole if i in image_grads else None for i in reader.readers]
            return (*of_images, *(leaf.grad for leaf in flat_tensors(image_pass.tensors)))
        finally:
            image_pass.release()
            reader.set_tensors([None] * images)


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
    """The same tensors without graph, dense for the kernels."""
    return [[None if t is None else dense(t.detach()) for t in node] for node in tensors]


def detach_as_leaves(tensors: NodeTensors) -> list[list[Tensor | None]]:
    """The same tensors, dense, as leaves of another graph."""
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


class _GradOfRows:
    """The gradient of an input in memory, filled strip by strip.

    Args:
        source: The input.
        downloads: What copies rows to host memory; None to wait for each.

    Attributes:
        whole: (B, C, H, W), as the input.
    """

    def __init__(self, source: ImageRows, downloads: Downloads | None) -> None:
        assert isinstance(source, TensorRows)
        self._downloads = downloads
        self.whole, self._upright = source.new_grad()

    def add(self, rows: range, grad: Tensor) -> None:
        """Copy the gradient of some rows."""
        write(grad, self._upright[:, :, rows.start : rows.stop], self._downloads)
