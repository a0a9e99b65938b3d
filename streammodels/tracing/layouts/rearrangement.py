"""Translation of operations on values with a layout of their own into functions of single pixels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from streammodels.core.operations import Join, Pointwise, Rule
from streammodels.core.reductions import GlobalAverage, GlobalExtreme, GlobalSum
from streammodels.core.statistics.vectors import Vector
from streammodels.tracing import functions, modules
from streammodels.tracing.fx_graph import is_stochastic_depth, named_arguments
from streammodels.tracing.layouts.layout import (
    RESHAPES,
    STACKS,
    TRANSPOSITIONS,
    Factor,
    Layout,
    along,
    broadcast,
    check_constant,
    indexed,
    mixes,
    reordered,
    transposed,
)
from streammodels.tracing.over_channels import ARGUMENTS

_UNBINDS: frozenset[Any] = frozenset({torch.unbind, "unbind"})


@dataclass(frozen=True)
class Rearranged:
    """What an operation on values with layouts is.

    Attributes:
        layout: The layout of its result.
        rule: What it computes; None for a split, whose parts are computed.
        constants: The nodes of the tensors that the rule reads, None where there is none.
    """

    layout: Layout
    rule: Rule | None
    constants: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Rearrangement:
    """The translation of one operation.

    Attributes:
        node: The operation.
        path: Its name, for errors.
        layouts: The layout of each map that it reads, in their order.
        constants: The values of constants.
        layer: The layer that it calls, if it calls one.
        shape_of: Returns the shape of a value.
        extent: Returns the number of images, rows and columns of the maps.
    """

    node: fx.Node
    path: str
    layouts: Mapping[fx.Node, Layout]
    constants: Mapping[fx.Node, Any]
    layer: Any
    shape_of: Callable[[fx.Node], tuple[int, ...]]
    extent: Callable[[], tuple[int, int, int]]

    def translated(self) -> Rearranged:
        """The rule and the layout behind it.

        Raises:
            UnsupportedLayerError: If the operation works along rows, columns or images.
        """
        node, target = self.node, self.node.target
        layout = next(iter(self.layouts.values()))
        maps = len(self.layouts)
        if node.op == "call_module":
            return self._module(layout)
        if target in RESHAPES:
            return self._reshaped(layout)
        if maps == 1 and target in TRANSPOSITIONS:
            after = transposed(node, layout)
            if after is not None:
                return Rearranged(after, Pointwise(reordered(layout, after)))
        elif target in STACKS or target in functions.CONCATENATIONS:
            return self._combined(layout)
        elif target in functions.SPLITS:
            return self._split(layout)
        elif target is operator.getitem:
            return self._part(layout)
        elif maps == 1 and target in ARGUMENTS:
            pool = self._pool(layout)
            if pool is not None:
                return Rearranged(Layout.plain(False), pool)
            after = along(node, self.path, layout, ARGUMENTS)
            call = functions.called(node, [])
            return Rearranged(after, Pointwise(lambda rows: after.rows(call(layout.of(rows)), rows)))
        elif maps == 2 and target in functions.JOIN_FUNCTIONS and len(node.args) == 2:
            return self._joined(broadcast(node, self.path, [*self.layouts.values()]))
        elif maps == 1 and target in (functional.linear, functional.layer_norm):
            return self._on_last(layout, node.args[1:], node.kwargs)
        elif maps == 1 and target is functional.dropout:
            return Rearranged(layout, functions.function_rule(node, self.path, False))
        elif maps == 1 and (
            target in functions.JOIN_FUNCTIONS
            or target in functions.POINTWISE_FUNCTIONS
            or target in functions.POINTWISE_METHODS
        ):
            return self._elementwise(layout)
        raise mixes(node, self.path)

    def _pool(self, layout: Layout) -> Rule | None:
        """The rule of a pool over rows and columns that are flattened to one dimension; None for others."""
        given = named_arguments(self.node, *ARGUMENTS[self.node.target])
        dimension = given.pop("dim", given.pop("axis", None))
        listed = list(dimension) if isinstance(dimension, list | tuple) else [dimension]
        number = len(layout.dimensions)
        if len(listed) != 1 or not isinstance(listed[0], int) or number != 3 or given.get("keepdim", False):
            return None
        others = layout.with_dimension(listed[0]).dimensions
        if {*layout.dimensions[listed[0] % number]} != {"rows", "columns"} or others[0] != ("batch",):
            return None
        pools = {"mean": GlobalAverage(False), "sum": GlobalSum(), "amax": GlobalExtreme(), "amin": GlobalExtreme(True)}
        return pools.get(functions.name_of(self.node)) if set(given) <= {"keepdim"} else None

    def _reshaped(self, layout: Layout) -> Rearranged:
        source = next(iter(self.layouts))
        given = (*self.node.args[1:], *self.node.kwargs.values())
        retyped = any(isinstance(value, torch.dtype) for value in given)
        after = layout.reshaped(self.shape_of(source), self.shape_of(self.node), self.extent())
        if after is None or retyped:
            raise mixes(self.node, self.path)
        return Rearranged(after, Pointwise(lambda rows: rows))

    def _combined(self, layout: Layout) -> Rearranged:
        """A stack or concatenation of maps."""
        given: dict[str, Any] = dict(zip(("tensors", "dim"), self.node.args, strict=False)) | self.node.kwargs
        parts, dimension = given.get("tensors"), given.get("dim", 0)
        for other in [*self.layouts.values()][1:]:
            broadcast(self.node, self.path, (layout, other))
        if not isinstance(parts, list | tuple) or not all(part in self.layouts for part in parts):
            raise mixes(self.node, self.path)
        if not isinstance(dimension, int):
            raise mixes(self.node, self.path)
        number = len(layout.dimensions)
        if self.node.target in STACKS:
            place = dimension % (number + 1)
            before, behind = layout.dimensions[:place], layout.dimensions[place:]
            return self._joined(Layout((*before, (Factor(len(parts)),), *behind)))
        if not layout.is_channels(dimension):
            raise mixes(self.node, self.path)
        size = sum(self.shape_of(part)[dimension] for part in parts)
        return self._joined(layout.with_dimension(dimension, (Factor(size),)))

    def _joined(self, after: Layout) -> Rearranged:
        node, layouts = self.node, [*self.layouts.items()]
        target: Any = functions.JOIN_FUNCTIONS.get(node.target, node.target)

        def apply(*rows: Tensor) -> Tensor:
            values = {source: layout.of(own) for (source, layout), own in zip(layouts, rows, strict=True)}
            args: Any = fx.node.map_arg(node.args, values.__getitem__)
            kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
            return after.rows(target(*args, **kwargs), rows[0])

        rule = Join(apply) if len(layouts) > 1 else Pointwise(apply)
        return Rearranged(after, rule)

    def _split(self, layout: Layout) -> Rearranged:
        """A tuple of parts, which has no value itself."""
        names = ("dim",) if self.node.target in _UNBINDS else ("sizes", "dim")
        dimension = named_arguments(self.node, *names).get("dim", 0)
        if not isinstance(dimension, int) or not layout.is_channels(dimension):
            raise mixes(self.node, self.path)
        return Rearranged(layout, None)

    def _part(self, layout: Layout) -> Rearranged:
        source: Any = self.node.args[0]
        index: Any = self.node.args[1]
        if source.target in functions.SPLITS and source.op != "call_module":
            names = ("dim",) if source.target in _UNBINDS else ("sizes", "dim")
            dimension: int = named_arguments(source, *names).get("dim", 0)
            split = functions.called(source, [])
            shape = self.shape_of(self.node)
            new = [] if source.target in _UNBINDS else [(Factor(shape[dimension]),)]
            after = layout.with_dimension(dimension, *new)
            return Rearranged(after, Pointwise(lambda rows: after.rows(split(layout.of(rows))[index], rows)))
        whole = self.shape_of(source)
        for place, size in enumerate(whole):
            if layout.is_channels(place):
                layout = layout.with_dimension(place, *self._with_sizes(layout, place, size))
        after = indexed(self.node, self.path, layout, index)
        return Rearranged(after, Pointwise(lambda rows: after.rows(layout.of(rows)[index], rows)))

    @staticmethod
    def _with_sizes(layout: Layout, place: int, size: int) -> list[tuple[Factor, ...]]:
        """A dimension of channels as one factor of known size, unless it has none."""
        return [(Factor(size),)] if layout.dimensions[place] else [()]

    def _elementwise(self, layout: Layout) -> Rearranged:
        """A function of each number, with constants."""
        node = self.node
        read = [source for source in node.all_input_nodes if source in self.constants]
        call = functions.called(node, read)
        after = layout
        for source in read:
            value = self.constants[source]
            if isinstance(value, Vector):
                shape: Sequence[int] = self.shape_of(source)
                value.check = lambda tensor: check_constant(
                    node, self.path, layout, self._without_batch(tensor, layout)
                )
                shape = self._without_batch(torch.empty(tuple(shape), device="meta"), layout)
            elif isinstance(value, Tensor):
                shape = value.shape
            else:
                raise mixes(node, self.path)
            after = check_constant(node, self.path, after, shape)
        return Rearranged(after, Pointwise(lambda rows, *own: after.rows(call(layout.of(rows), *own), rows)), read)

    @staticmethod
    def _without_batch(value: Tensor, layout: Layout) -> tuple[int, ...]:
        """The shape of a vector, with 1 for its images, which are those of the map."""
        shape = list(value.shape)
        place = layout.dimensions.index(("batch",)) - len(layout.dimensions) if ("batch",) in layout.dimensions else 0
        if place and len(shape) >= -place:
            shape[place] = 1
        return tuple(shape)

    def _module(self, layout: Layout) -> Rearranged:
        layer, node = self.layer, self.node
        if len(self.layouts) > 1 or len(node.args) != 1 or node.kwargs:
            raise mixes(node, self.path)
        if isinstance(layer, nn.Flatten | nn.Unflatten):
            found = self._reshaped(layout)
            if any("rows" in one and any(isinstance(atom, Factor) for atom in one) for one in found.layout.dimensions):
                modules.module_rule(layer, self.path)  # raises
            return found
        if modules.computes_as(layer, nn.Linear) or modules.computes_as(layer, nn.LayerNorm):
            return self._on_last(layout, (), {})
        kinds = [kind for kind in modules.POINTWISE_MODULES if kind is not nn.PReLU]
        drops = modules.computes_as(layer, nn.Dropout) or is_stochastic_depth(layer)
        if drops or any(modules.computes_as(layer, kind) for kind in kinds):
            return Rearranged(layout, modules.module_rule(layer, self.path))
        raise mixes(node, self.path, type(layer).__name__)

    def _on_last(self, layout: Layout, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Rearranged:
        """A linear layer, or a normalization, of the last dimension."""
        layer, node = self.layer, self.node
        linear = node.target is functional.linear or isinstance(layer, nn.Linear)
        if not layout.is_channels(-1):
            raise mixes(node, self.path, None if layer is None else type(layer).__name__)
        after = layout.with_dimension(-1, (Factor(self.shape_of(node)[-1]),)) if linear else layout
        if layer is not None:
            if not linear and len(layer.normalized_shape) != 1:
                raise mixes(node, self.path)
            shape, epsilon = getattr(layer, "normalized_shape", None), getattr(layer, "eps", 1e-5)
            own: list[Any] = []
        else:
            names = ("weight", "bias") if linear else ("normalized_shape", "weight", "bias", "eps")
            given = dict(zip(names, args, strict=False)) | dict(kwargs)
            shape, epsilon = given.get("normalized_shape"), given.get("eps", 1e-5)
            own = [given.get("weight"), given.get("bias")]
            if not linear and (not isinstance(shape, list | tuple) or len(shape) != 1):
                raise mixes(node, self.path)

        def apply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            value = layout.of(rows)
            if linear:
                return after.rows(functional.linear(value, weight, bias), rows)
            return after.rows(functional.layer_norm(value, shape, weight, bias, epsilon), rows)  # type: ignore[arg-type]

        return Rearranged(after, Pointwise(apply), own)
