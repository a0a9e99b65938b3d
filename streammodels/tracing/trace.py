"""Tracing of a module into a `Network`, whose operations each have a rule.

The recorded graph is walked once. Operations on the image, and on maps computed from it, are streamed; those behind a
global pool are the tail. An operation without a rule raises `UnsupportedLayerError`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from streammodels.core.network import Network, Node, Tensors
from streammodels.core.operations import Join, Pointwise, Rule
from streammodels.core.reductions import Reduction
from streammodels.core.resampling import AdaptivePool
from streammodels.core.statistics.norms import normalize
from streammodels.core.statistics.vectors import Vector, VectorFlow
from streammodels.errors import GLOBAL_STATISTICS, UnsupportedLayerError
from streammodels.tracing import channels_last, functions, modules
from streammodels.tracing.fold_batch_norm import fold_batch_norms
from streammodels.tracing.fx_graph import Arguments, Recording, is_leaf, trace_graph
from streammodels.tracing.inplace import read_after_writing, writes_in_place
from streammodels.tracing.layouts.layout import Layout, has_own_layout
from streammodels.tracing.layouts.rearrangement import Rearrangement
from streammodels.tracing.statistics import norms, pools


def trace(module: nn.Module, arguments: Arguments | None = None, global_statistics: bool = False) -> Network:
    """The network of a module.

    Args:
        module: Maps (B, C, H, W) tensors to tensors. Its training flags are read now.
        arguments: What it is called with; None for an image for each argument that it requires.
        global_statistics: Whether operations on a map may read vectors computed from whole maps. The network then has
            to be cut, see `stages`.

    Raises:
        UnsupportedLayerError: If a layer, or the module's control flow, cannot be streamed exactly.
    """
    if is_leaf(module):  # a single layer, which torch.fx would look inside
        try:
            return trace(_OneLayer(module), arguments, global_statistics)
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(type(module).__name__, error.reason, error.remedy) from error
    recording = trace_graph(module, arguments)
    # A result that is not read may go, unless it was written into a value that is.
    recording.graph.eliminate_dead_code(
        lambda node: node.op in ("placeholder", "output") or writes_in_place(recording.layers, node)
    )
    return _Builder(module, recording, global_statistics).build()


class _OneLayer(nn.Sequential):
    """A single layer as a module of it, which takes what the layer takes."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the layer."""
        return self[0](*args, **kwargs)


_FLATTENING: frozenset[Any] = frozenset({torch.flatten, "flatten", torch.reshape, "reshape", "view"})


class _Builder:
    """A walk over the traced graph that collects the nodes of the streamed part."""

    def __init__(self, module: nn.Module, recording: Recording, global_statistics: bool) -> None:
        self.module = module
        self.global_statistics = global_statistics
        self.graph = recording.graph
        self.tensors = recording.tensors
        self.layers = recording.layers
        self.form = recording.form
        self.depends_on_size = recording.depends_on_size
        self.nodes: list[Node] = []
        self.index: dict[fx.Node, int] = {}  # of maps
        self.reduced: dict[fx.Node, int] = {}  # of reductions
        self.vectors: dict[int, tuple[Vector, ...]] = {}  # by the node that reads them
        self.tail: list[fx.Node] = []
        self.constants: dict[fx.Node, Any] = {}
        self.last: dict[fx.Node, bool] = {}  # whether the channels of a value are last
        self.layouts: dict[fx.Node, Layout] = {}  # of values that have neither (B, C, H, W) nor (B, H, W, C)
        self.recording = recording

    def build(self) -> Network:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self.constants[node] = self._named(str(node.target))
            elif node.op == "output":
                return self._network(node)
            elif self._is_streamed(node):
                self._add(node)
            else:
                self.tail.append(node)
        raise AssertionError("a traced graph ends in an output")

    def _named(self, target: str) -> Any:
        """The tensor, or else the layer, that a node reads by name."""
        return self.tensors[target] if target in self.tensors else self.layers[target]

    def _placeholder(self, node: fx.Node) -> None:
        self.index[node] = len(self.nodes)
        self.last[node] = False
        self.nodes.append(Node(str(node.target), "labels" if self.nodes else "image", (), None))

    def _is_streamed(self, node: fx.Node) -> bool:
        """Whether a node reads maps of the streamed part; raises if it also reads a pooled vector."""
        maps = [source for source in node.all_input_nodes if source in self.index]
        if len(maps) == 1 and self._flattens(node, self.nodes[self.index[maps[0]]].rule):
            return False
        vectors = [source for source in node.all_input_nodes if source in self.reduced or source in self.tail]
        if maps and vectors and not self.global_statistics:
            raise self._pooled_map(node)
        for source in vectors if maps else ():
            self.constants[source] = Vector(pools.repeated(source)[0], self._path(node), self.last.get(maps[0], False))
        return bool(maps)

    def _flattens(self, node: fx.Node, rule: Rule | None) -> bool:
        """Whether a node makes a vector of a map of fixed size, as the classifiers of AlexNet and VGG do."""
        flattens = isinstance(self._layer(node), nn.Flatten) if node.op == "call_module" else node.target in _FLATTENING
        return flattens and isinstance(rule, AdaptivePool)

    def _pooled_map(self, node: fx.Node) -> UnsupportedLayerError:
        """The error for squeeze-and-excitation and the like, with the name of the module."""
        stack = [(path, kind) for path, kind in (node.meta.get("nn_module_stack") or {}).values() if path]
        path, kind = stack[-1] if stack else (node.name, functions.name_of(node))
        name = getattr(kind, "__name__", str(kind))
        reason = (
            f"'{name}' applies a global pool of the map to that same map (squeeze-and-excitation, as in EfficientNet, "
            "MobileNetV3, RegNetY and SENet), so its first row needs the last row of the image"
        )
        remedy = (
            f"{GLOBAL_STATISTICS}, use a network without it (ResNet, ResNeXt, RegNetX, DenseNet, VGG, ConvNeXt), or "
            "stream the layers in front of it."
        )
        return UnsupportedLayerError(path, reason, remedy)

    def _path(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return str(node.target)
        stack = node.meta.get("nn_module_stack") or {}
        inside = [path for path, _ in stack.values() if path] if stack else []
        name = str(node.args[1]) if node.target is getattr else node.name
        return f"{inside[-1]}.{name}" if inside else name

    def _add(self, node: fx.Node) -> None:
        path = self._path(node)
        reader = read_after_writing(self.layers, node, self.index.keys() | self.reduced.keys())
        if reader is not None:
            reason = f"it changes in place a value that '{self._path(reader)}' reads afterwards"
            raise UnsupportedLayerError(path, reason, "Use inplace=False, or the operator without '='.")
        self._check_writes(node, path)
        if self._has_layout(node):
            self._rearrange(node, path)
            return
        last = self._channels_last(node, path)
        if node.target in functions.SPLITS:
            functions.check_split(node, path, last)
            self.index[node] = self.index[node.all_input_nodes[0]]  # it has no value itself, its parts are nodes
            self.last[node] = last
            return
        permuted = channels_last.layout_after(node, last, path)
        self.last[node] = last if permuted is None else permuted
        kind = type(self._layer(node)).__name__ if node.op == "call_module" else functions.name_of(node)
        inputs = tuple(self.index[source] for source in node.all_input_nodes if source in self.index)
        if permuted is not None:
            self._append(node, Node(path, kind, inputs, Pointwise(lambda rows: rows)))
        elif node.op == "call_module":
            self._append(node, self._module(node, path, last, Node(path, kind, inputs, None)))
        else:
            self._append(node, self._function(node, path, last, Node(path, kind, inputs, None)))

    def _has_layout(self, node: fx.Node) -> bool:
        """Whether an operation reads or makes a value with a layout of its own."""
        if node.op == "call_module" and not self.layouts:
            return isinstance(self._layer(node), nn.Flatten | nn.Unflatten)
        maps = [source for source in node.all_input_nodes if source in self.index]
        if any(source in self.layouts for source in maps):
            return True
        if node.op == "call_module":
            return isinstance(self._layer(node), nn.Flatten | nn.Unflatten)
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and source.target in (torch.unbind, "unbind"):
            return True
        return has_own_layout(node, self.last[maps[0]])

    def _rearrange(self, node: fx.Node, path: str) -> None:
        """Add such an operation."""
        maps = [source for source in node.all_input_nodes if source in self.index]
        layouts = {one: self.layouts.get(one) or Layout.plain(self.last[one]) for one in maps}
        layer = self._layer(node) if node.op == "call_module" else None
        found = Rearrangement(
            node, path, layouts, self.constants, layer, self._shape_of, lambda: self._extent(maps[0])
        ).translated()
        plain = found.layout.last
        self.last[node] = bool(plain)
        if plain is None or found.rule is None:
            self.layouts[node] = found.layout
        if found.rule is None:  # a tuple, whose parts are nodes
            self.index[node] = self.index[maps[0]]
            return
        kind = functions.name_of(node) if layer is None else type(layer).__name__
        inputs = tuple(self.index[one] for one in maps)
        tensors: Tensors = list
        if layer is not None:
            tensors = partial(_own_tensors, layer)
        elif isinstance(found.rule, Pointwise) and found.constants:
            tensors = self._tensors_of(found.constants, path)
        self._append(node, Node(path, kind, inputs, found.rule, tensors))

    def _shape_of(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a value, for images of the size that the module is called with."""
        self.depends_on_size = True
        return self.recording.shape_of(node)

    def _extent(self, node: fx.Node) -> tuple[int, int, int]:
        """The number of images, rows and columns of a map."""
        while node in self.layouts:
            node = next(source for source in node.all_input_nodes if source in self.index)
        batch, *sizes = self._shape_of(node)
        return (batch, sizes[0], sizes[1]) if self.last[node] else (batch, sizes[1], sizes[2])

    def _tensors_of(self, nodes: Sequence[Any], path: str) -> Tensors:
        """The values of constant nodes, vectors among them; None for None."""
        if any(node is not None and node not in self.constants for node in nodes):
            raise UnsupportedLayerError(path, "its weight or bias is computed from a map", "Use parameters.")
        values = [None if node is None else self.constants[node] for node in nodes]
        return lambda: [value.get() if isinstance(value, Vector) else value for value in values]

    def _check_writes(self, node: fx.Node, path: str) -> None:
        """Check that an operation on a map does not change another tensor."""
        written = node.kwargs.get("out")
        if written is None and writes_in_place(self.layers, node) and node.args:
            written = node.args[0] if node.args[0] in self.constants else None
        if written is not None:
            reason = "it writes into a tensor that was there before, for which strips would be added one by one"
            raise UnsupportedLayerError(path, reason, "Compute a new map: a + b in place of a.add_(b) or out=a.")

    def _append(self, node: fx.Node, operation: Node) -> None:
        reduces = isinstance(operation.rule, Reduction)
        (self.reduced if reduces else self.index)[node] = index = len(self.nodes)
        constants = (self.constants.get(source) for source in node.all_input_nodes)
        vectors = tuple(value for value in constants if isinstance(value, Vector))
        if vectors:
            self.vectors[index] = vectors
        self.nodes.append(replace(operation, differs_by_column=True) if self._differs_by_column(node) else operation)

    def _layer(self, node: fx.Node) -> nn.Module:
        return self.layers[str(node.target)]

    def _channels_last(self, node: fx.Node, path: str) -> bool:
        """Whether the channels are last in the maps that a node reads."""
        layouts = {self.last.get(source, False) for source in node.all_input_nodes if source in self.index}
        if len(layouts) > 1:
            reason = "a map whose channels come last meets one whose channels come first"
            raise UnsupportedLayerError(path, reason, "Permute one of them in front of it.")
        return layouts.pop()

    def _module(self, node: fx.Node, path: str, last: bool, plain: Node) -> Node:
        """The node of a leaf module."""
        layer: Any = self._layer(node)
        pooled = getattr(layer, "streams_reduction", False) and len(node.args) == len(plain.inputs)
        if pooled and not node.kwargs and not last:
            try:
                rule = layer.reduction_of(len(node.args))
            except TypeError as error:
                raise UnsupportedLayerError(path, str(error), "Call it with the maps that it takes.") from error
            return replace(plain, rule=rule, inputs=self._indices(node.args), tensors=layer.tensors)
        self._one_input(node, path)
        if self.global_statistics and not last:
            norm = norms.module_norm(layer, path)
            if norm is not None:
                return self._normalized(plain, norm)
        if last:
            return replace(plain, rule=channels_last.module_rule(layer, path), tensors=layer_tensors(layer))
        if getattr(layer, "streams_pointwise", False):
            return replace(plain, rule=Pointwise(layer.compute), tensors=layer.tensors)
        return replace(plain, rule=modules.module_rule(layer, path), tensors=layer_tensors(layer))

    def _function(self, node: fx.Node, path: str, last: bool, plain: Node) -> Node:
        """The node of a function, a method or an operator."""
        joined = node.target in functions.JOIN_FUNCTIONS
        norm = None if last else norms.function_norm(node, path, self.constants, self._named_tensors)
        if norm is not None and self.global_statistics:
            return self._normalized(plain, norm)
        if norm is not None and node.target is not functional.batch_norm:  # which knows another remedy
            reason = f"'{functions.name_of(node)}' takes its statistics over rows that are not there yet"
            raise UnsupportedLayerError(path, reason, f"{GLOBAL_STATISTICS}, or use batch_norm in eval mode.")
        if node.target in functions.CONCATENATIONS:
            rule, inputs = self._concatenation(node, path, last)
            return replace(plain, rule=rule, inputs=inputs)
        if joined and self._has_two_maps(node):
            return replace(plain, rule=self._join(node, path), inputs=self._indices(node.args))
        if node.target is functional.layer_norm:
            normalize, own = channels_last.layer_norm(node, path, last)
            return replace(plain, rule=normalize, tensors=self._named_tensors(own, path))
        if node.target is functional.batch_norm and not last:
            frozen, statistics = functions.batch_norm(node, path)
            return replace(plain, rule=frozen, tensors=self._named_tensors(statistics, path))
        if node.target in functions.CONVOLUTIONS and not last:
            convolution, weights = functions.convolution(node, path, self.constants)
            return replace(plain, rule=convolution, tensors=self._named_tensors(weights, path))
        if joined or node.target in functions.POINTWISE_FUNCTIONS or node.target in functions.POINTWISE_METHODS:
            pointwise = functions.pointwise_call(node, path, self.constants, last)
            return replace(plain, rule=pointwise, tensors=self._constant_tensors(node))
        vector = self.constants.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if node.target == "expand_as" and isinstance(vector, Vector):
            expand = Pointwise(lambda rows, vector: vector.expand_as(rows))
            return replace(plain, rule=expand, tensors=self._constant_tensors(node))
        return replace(plain, rule=pools.reduction(node, last) or functions.function_rule(node, path, last))

    def _is_of_vectors(self, node: fx.Node) -> bool:
        """Whether an operation is one on vectors, or a constant that these read."""
        return node.op == "get_attr" or node in self.tail

    def _normalized(self, plain: Node, norm: norms.Norm) -> Node:
        """The node that normalizes a map, behind a further node for the statistics."""
        self.nodes.append(replace(plain, rule=norm.statistics, tensors=norm.tensors))
        vector = Vector(len(self.nodes) - 1, plain.path, packed=True)
        self.vectors[len(self.nodes)] = (vector,)
        rule = Pointwise(partial(normalize, is_long=norm.is_long))
        return replace(plain, rule=rule, tensors=lambda: [vector.get()])

    def _one_input(self, node: fx.Node, path: str) -> None:
        if len(node.args) != 1 or node.kwargs:
            given = len(node.args) + len(node.kwargs)
            reason = "the layer is called with more than its input" if given > 1 else "its input is passed as a keyword"
            remedy = "Call it with one map: layer(x)."
            if getattr(self._layer(node), "streams_reduction", False):
                remedy = "Pass targets and masks as streammodels.Labels(target), or with four dimensions, by position."
            raise UnsupportedLayerError(path, reason, remedy)

    def _indices(self, args: Sequence[Any]) -> tuple[int, ...]:
        sources = [source for source in args if isinstance(source, fx.Node)]
        maps = [source for source in sources if source in self.index]
        return tuple(self.index[one] if one in self.index else self._spread(one, maps[0]) for one in sources)

    def _spread(self, source: fx.Node, like: fx.Node) -> int:
        """A new node that repeats a vector over the rows and columns of a map."""
        vector, (_, channels) = self.constants[source], pools.repeated(source)
        rule, index = Pointwise(pools.spread(channels)), len(self.nodes)
        self.nodes.append(Node(source.name, "expand", (self.index[like],), rule, lambda: [vector.get()]))
        self.vectors[index] = (vector,)
        return index

    def _has_two_maps(self, node: fx.Node) -> bool:
        return len(node.args) >= 2 and all(isinstance(arg, fx.Node) and arg in self.index for arg in node.args[:2])

    def _join(self, node: fx.Node, path: str) -> Join:
        options = dict(node.kwargs)
        if len(node.args) > 2 or set(options) - {"alpha"} or any(isinstance(v, fx.Node) for v in options.values()):
            raise UnsupportedLayerError(path, "the operation has further arguments", "Use a plain sum or product.")
        function = functions.JOIN_FUNCTIONS[node.target]
        return Join((lambda a, b: function(a, b, **options)) if options else function)

    def _concatenation(self, node: fx.Node, path: str, last: bool) -> tuple[Join, tuple[int, ...]]:
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        dimension = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if not functions.is_channels(dimension, last):
            remedy = f"Concatenate channels, dim={3 if last else 1}."
            raise UnsupportedLayerError(path, f"concatenation along dimension {dimension}", remedy)
        if not isinstance(parts, list | tuple) or not all(map(self._is_map_or_vector, parts)):
            raise UnsupportedLayerError(path, "something besides feature maps is concatenated", "Concatenate maps.")
        return Join(lambda *rows: torch.cat(rows, dim=1)), self._indices(parts)

    def _is_map_or_vector(self, part: Any) -> bool:
        """Whether a part of a concatenation is a map, or a vector repeated over its pixels."""
        if part in self.index:
            return True
        return isinstance(self.constants.get(part), Vector) and pools.repeated(part)[0] is not part

    def _constant_tensors(self, node: fx.Node) -> Tensors:
        values = [self.constants[source] for source in node.all_input_nodes if source in self.constants]
        return lambda: [value.get() if isinstance(value, Vector) else value for value in values]

    def _named_tensors(self, nodes: Sequence[Any], path: str) -> Tensors:
        """The values of constant nodes; None for None."""
        found = [None if node is None else self.constants.get(node, ...) for node in nodes]
        if any(value is ... or isinstance(value, Vector) for value in found):
            raise UnsupportedLayerError(path, "its weight or bias is computed from a map", "Use parameters.")
        return lambda: [*found]

    def _differs_by_column(self, node: fx.Node) -> bool:
        """Whether a constant that the node reads has a value for every column."""
        values = [self.constants[source] for source in node.all_input_nodes if source in self.constants]
        axis = 2 if self.last[node] else 1
        return any(isinstance(v, Tensor) and v.ndim >= axis and v.shape[-axis] != 1 for v in values)

    def _network(self, output: fx.Node) -> Network:
        outputs = _as_tuple(output.args[0])
        readers = {*self.tail, output}
        values = self.index | self.reduced
        read = {vector.source for vectors in self.vectors.values() for vector in vectors}
        names = [node for node in values if node in read or any(user in readers for user in node.users)]
        if any(self.last[name] or name in self.layouts for name in names if name in self.index):
            reason = "its result is a map whose channels come last, or whose dimensions are split or flattened"
            raise UnsupportedLayerError(type(self.module).__name__, reason, "Permute it to (B, C, H, W).")
        has_tail = any(isinstance(leaf, fx.Node) and leaf not in values for leaf in outputs)
        tail = self._run_tail if has_tail else None
        boundary = tuple(values[name] for name in names)
        nodes, moved = fold_batch_norms(self.nodes, set(boundary))
        streamed = (*values,)
        return Network(
            nodes,
            tuple(moved[i] for i in boundary),
            tail,
            outputs,
            self.form,
            tuple(names),
            streamed,
            self.tensors,
            self._description(),
            self.depends_on_size,
            self._vector_flow(moved) if self.vectors else None,
        )

    def _vector_flow(self, moved: Mapping[int, int]) -> VectorFlow:
        """How nodes read vectors, in terms of the network's nodes; `moved` has the index of each."""
        read = {moved[index]: vectors for index, vectors in self.vectors.items()}
        for vector in (vector for vectors in read.values() for vector in vectors):
            vector.source = moved[vector.source] if isinstance(vector.source, int) else vector.source
        for position, node in enumerate(self.tail):
            reader = read_after_writing(self.layers, node, self.tail[:position])
            if reader is not None:  # which may belong in front of an earlier stage
                reason = f"it changes in place a vector that '{self._path(reader)}' reads afterwards"
                raise UnsupportedLayerError(self._path(node), reason, "Use inplace=False, or the operator without '='.")
        needed = {vector.source for vectors in read.values() for vector in vectors}
        for node in reversed(self.graph.nodes):  # without those that repeat a vector over the pixels of a map
            if node.op == "output" or (node in self.tail and (node in needed or writes_in_place(self.layers, node))):
                needed.update({node, *node.all_input_nodes})
        operations = tuple(node for node in self.graph.nodes if node in needed and self._is_of_vectors(node))
        reductions = {node: moved[index] for node, index in self.reduced.items()}
        return VectorFlow(read, reductions, operations, _Tail(self).run_one)

    def _run_tail(self, known: dict[fx.Node, Any]) -> Sequence[Any]:
        """What the module returns, in the order of the output node, given the values of the streamed part."""
        return _as_tuple(_Tail(self).run(initial_env=known))

    def _description(self) -> Hashable:
        """All that the shapes of the values depend on besides the rules."""
        tensors = (*self.module.parameters(), *self.module.buffers(), *self.tensors.values())
        shapes = [(getattr(tensor, "shape", None), tensor.dtype) for tensor in tensors]
        calls = [(node.op, str(node.target), repr(node.args), repr(node.kwargs)) for node in self.graph.nodes]
        return (tuple(calls), tuple(shapes))


def _as_tuple(returned: Any) -> tuple[Any, ...]:
    """What an output node returns: one value as it is, several as a tuple."""
    return tuple(returned) if isinstance(returned, tuple | list) else (returned,)


class _Tail(fx.Interpreter):
    """The operations of a graph whose values are not known."""

    def __init__(self, builder: _Builder) -> None:
        super().__init__(builder.module, graph=builder.graph)
        self.tensors = builder.tensors

    def run_one(self, known: dict[fx.Node, Any], node: fx.Node) -> None:
        """Add the value of a node to those that are known."""
        self.env = known
        known[node] = self.run_node(node)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The tensor, or else the layer, of that name."""
        return self.tensors[target] if target in self.tensors else super().get_attr(target, args, kwargs)


def _own_tensors(layer: Any) -> list[Tensor | None]:
    """The weight and bias of a linear layer or a normalization; nothing of other layers."""
    return [layer.weight, layer.bias] if isinstance(layer, nn.Linear | nn.LayerNorm) else []


def layer_tensors(layer: nn.Module) -> Tensors:
    """The tensors of a layer, in the order its rule takes them."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return lambda: [layer.weight, layer.bias]
    if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm | nn.InstanceNorm2d):
        return lambda: [layer.running_mean, layer.running_var, layer.weight, layer.bias]
    if isinstance(layer, nn.PReLU):
        return lambda: [layer.weight]
    if isinstance(layer, nn.LayerNorm):
        return lambda: [layer.weight, layer.bias]
    if isinstance(layer, nn.Linear):
        return lambda: [layer.weight[:, :, None, None], layer.bias]
    return list
