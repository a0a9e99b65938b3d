"""A module, traced and cut in two: the part that is streamed, and the small rest behind it.

`torch.fx` writes the module down as a list of operations. Everything from the image to the feature map, or to the
global pools, becomes a list of `Node`s, each with its rule (`layers.py`). What only depends on pooled vectors (flatten,
a linear classifier) is the *tail*: it runs once, in plain PyTorch.

A batch normalisation that follows a convolution is folded into it, under autograd:

    weight' = weight * gamma / sqrt(var + eps)        bias' = beta + (bias - mean) * gamma / sqrt(var + eps)

so the streamed pass computes with weight' and bias' only, and their gradients reach weight, gamma and beta by the chain
rule, outside the streamed pass.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from . import layers
from .errors import UnsupportedLayerError
from .rows import RowNode, Window
from .rules import Convolution, FrozenBatchNorm, GlobalAverage, Join, Pointwise, Reduction, Rule

Tensors = Callable[[], list[Tensor | None]]

_ALIASING = frozenset(
    {functional.dropout, functional.dropout2d, operator.pos, "contiguous", "float", "double", "half", "bfloat16"}
)
"""Operations whose result may be their input itself."""


def _no_tensors() -> list[Tensor | None]:
    return []


@dataclass(frozen=True)
class Node:
    """One operation of the streamed part.

    Attributes:
        path: Dotted path of the layer, or the name of the operation.
        kind: Short name of the layer, for tables and messages.
        inputs: Indices of the nodes it reads; empty for the image, which is node 0.
        rule: What it computes; None for the image.
        tensors: Returns the weights and statistics it computes with, connected to the parameters by autograd.
    """

    path: str
    kind: str
    inputs: tuple[int, ...]
    rule: Rule | None
    tensors: Tensors = _no_tensors

    @property
    def window(self) -> Window | None:
        """The vertical geometry, for a windowed node."""
        return getattr(self.rule, "window", None)

    @property
    def transparent(self) -> bool:
        """Whether the node is deterministic and pointwise, so that its input can hold its carry."""
        return isinstance(self.rule, Pointwise) and not self.rule.random

    def row_node(self, quantum: int = 1) -> RowNode:
        """What the plan has to know; see `RowNode` for `quantum`."""
        return RowNode(self.inputs, self.window, self.transparent, quantum)


@dataclass(frozen=True)
class Network:
    """A traced module.

    Attributes:
        nodes: The streamed part in topological order; node 0 is the image.
        boundary: Nodes whose result leaves the streamed part: feature maps (whole) or reductions.
        tail: The whole graph; with the streamed nodes given, it computes the rest. None if there is no rest.
        names: fx node of every streamed node, by index (None where a folded node has gone).
        boundary_names: fx nodes of `boundary`.
    """

    nodes: tuple[Node, ...]
    boundary: tuple[int, ...]
    tail: fx.GraphModule | None
    boundary_names: tuple[fx.Node, ...]
    streamed_names: tuple[fx.Node, ...] = field(default=())

    @property
    def has_random_nodes(self) -> bool:
        """Whether the streamed part draws random numbers strip by strip."""
        return any(isinstance(node.rule, Pointwise) and node.rule.random for node in self.nodes)

    def readers(self) -> list[list[int]]:
        """For every node the nodes that read it."""
        result: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for source in node.inputs:
                result[source].append(index)
        return result

    def row_nodes(self, batch: int, width: int, kernel_pixels: int) -> list[RowNode]:
        """What the plan has to know of every node.

        A layer that shrinks the image waits until it, and so the stage behind it, has `kernel_pixels` pixels to compute
        at once. The stages deep in a network have many weights for few pixels: at a strip or less at a time they would
        spend their time reading weights. What they wait for is carried, a bounded number of pixels.
        """
        strides = [1] * len(self.nodes)
        result = []
        for index, node in enumerate(self.nodes):
            own = node.window.stride if node.window else 1
            strides[index] = own * max((strides[source] for source in node.inputs), default=1)
            columns = batch * max(1, width // strides[index])
            result.append(node.row_node(-(-kernel_pixels // columns) if own > 1 else 1))
        return result

    def finish(self, values: Sequence[Tensor]) -> Tensor:
        """Run the tail on the values of the boundary nodes."""
        if self.tail is None:
            return values[0]
        known: dict[fx.Node, Any] = dict.fromkeys(self.streamed_names)
        known.update(zip(self.boundary_names, values, strict=True))
        result: Tensor = fx.Interpreter(self.tail).run(initial_env=known)
        return result


class _Proxy(fx.Proxy):
    """A traced value that remembers ``+=`` and its kin: torch.fx would write them down as ``+``."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """Leaves are torch's own layers, subclasses of them that compute the same, and our own pointwise modules."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See `_Proxy`."""
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if getattr(m, "streams_pointwise", False):
            return True
        own = type(m).__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)
        inherits = any(
            base.__module__.startswith("torch.nn.modules") and type(m).forward is getattr(base, "forward", None)
            for base in type(m).__mro__[1:]
            if base not in (nn.Module, nn.Sequential)
        )
        return own or (inherits and not isinstance(m, nn.Sequential))


def trace(module: nn.Module) -> Network:
    """Trace a module and give every operation of its streamed part a rule.

    Args:
        module: Maps one (B, C, H, W) tensor to one tensor. Its training flags are read now.

    Raises:
        UnsupportedLayerError: If a layer, or the module's control flow, cannot be streamed exactly.
    """
    if _Tracer().is_leaf_module(module, ""):  # a single layer: torch.fx would look inside
        module = nn.Sequential(module)
    try:
        graph = _Tracer().trace(module)
    except Exception as error:
        reason = f"torch.fx cannot write its forward down as a fixed list of operations ({error})"
        remedy = "Remove control flow that depends on the data, or stream only the part without it."
        raise UnsupportedLayerError(type(module).__name__, reason, remedy) from error
    # A result that nobody reads may go, unless it was written into a value that somebody reads.
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _writes_in_place(module, node))
    return _Builder(module, graph).build()


def _writes_in_place(module: nn.Module, node: fx.Node) -> bool:
    """Whether a node changes its first argument."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    marked = getattr(layer, "inplace", False) or node.kwargs.get("inplace", False)
    name = str(getattr(node.target, "__name__", node.target)) if node.op != "call_module" else ""
    named = name.endswith("_") and not name.endswith("__")  # torch's convention: clamp_, div_
    return bool(marked) or named or node.target in layers.MUTATING


class _Builder:
    """Walks the traced graph once and collects the nodes of the streamed part."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.module = module
        self.graph = graph
        self.nodes: list[Node] = []
        self.index: dict[fx.Node, int] = {}
        self.tail: list[fx.Node] = []
        self.constants: dict[fx.Node, Callable[[], Any]] = {}

    def build(self) -> Network:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr" or self._is_constant(node):
                self.constants[node] = self._constant(node)
            elif node.op == "output":
                return self._network(node)
            elif self._is_streamed(node):
                self._add(node)
            else:
                self.tail.append(node)
        raise AssertionError("a traced graph ends in an output")

    def _is_constant(self, node: fx.Node) -> bool:
        """Whether a node computes with parameters, buffers and numbers only."""
        plain = node.op in ("call_function", "call_method")
        return plain and all(source in self.constants for source in node.all_input_nodes)

    def _constant(self, node: fx.Node) -> Callable[[], Any]:
        """A function that computes the value of a constant node, connected to the parameters by autograd."""
        if node.op == "get_attr":
            return lambda: operator.attrgetter(str(node.target))(self.module)

        def compute() -> Any:
            arguments = fx.map_arg(node.args, lambda source: self.constants[source]())
            options = fx.map_arg(node.kwargs, lambda source: self.constants[source]())
            if isinstance(node.target, str):
                return getattr(arguments[0], node.target)(*arguments[1:], **options)
            return node.target(*arguments, **options)

        return compute

    def _placeholder(self, node: fx.Node) -> None:
        if self.index:
            if not node.users:
                return
            reason = f"the module takes several inputs: '{node.name}' besides the image"
            raise UnsupportedLayerError(type(self.module).__name__, reason, "Stream a module that takes one image.")
        self.index[node] = 0
        self.nodes.append(Node("image", "image", (), None))

    def _is_streamed(self, node: fx.Node) -> bool:
        """Whether a node reads the streamed part; refuses nodes that read it together with a pooled vector."""
        sources = [source for source in node.all_input_nodes if source in self.index]
        maps = [source for source in sources if not isinstance(self.nodes[self.index[source]].rule, Reduction)]
        if maps and (len(sources) > len(maps) or any(source in self.tail for source in node.all_input_nodes)):
            reason = "a global pool of the map acts on the map itself (as in squeeze-and-excitation)"
            raise UnsupportedLayerError(self._path(node), reason, "Use a network without it, e.g. ResNet or RegNetX.")
        return bool(maps)

    def _path(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return str(node.target)
        stack = node.meta.get("nn_module_stack") or {}
        inside = [path for path, _ in stack.values() if path] if stack else []
        return f"{inside[-1]}.{node.name}" if inside else node.name

    def _add(self, node: fx.Node) -> None:
        path = self._path(node)
        self._check_mutation(node, path)
        rule, inputs, tensors, kind = self._rule(node, path)
        self.index[node] = len(self.nodes)
        self.nodes.append(Node(path, kind, inputs, rule, tensors))

    def _rule(self, node: fx.Node, path: str) -> tuple[Rule, tuple[int, ...], Tensors, str]:
        streamed = tuple(self.index[source] for source in node.all_input_nodes if source in self.index)
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            self._one_input(node, path)
            if getattr(layer, "streams_pointwise", False):
                own: Any = layer
                return Pointwise(own.compute), streamed, own.tensors, type(layer).__name__
            return layers.module_rule(layer, path), streamed, _layer_tensors(layer), type(layer).__name__
        kind = str(getattr(node.target, "__name__", node.target))
        joined = node.target in layers.JOIN_FUNCTIONS
        if node.target in layers.CONCATENATIONS:
            rule, inputs = self._concatenation(node, path)
            return rule, inputs, _no_tensors, kind
        if joined and self._has_two_maps(node):
            return self._join(node, path), self._indices(node.args), _no_tensors, kind
        if joined or node.target in layers.POINTWISE_FUNCTIONS or node.target in layers.POINTWISE_METHODS:
            return self._pointwise_call(node, path), streamed, self._constant_tensors(node), kind
        return self._other_function(node, path), streamed, _no_tensors, kind

    def _one_input(self, node: fx.Node, path: str) -> None:
        if len(node.args) != 1 or node.kwargs:
            raise UnsupportedLayerError(path, "the layer is called with more than its input", "Call it with one map.")

    def _indices(self, args: Sequence[Any]) -> tuple[int, ...]:
        return tuple(self.index[source] for source in args if isinstance(source, fx.Node))

    def _has_two_maps(self, node: fx.Node) -> bool:
        return len(node.args) >= 2 and all(isinstance(arg, fx.Node) and arg in self.index for arg in node.args[:2])

    def _join(self, node: fx.Node, path: str) -> Join:
        options = dict(node.kwargs)
        if len(node.args) > 2 or set(options) - {"alpha"} or any(isinstance(v, fx.Node) for v in options.values()):
            raise UnsupportedLayerError(path, "the operation has further arguments", "Use a plain sum or product.")
        function = layers.JOIN_FUNCTIONS[node.target]
        return Join((lambda a, b: function(a, b, **options)) if options else function)

    def _concatenation(self, node: fx.Node, path: str) -> tuple[Join, tuple[int, ...]]:
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        dimension = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if dimension not in (1, -3):
            raise UnsupportedLayerError(path, f"concatenation along dimension {dimension}", "Use channels, dim=1.")
        if not isinstance(parts, list | tuple) or not all(part in self.index for part in parts):
            raise UnsupportedLayerError(path, "something besides feature maps is concatenated", "Concatenate maps.")
        return Join(lambda *rows: torch.cat(rows, dim=1)), self._indices(parts)

    def _constant_tensors(self, node: fx.Node) -> Tensors:
        values = [self.constants[source] for source in node.all_input_nodes if source in self.constants]
        return lambda: [value() for value in values]

    def _pointwise_call(self, node: fx.Node, path: str) -> Pointwise:
        """A function or method of one map and numbers, or per-channel constants."""
        if any(isinstance(value, fx.Node) and value not in self.constants for value in node.kwargs.values()):
            raise UnsupportedLayerError(path, "a map is passed as a keyword", "Pass the map as the first argument.")
        if sum(source not in self.constants for source in node.all_input_nodes) > 1:
            raise UnsupportedLayerError(
                path, "it reads several maps", "Use torch.maximum or torch.minimum of two maps."
            )
        constants = [source for source in node.all_input_nodes if source in self.constants]
        for constant in constants:
            value = self.constants[constant]()
            if not isinstance(value, Tensor):
                reason = f"'{constant.name}' is computed from a parameter, but is no tensor"
                raise UnsupportedLayerError(path, reason, "Compute the number in __init__.")
            shape = value.shape
            if len(shape) >= 2 and shape[-2] != 1:
                reason = f"'{constant.name}' of shape {tuple(shape)} differs from row to row"
                raise UnsupportedLayerError(path, reason, "Use one value for a channel: shape (C, 1, 1).")
        target, arguments, options = node.target, node.args, dict(node.kwargs)
        options.pop("inplace", None)

        def apply(rows: Tensor, *tensors: Tensor) -> Tensor:
            known = dict(zip(constants, tensors, strict=True))
            values = [known.get(a, rows) if isinstance(a, fx.Node) else a for a in arguments]
            further = {k: known[v] if isinstance(v, fx.Node) else v for k, v in options.items()}
            if isinstance(target, str) and target not in layers.JOIN_FUNCTIONS:
                result: Tensor = getattr(values[0], target.removesuffix("_"))(*values[1:], **further)
                return result
            function: Any = layers.JOIN_FUNCTIONS.get(target, target)
            if function in (functional.relu_, torch.relu_):
                function = functional.relu
            if function in layers.JOIN_FUNCTIONS.values():  # torch.add and its kin take a number only as the second
                values = [v if isinstance(v, Tensor) else _number(v, rows) for v in values]
            computed: Tensor = function(*values, **further)
            return computed

        in_place = functional.relu_ if target in (functional.relu, functional.relu_, torch.relu, torch.relu_) else None
        return Pointwise(apply, in_place)

    def _other_function(self, node: fx.Node, path: str) -> Rule:
        """Pools, dropout and means in their functional spelling."""
        arguments: list[Any] = list(node.args[1:])
        options: dict[str, Any] = dict(node.kwargs)
        target = node.target
        if target is functional.max_pool2d:
            return layers.max_pool(path, *arguments, **options)
        if target is functional.avg_pool2d:
            return layers.average_pool(*arguments, **options)
        if target in (functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d):
            size = arguments[0] if arguments else options["output_size"]
            return layers.global_pool(path, size, target is functional.adaptive_max_pool2d)
        if target in (functional.dropout, functional.dropout2d):
            names = ("p", "training", "inplace")
            given: dict[str, Any] = dict(zip(names, arguments, strict=False)) | options
            channels = target is functional.dropout2d
            return layers.dropout(channels, given.get("p", 0.5), given.get("training", True))
        if target in (torch.mean, "mean"):
            given = dict(zip(("dim", "keepdim"), arguments, strict=False)) | options
            dimensions = given.get("dim")
            over_space = isinstance(dimensions, list | tuple) and {d % 4 for d in dimensions} == {2, 3}
            if over_space and not set(given) - {"dim", "keepdim", "input"}:
                return GlobalAverage(bool(given.get("keepdim", False)))
        name = str(getattr(target, "__name__", target))
        reason = f"'{name}' is not known to work row by row"
        remedy = "Use the torch.nn layer or a plain operator for it, or stream the part of the network before it."
        raise UnsupportedLayerError(path, reason, remedy)

    def _check_mutation(self, node: fx.Node, path: str) -> None:
        """Refuse an in-place operation on a value that is read again later: strips would not see the change."""
        if not _writes_in_place(self.module, node) or not isinstance(node.args[0], fx.Node):
            return
        aliases = self._aliases(node.args[0], node)
        for value in aliases:
            later = [u for u in value.users if u is not node and u not in self.index and u not in aliases]
            if later:
                reason = f"it changes in place a value that '{self._path(later[0])}' reads afterwards"
                raise UnsupportedLayerError(path, reason, "Use inplace=False, or the operator without '='.")

    def _aliases(self, value: fx.Node, writer: fx.Node) -> set[fx.Node]:
        """Values that share memory with `value`, other than through `writer`: identities, idle dropouts, views."""
        while self._passes_through(value):
            value = value.all_input_nodes[0]
        found, stack = {value}, [value]
        while stack:
            current = stack.pop()
            passing = {
                u for u in current.users if u is not writer and u.args[:1] == (current,) and self._passes_through(u)
            }
            stack += passing - found
            found |= passing
        return found

    def _passes_through(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            idle = isinstance(layer, nn.modules.dropout._DropoutNd) and not layer.training
            return isinstance(layer, nn.Identity) or idle or bool(getattr(layer, "inplace", False))
        return node.target in layers.MUTATING or node.target in _ALIASING

    def _network(self, output: fx.Node) -> Network:
        result = output.args[0]
        if not isinstance(result, fx.Node):
            reason = "the module returns nothing" if result is None else "the module returns several values"
            raise UnsupportedLayerError(type(self.module).__name__, reason, "Return one tensor.")
        readers = {*self.tail, output}
        names = [node for node in self.index if any(user in readers for user in node.users)]
        has_tail = bool(self.tail) or result not in self.index
        tail = fx.GraphModule(self.module, self.graph) if has_tail else None
        boundary = tuple(self.index[name] for name in names)
        nodes, moved = _fold(self.nodes, set(boundary))
        streamed = (*self.index,)
        return Network(nodes, tuple(moved[i] for i in boundary), tail, tuple(names), streamed)


def _number(value: Any, rows: Tensor) -> Tensor:
    """A number as torch takes it in arithmetic with `rows`: as exact as Python's, without raising their precision."""
    kind = torch.promote_types(rows.dtype, torch.float64) if isinstance(value, float) else None
    return torch.tensor(value, dtype=kind)


def _layer_tensors(layer: nn.Module) -> Tensors:
    """The tensors of a layer, in the order its rule takes them."""
    if isinstance(layer, nn.Conv2d):
        return lambda: [layer.weight, layer.bias]
    if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
        return lambda: [layer.running_mean, layer.running_var, layer.weight, layer.bias]
    if isinstance(layer, nn.PReLU):
        return lambda: [layer.weight]
    return _no_tensors


def _fold(nodes: list[Node], boundary: set[int]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """Fold each batch normalisation into the convolution before it; returns the nodes and where old ones went."""
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for source in node.inputs:
            readers.setdefault(source, []).append(index)
    folded: list[Node] = []
    moved: dict[int, int] = {}
    for index, node in enumerate(nodes):
        convolution = nodes[node.inputs[0]] if node.inputs else None
        alone = bool(node.inputs) and readers[node.inputs[0]] == [index] and node.inputs[0] not in boundary
        foldable = convolution is not None and isinstance(convolution.rule, Convolution) and alone
        if isinstance(node.rule, FrozenBatchNorm) and foldable:
            moved[index] = moved[node.inputs[0]]
            merged = folded[moved[index]]
            tensors = _folded_tensors(merged.tensors, node.tensors, node.rule.epsilon)
            folded[moved[index]] = replace(merged, tensors=tensors)
            continue
        moved[index] = len(folded)
        folded.append(replace(node, inputs=tuple(moved[i] for i in node.inputs)))
    return tuple(folded), moved


def _folded_tensors(convolution: Tensors, norm: Tensors, epsilon: float) -> Tensors:
    """Weight and bias of a convolution with the frozen batch normalisation behind it multiplied in."""

    def tensors() -> list[Tensor | None]:
        weight, bias = convolution()
        mean, variance, gamma, beta = norm()
        assert weight is not None
        assert mean is not None
        assert variance is not None
        scale = torch.rsqrt(variance + epsilon)
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if bias is None else (bias - mean) * scale
        return [weight * scale[:, None, None, None], shift if beta is None else shift + beta]

    return tensors


def streamed_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every sub-module with its path; the module itself is named by its class."""
    for path, layer in module.named_modules():
        yield path or type(module).__name__, layer


def refuse_hooks(module: nn.Module) -> None:
    """Refuse modules whose hooks could change what the layers compute, since strips do not call them.

    Raises:
        UnsupportedLayerError: Naming the module that has the hook, or a forward of its own.
    """
    for path, layer in streamed_modules(module):
        if "forward" in vars(layer):
            reason = "its forward was replaced on the object, which strips would not see"
            raise UnsupportedLayerError(path, reason, "Write a subclass with that forward.")
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            reason = "it has a hook, which would be called for no strip"
            raise UnsupportedLayerError(
                path,
                reason,
                "Remove the hook (for weight_norm use parametrizations; Lightning's example_input_array sets one).",
            )
