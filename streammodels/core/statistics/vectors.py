"""Vectors computed from whole maps, constants of the operations that apply them to a map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from streammodels.errors import UnsupportedLayerError


class Vector:
    """A constant that is known only when the maps in front of it have passed whole.

    Attributes:
        source: What it is the value of, an operation on pooled vectors or a reduction, by its fx node or, for a
            reduction that has none, its index.
        path: Name of the operation that reads it, for errors.
        last: Whether the channels of the map that it is applied to are last.
        packed: Whether it holds several vectors for one operation, and may have any shape.
        check: Raises for a value of a wrong shape, in place of the check for maps of a plain layout.
        value: The value, connected by autograd; None until it is known.
    """

    def __init__(self, source: fx.Node | int, path: str, last: bool = False, packed: bool = False) -> None:
        self.source = source
        self.path = path
        self.last = last
        self.packed = packed
        self.check: Callable[[Tensor], object] | None = None
        self.value: Tensor | None = None

    def get(self) -> Tensor:
        """The value."""
        assert self.value is not None, f"the vector of {self.path} is read before it is known"
        return self.value

    def set(self, value: object) -> None:
        """Take the value.

        Raises:
            UnsupportedLayerError: If it differs from row to row or from column to column of the map.
        """
        if not isinstance(value, Tensor):
            reason = f"it applies a {type(value).__name__} computed from a whole map to a map"
            raise UnsupportedLayerError(self.path, reason, "Apply tensors of one value for a channel.")
        if self.check is not None:
            self.check(value)
            self.value = value
            return
        space = (value.shape[-3:-1] if self.last else value.shape[-2:]) if value.ndim > 1 else ()
        # With its channels last, a map may meet a vector of channels alone.
        single = value.numel() == 1 or (self.last and value.ndim == 1)
        if not self.packed and not single and (value.ndim != 4 or tuple(space) != (1, 1)):
            shape = "(B, 1, 1, C)" if self.last else "(B, C, 1, 1)"
            reason = f"it applies a tensor of shape {tuple(value.shape)}, computed from a whole map, to a map"
            raise UnsupportedLayerError(self.path, reason, f"Use one value for a channel: shape {shape}.")
        self.value = value


@dataclass(frozen=True)
class VectorFlow:
    """How pooled vectors become constants of the operations on maps behind them.

    Attributes:
        read: By node, the vectors that it reads.
        reductions: The index of each reduction, by its fx node.
        operations: The operations on vectors, and the tensors that they read, in order.
        run: Computes one of them from the values of those before; the value is added to these.
    """

    read: Mapping[int, tuple[Vector, ...]]
    reductions: Mapping[fx.Node, int]
    operations: tuple[fx.Node, ...]
    run: Callable[[dict[fx.Node, Any], fx.Node], None]
