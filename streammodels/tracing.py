"""From a module to a `Network`: `torch.fx` writes the module down, and every operation gets its rule or is refused.

The list of operations is walked once. Operations that read the image or what follows from it are streamed; those that
read parameters only are constants; those behind a global pool are the tail.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from . import layers
from .aliasing import read_after_writing, writes_in_place
from .errors import UnsupportedLayerError
from .network import Network, Node, Tensors, fold_batch_norms, no_tensors
from .reductions import GlobalAverage, Reduction
from .rules import Join, Pointwise, Rule


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
    """Leaves are torch's own layers, subclasses of them that compute the same, and our own modules that stream."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See `_Proxy`."""
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if getattr(m, "streams_pointwise", False) or getattr(m, "streams_reduction", False):
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
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or writes_in_place(module, node))
    return _Builder(module, graph).build()


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
        reader = read_after_writing(self.module, node, self.index)
        if reader is not None:
            reason = f"it changes in place a value that '{self._path(reader)}' reads afterwards"
            raise UnsupportedLayerError(path, reason, "Use inplace=False, or the operator without '='.")
        rule, inputs, tensors, kind = self._rule(node, path)
        self.index[node] = len(self.nodes)
        self.nodes.append(Node(path, kind, inputs, rule, tensors, self._differs_by_column(node)))

    def _rule(self, node: fx.Node, path: str) -> tuple[Rule, tuple[int, ...], Tensors, str]:
        streamed = tuple(self.index[source] for source in node.all_input_nodes if source in self.index)
        if node.op == "call_module":
            layer = self.module.get_submodule(str(node.target))
            self._one_input(node, path)
            if getattr(layer, "streams_pointwise", False):
                own: Any = layer
                return Pointwise(own.compute), streamed, own.tensors, type(layer).__name__
            if getattr(layer, "streams_reduction", False):
                pool: Any = layer
                return pool.reduction(), streamed, pool.tensors, type(layer).__name__
            return layers.module_rule(layer, path), streamed, layer_tensors(layer), type(layer).__name__
        kind = str(getattr(node.target, "__name__", node.target))
        joined = node.target in layers.JOIN_FUNCTIONS
        if node.target in layers.CONCATENATIONS:
            rule, inputs = self._concatenation(node, path)
            return rule, inputs, no_tensors, kind
        if joined and self._has_two_maps(node):
            return self._join(node, path), self._indices(node.args), no_tensors, kind
        if joined or node.target in layers.POINTWISE_FUNCTIONS or node.target in layers.POINTWISE_METHODS:
            return self._pointwise_call(node, path), streamed, self._constant_tensors(node), kind
        return self._other_function(node, path), streamed, no_tensors, kind

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

    def _differs_by_column(self, node: fx.Node) -> bool:
        """Whether a constant that the node reads has a value for every column."""
        values = [self.constants[source]() for source in node.all_input_nodes if source in self.constants]
        return any(isinstance(value, Tensor) and value.ndim > 0 and value.shape[-1] != 1 for value in values)

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
        nodes, moved = fold_batch_norms(self.nodes, set(boundary))
        streamed = (*self.index,)
        return Network(nodes, tuple(moved[i] for i in boundary), tail, tuple(names), streamed)


def _number(value: Any, rows: Tensor) -> Tensor:
    """A number as torch takes it in arithmetic with `rows`: as exact as Python's, without raising their precision."""
    kind = torch.promote_types(rows.dtype, torch.float64) if isinstance(value, float) else None
    return torch.tensor(value, dtype=kind)


def layer_tensors(layer: nn.Module) -> Tensors:
    """The tensors of a layer, in the order its rule takes them."""
    if isinstance(layer, nn.Conv2d):
        return lambda: [layer.weight, layer.bias]
    if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
        return lambda: [layer.running_mean, layer.running_var, layer.weight, layer.bias]
    if isinstance(layer, nn.PReLU):
        return lambda: [layer.weight]
    return no_tensors


def refuse_hooks(module: nn.Module) -> None:
    """Refuse modules whose hooks could change what the layers compute, since strips do not call them.

    Raises:
        UnsupportedLayerError: Naming the module that has the hook, or a forward of its own.
    """
    for name, layer in module.named_modules():
        path = name or type(module).__name__
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
