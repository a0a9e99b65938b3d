"""Translation of pools over rows and columns, and of vectors repeated over a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from streammodels.core.operations import Pointwise, Rule
from streammodels.core.reductions import Attention, GlobalAverage, GlobalExtreme, Parts, Reduction, sum_dtype
from streammodels.tracing.fx_graph import named_arguments
from streammodels.tracing.recording.substitutes import softmax_pool

_NORMS: frozenset[Any] = frozenset({torch.norm, "norm", torch.linalg.vector_norm})
_MAXIMA: frozenset[Any] = frozenset({torch.amax, "amax"})
_MEANS: frozenset[Any] = frozenset({torch.mean, "mean"})
_RESIZES: frozenset[Any] = frozenset({functional.interpolate})
_EXPANSIONS: frozenset[Any] = frozenset({"expand", torch.broadcast_to, "broadcast_to"})


@dataclass(frozen=True)
class GlobalNorm(Reduction):
    """The vector norm of each channel of a map, (B, C, 1, 1)."""

    order: float

    @property
    def ignores_order(self) -> bool:
        """See `Reduction`."""
        return True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The norm of the strip."""
        dtype = sum_dtype(rows.dtype)
        return (torch.linalg.vector_norm(rows, self.order, dim=(2, 3), keepdim=True, dtype=dtype),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The norm of the norms."""
        result: Tensor = torch.linalg.vector_norm(parts[0], self.order, dim=0)
        return result.to(dtype)


@dataclass(frozen=True)
class Shaped(Reduction):
    """Another reduction, whose result, (B, C) or (B, C, 1, 1), has another shape.

    Attributes:
        rule: The reduction.
        keep: Whether rows and columns stay, as dimensions of size 1.
        last: Whether the channels come last.
    """

    rule: Reduction
    keep: bool
    last: bool

    @property
    def ignores_order(self) -> bool:
        """See `Reduction`."""
        return self.rule.ignores_order

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """See `Reduction`."""
        return self.rule.partial(rows, *tensors)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """See `Reduction`."""
        result = self.rule.combine(parts, pixels, dtype, *tensors)
        if not self.keep:
            return result.flatten(1)
        column = result.reshape(*result.shape[:2], 1, 1)
        return column.permute(0, 2, 3, 1) if self.last else column


def reduction(node: fx.Node, last: bool) -> Rule | None:
    """The rule of a mean, maximum or norm of each channel over all pixels; None for other operations.

    Also that of a maximum over the channels of each pixel.
    """
    target: Any = node.target
    if target is softmax_pool:
        return Shaped(Attention(lambda _, scores: scores, one_vector=True), True, last)
    names = {**dict.fromkeys(_NORMS, ("p", "dim", "keepdim")), **dict.fromkeys((*_MAXIMA, *_MEANS), ("dim", "keepdim"))}
    if target not in names:
        return None
    given = named_arguments(node, *names[target])
    dimensions, keep = given.pop("dim", None), bool(given.pop("keepdim", False))
    order = given.pop("p", given.pop("ord", 2))
    listed = [*dimensions] if isinstance(dimensions, list | tuple) else [dimensions]
    if set(given) - {"input", "x"} or not all(isinstance(d, int) for d in listed):
        return None
    places = sorted(d % 4 for d in listed)
    if places == [3 if last else 1] and keep and target in _MAXIMA:
        return Pointwise(lambda rows: rows.amax(1, keepdim=True))
    if places != ([1, 2] if last else [2, 3]):
        return None
    if target in _MEANS:
        return Shaped(GlobalAverage(), keep, last) if last else None  # known to `functions` with channels first
    if target in _MAXIMA:
        return Shaped(GlobalExtreme(False, True), keep, last)
    return Shaped(GlobalNorm(float(order)), keep, last) if isinstance(order, int | float) else None


def repeated(node: fx.Node) -> tuple[fx.Node, int | None]:
    """The vector that an operation repeats over rows and columns, and to how many channels, None for its own.

    Any other operation is returned itself.
    """
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return node, None
    if node.target in _RESIZES and named_arguments(node, "size").get("size") is not None:
        return source, None  # of one pixel, which is checked when it is known; each mode repeats it
    if node.target in _EXPANSIONS:
        sizes = node.args[1:] if isinstance(node.args[1], int) else node.args[1]
        if isinstance(sizes, tuple | list) and len(sizes) == 4 and all(isinstance(size, int) for size in sizes):
            return source, None if sizes[1] == -1 else int(sizes[1])  # type: ignore[arg-type]
    return node, None


def spread(channels: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of rows of a map and a vector that repeats the vector over these rows."""

    def apply(rows: Tensor, vector: Tensor) -> Tensor:
        return vector.expand(rows.shape[0], vector.shape[1] if channels is None else channels, *rows.shape[2:])

    return apply
