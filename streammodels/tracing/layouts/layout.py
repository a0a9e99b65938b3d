"""Maps whose channels are split in several dimensions, or whose rows and columns are one dimension.

The engine has every map as (B, C, rows, W). A `Layout` says which of these the dimensions of the traced value are, so
that views, transpositions, and what works along dimensions of channels alone, are functions of single pixels: channel
shuffles, groups and branches of channels, tokens. What works along rows or columns reads every row, and is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from streammodels.errors import UnsupportedLayerError
from streammodels.tracing.fx_graph import named_arguments


@dataclass(frozen=True, eq=False)
class Factor:
    """A part of the channels, which are a product of such; its size is None if it is what the others leave."""

    size: int | None = None


Dimension = tuple["Factor | str", ...]
"""What one dimension of a value consists of, "batch", "rows", "columns" and parts of the channels."""

RESHAPES: frozenset[Any] = frozenset(
    {"view", "reshape", torch.reshape, "flatten", torch.flatten, "unflatten", torch.unflatten, "squeeze", torch.squeeze,
     "unsqueeze", torch.unsqueeze}
)  # fmt: skip
TRANSPOSITIONS: frozenset[Any] = frozenset(
    {"transpose", torch.transpose, "swapaxes", torch.swapaxes, "permute", torch.permute, "movedim", torch.movedim,
     "moveaxis", torch.moveaxis}
)  # fmt: skip
_SHRINKING: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((torch.sum, "sum", torch.mean, "mean", torch.amax, "amax", torch.amin, "amin"), ("dim", "keepdim")),
    **dict.fromkeys((torch.norm, "norm", torch.linalg.vector_norm), ("p", "dim", "keepdim")),
    **dict.fromkeys((torch.logsumexp, "logsumexp"), ("dim", "keepdim")),
}
STACKS: frozenset[Any] = frozenset({torch.stack})


@dataclass(frozen=True)
class Layout:
    """What each dimension of a traced value is."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def plain(cls, last: bool) -> Layout:
        """(B, C, H, W), or (B, H, W, C) if `last`."""
        channels, space = (Factor(),), (("rows",), ("columns",))
        return cls((("batch",), *space, channels) if last else (("batch",), channels, *space))

    @property
    def factors(self) -> list[Factor]:
        """The parts of the channels in the order of the engine's channels."""
        return [atom for dimension in self.dimensions for atom in dimension if isinstance(atom, Factor)]

    @property
    def last(self) -> bool | None:
        """False for (B, C, H, W), True for (B, H, W, C), None for any other."""
        space = [index for index, dimension in enumerate(self.dimensions) if not _is_channels(dimension)]
        names = [self.dimensions[index] for index in space]
        if len(self.dimensions) != 4 or names != [("batch",), ("rows",), ("columns",)]:
            return None
        return {(0, 2, 3): False, (0, 1, 2): True}.get((space[0], space[1], space[2]))

    def is_channels(self, index: int) -> bool:
        """Whether a dimension is one of channels alone."""
        return -len(self.dimensions) <= index < len(self.dimensions) and _is_channels(self.dimensions[index])

    def with_dimension(self, index: int, *new: Dimension) -> Layout:
        """The same with other dimensions in place of one."""
        index %= len(self.dimensions)
        return Layout((*self.dimensions[:index], *new, *self.dimensions[index + 1 :]))

    def of(self, rows: Tensor) -> Tensor:
        """Rows (B, C, rows, W) as the traced value has them."""
        factors = self.factors
        batch, _, height, width = rows.shape
        split = rows.reshape(batch, *(-1 if one.size is None else one.size for one in factors), height, width)
        places: list[Factor | str] = ["batch", *factors, "rows", "columns"]
        flat = split.permute([places.index(atom) for dimension in self.dimensions for atom in dimension])
        sizes, shape, position = flat.shape, [], 0
        for dimension in self.dimensions:
            shape.append(prod(sizes[position : position + len(dimension)]))
            position += len(dimension)
        return flat.reshape(shape)

    def rows(self, value: Tensor, like: Tensor) -> Tensor:
        """The reverse of `of`, for rows of as many images, rows and columns as `like`."""
        batch, _, height, width = like.shape
        known = {"batch": batch, "rows": height, "columns": width}
        atoms = [atom for dimension in self.dimensions for atom in dimension]
        sizes = [known[atom] if isinstance(atom, str) else (-1 if atom.size is None else atom.size) for atom in atoms]
        order: list[Factor | str] = ["batch", *self.factors, "rows", "columns"]
        split = value.reshape(sizes).permute([atoms.index(atom) for atom in order])
        return split.reshape(batch, prod(split.shape[1:-2]), height, width)

    def reshaped(self, before: Sequence[int], after: Sequence[int], extent: tuple[int, int, int]) -> Layout | None:
        """The layout behind a view of another shape; None if rows, columns or images are taken apart.

        Args:
            before: The shape in front of it.
            after: The shape behind it.
            extent: Number of images, rows and columns.
        """
        known = dict(zip(("batch", "rows", "columns"), extent, strict=True))
        atoms: list[tuple[Factor | str, int]] = []
        for dimension, size in zip(self.dimensions, before, strict=True):
            sizes = [known[atom] if isinstance(atom, str) else atom.size for atom in dimension]
            rest = size // prod(one for one in sizes if one is not None)
            atoms += [(atom, rest if own is None else own) for atom, own in zip(dimension, sizes, strict=True)]
        result: list[Dimension] = []
        for size in after:
            taken: list[Factor | str] = []
            found = 1
            while atoms and (found < size or (size == 1 and not taken and atoms[0][1] == 1)):
                atom, own = atoms.pop(0)
                if found * own > size:  # a part of it
                    part = size // found
                    if not isinstance(atom, Factor) or size % found or own % part:
                        return None
                    atoms.insert(0, (Factor(own // part), own // part))
                    atom, own = Factor(part), part
                taken.append(Factor(own) if isinstance(atom, Factor) else atom)
                found *= own
            if found != size:
                return None
            result.append(tuple(taken))
        if result and atoms:
            result[-1] = (*result[-1], *(atom for atom, _ in atoms))
        return Layout(tuple(result))


def _is_channels(dimension: Dimension) -> bool:
    return all(isinstance(atom, Factor) for atom in dimension)


def _kind(atom: Factor | str) -> str | int | None:
    return atom.size if isinstance(atom, Factor) else atom


def transposed(node: fx.Node, layout: Layout) -> Layout | None:
    """The layout behind a `TRANSPOSITIONS` operation; None if its dimensions are no numbers."""
    number = len(layout.dimensions)
    given: list[Any] = list(node.args[1:])
    if node.target in ("permute", torch.permute):
        listed = given or [node.kwargs.get("dims")]
        order = list(listed[0]) if isinstance(listed[0], list | tuple) else listed
    else:
        names = ("dim0", "dim1") if node.target in ("transpose", torch.transpose) else ("axis0", "axis1")
        moved = node.target in ("movedim", torch.movedim, "moveaxis", torch.moveaxis)
        pair: list[Any] = list(named_arguments(node, *(("source", "destination") if moved else names)).values())
        if len(pair) != 2 or not all(isinstance(one, int) for one in pair):
            return None
        first, second = (one % number for one in pair)
        order = [*range(number)]
        if moved:
            order.insert(second, order.pop(first))
        else:
            order[first], order[second] = order[second], order[first]
    places = [one % number for one in order if isinstance(one, int)]
    return Layout(tuple(layout.dimensions[one] for one in places)) if len(places) == number else None


def reordered(before: Layout, after: Layout) -> Callable[[Tensor], Tensor]:
    """The function of rows that puts the channels of a transposition in their new order."""
    order = [before.factors.index(one) for one in after.factors]
    if order == sorted(order):
        return lambda rows: rows
    sizes = [-1 if one.size is None else one.size for one in before.factors]

    def apply(rows: Tensor) -> Tensor:
        batch, _, height, width = rows.shape
        split = rows.reshape(batch, *sizes, height, width)
        moved = split.permute(0, *(1 + one for one in order), split.ndim - 2, split.ndim - 1)
        return moved.reshape(rows.shape)

    return apply


def along(node: fx.Node, path: str, layout: Layout, arguments: Mapping[Any, tuple[str, ...]]) -> Layout:
    """The layout behind a function along dimensions, which have to be of channels alone.

    Args:
        node: The call.
        path: Its name, for errors.
        layout: The layout in front of it.
        arguments: The names of its arguments behind the map, by function.

    Raises:
        UnsupportedLayerError: If it works along rows, columns or images.
    """
    given = named_arguments(node, *arguments[node.target])
    dimension = given.get("dim", given.get("axis", 1 if node.target is functional.normalize else None))
    listed: list[Any] = list(dimension) if isinstance(dimension, list | tuple) else [dimension]
    if not all(isinstance(one, int) and layout.is_channels(one) for one in listed) or node.target is functional.glu:
        raise mixes(node, path)
    if "keepdim" not in arguments[node.target]:
        return layout
    keep, number = bool(given.get("keepdim", False)), len(layout.dimensions)
    for one in sorted((one % number for one in listed), reverse=True):
        layout = layout.with_dimension(one, ()) if keep else layout.with_dimension(one)
    return layout


def indexed(node: fx.Node, path: str, layout: Layout, index: Any) -> Layout:
    """The layout of a part of a value.

    Raises:
        UnsupportedLayerError: If it is one of rows, columns or images.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    number = len(layout.dimensions) - sum(item is not None and item is not Ellipsis for item in items)
    if Ellipsis in items:
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * number
    else:
        items += [slice(None)] * number
    result: list[Dimension] = []
    remaining = iter(layout.dimensions)
    for item in items:
        dimension = () if item is None else next(remaining, ())
        if item is None or item == slice(None):
            result.append(dimension)
            continue
        size = prod(one.size or 0 for one in dimension if isinstance(one, Factor))
        whole = isinstance(item, int) or (
            isinstance(item, slice) and all(isinstance(b, int | None) for b in (item.start, item.stop, item.step))
        )
        if not whole or not _is_channels(dimension) or (isinstance(item, slice) and not size):
            raise mixes(node, path)
        if isinstance(item, slice):
            result.append((Factor(len(range(size)[item])),))
    return Layout(tuple(result))


def broadcast(node: fx.Node, path: str, layouts: Sequence[Layout]) -> Layout:
    """The layout of a sum or product of maps.

    Raises:
        UnsupportedLayerError: If their rows, columns or images do not lie in the same dimensions.
    """
    first, second = layouts
    if len(first.dimensions) != len(second.dimensions):
        raise mixes(node, path)
    result: list[Dimension] = []
    for one, other in zip(first.dimensions, second.dimensions, strict=True):
        both_channels = _is_channels(one) and _is_channels(other)
        if not both_channels and [_kind(atom) for atom in one] != [_kind(atom) for atom in other]:
            raise mixes(node, path)
        result.append(other if both_channels and not one else one)
    return Layout(tuple(result))


def check_constant(node: fx.Node, path: str, layout: Layout, shape: Sequence[int]) -> Layout:
    """The layout of a map combined with a constant, which has to be one value for all rows and columns.

    Raises:
        UnsupportedLayerError: If it is not.
    """
    if len(shape) > len(layout.dimensions):
        raise mixes(node, path)
    for axis in range(-len(shape), 0):
        if shape[axis] == 1:
            continue
        if not layout.is_channels(axis):
            raise mixes(node, path)
        if not layout.dimensions[axis]:
            layout = layout.with_dimension(axis, (Factor(shape[axis]),))
    return layout


def has_own_layout(node: fx.Node, last: bool) -> bool:
    """Whether the result of an operation on a plain map has a layout of its own."""
    target = node.target
    if target in RESHAPES or target in STACKS or target in (torch.unbind, "unbind"):
        return True
    if target in TRANSPOSITIONS:
        after = transposed(node, Layout.plain(last))
        return after is None or after.last is None
    if target is operator.getitem:
        items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return len(items) > 1 and any(item is None or isinstance(item, int) for item in items)
    if target in _SHRINKING:
        given = named_arguments(node, *_SHRINKING[target])
        dimension = given.get("dim", given.get("axis"))
        return isinstance(dimension, int) and dimension % 4 == (3 if last else 1) and not given.get("keepdim", False)
    return False


def mixes(node: fx.Node, path: str, kind: str | None = None) -> UnsupportedLayerError:
    """The error for an operation along rows, columns or images; `kind` is its name, if it is a layer."""
    name = kind or str(getattr(node.target, "__name__", node.target))
    reason = (
        f"'{name}' works along rows, columns or images of a map, or takes them apart. What combines all positions, "
        "such as attention over them or a layer on the flattened map, needs the last row for its first result"
    )
    remedy = "Pool the map in front of it, or stream the layers up to there and call the rest on their result."
    return UnsupportedLayerError(path, reason, remedy)
