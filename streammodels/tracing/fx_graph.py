"""Graph of a module's forward in terms of `torch.fx`, which changes neither torch nor the module.

The forward runs on a placeholder for the image. Operations on it, and on what is computed from it, are recorded;
everything else, such as control flow and arithmetic of parameters, is computed as the plain module would.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from streammodels.core.row_plan import Pair
from streammodels.errors import UnsupportedLayerError
from streammodels.tracing.recording.forwards import handled_calls
from streammodels.tracing.recording.introspection import asked_at, questioned_names
from streammodels.tracing.recording.side_effects import no_side_effects
from streammodels.tracing.recording.sizes import SIZES, TYPES, FakeValues, guessed_shape, own_side
from streammodels.tracing.recording.substitutes import substituted


@dataclass(frozen=True)
class Recording:
    """The operations of one run of a module's forward.

    Attributes:
        graph: The operations in order.
        tensors: Parameters, buffers and other tensors that they read, by the target of their "get_attr" nodes.
        layers: All layers, by path.
        form: How the module returns what the output node has, as one tensor, a tuple, a dict ...
        depends_on_size: Whether the forward asked for the size of an input or of a map.
        shape_of: The shape of the value of a node.
    """

    graph: fx.Graph
    tensors: dict[str, Tensor]
    layers: dict[str, nn.Module]
    form: pytree.TreeSpec
    depends_on_size: bool
    shape_of: Callable[[fx.Node], tuple[int, ...]]


@dataclass(frozen=True)
class TracedInput:
    """An input of a module that strips read.

    Attributes:
        name: Its name, for errors.
        shape: (B, C, H, W); None if it is not known, as when a module is checked before the first image.
        dtype: Type of the values that the module gets; None if it is not known.
    """

    name: str = "image"
    shape: tuple[int, int, int, int] | None = None
    dtype: torch.dtype | None = None

    @property
    def known_shape(self) -> tuple[int, int, int, int]:
        """The shape, which has to be known."""
        assert self.shape is not None
        return self.shape


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call of a module, with a `TracedInput` for each that strips read."""

    args: tuple[Any, ...] = (TracedInput(),)
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[TracedInput]:
        """The inputs that strips read, in the order of the network's."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, TracedInput)]

    def alike(self, other: Arguments, with_sizes: bool) -> bool:
        """Whether a forward does the same for both, which is only known if they hold no other values than inputs."""

        def kinds(arguments: Arguments) -> list[TracedInput]:
            inputs = arguments.inputs
            return inputs if with_sizes else [replace(one, shape=None) for one in inputs]

        values = (*self.args, *self.kwargs.values(), *other.args, *other.kwargs.values())
        if self.kwargs.keys() != other.kwargs.keys() or len(self.args) != len(other.args):
            return False
        return all(isinstance(value, TracedInput) for value in values) and kinds(self) == kinds(other)

    def resized(self, batch: int, height: int, width: int) -> Arguments:
        """The same for images of another size; channels that are not known are 0 for the image, 1 for other inputs."""
        image = self.inputs[0]
        rows, columns = (height, width) if image.shape is None else image.shape[2:]

        def resized(value: Any) -> Any:
            if not isinstance(value, TracedInput):
                return value
            _, channels, own_rows, own_columns = value.shape or (batch, int(value is not image), rows, columns)
            size = -(-own_rows * height // rows), -(-own_columns * width // columns)
            return replace(value, shape=(batch, channels, *size))

        return Arguments(tuple(map(resized, self.args)), {name: resized(own) for name, own in self.kwargs.items()})

    @classmethod
    def required(cls, module: nn.Module) -> Arguments:
        """Arguments for a check before the first call: an image for each that the module's forward requires.

        Raises:
            UnsupportedLayerError: If it takes none.
        """
        kinds = inspect.Parameter
        parameters = [*inspect.signature(module.forward).parameters.values()]
        positional = [one for one in parameters if one.kind not in (kinds.KEYWORD_ONLY, kinds.VAR_KEYWORD)]
        if not positional:
            remedy = "Stream a module that takes an image."
            raise UnsupportedLayerError(type(module).__name__, "the module takes no image", remedy)
        single = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        needed = [one for one in parameters[1:] if one.default is kinds.empty and one.kind in single]
        named = {one.name: TracedInput(one.name) for one in needed if one.kind is kinds.KEYWORD_ONLY}
        return cls((TracedInput(), *(TracedInput(one.name) for one in needed if one.name not in named)), named)


class _Value(fx.Proxy):
    """A traced value with the attributes of a tensor, which records ``+=`` and the like as such, not as ``+``.

    What it cannot answer as a tensor would raises, and is remembered in case the forward catches the error.
    """

    tracer: _Tracer
    __array_priority__ = Tensor.__array_priority__  # so that numpy's numbers leave their products to it

    @property  # type: ignore[misc]  # asked for only, never set
    def __class__(self) -> type[Any]:
        """The type; raises in a line that asks for a tensor, or passes the value to a `torch.autograd.Function`."""
        question = asked_at(sys._getframe(1))
        if question is not None:
            raise self.tracer.unknown("the type") if question == "type" else self.tracer.refusal(*_FUNCTION)
        return type(self)

    def __getattr__(self, k: str) -> Any:
        if not hasattr(Tensor, k):
            raise AttributeError(f"'Tensor' object has no attribute '{k}'")
        if k in SIZES or k in TYPES:
            return getattr(self.tracer.known(self.node, k in SIZES), k)
        return _Attribute(self, k)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(Tensor, name):
            raise self.tracer.refusal(f"its forward sets '.{name}' of the image or of a map", "Compute a new map.")
        super().__setattr__(name, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        reason = "its forward writes into a part of the image or of a map"
        raise self.tracer.refusal(reason, "Compute a new map, e.g. with torch.cat or by a product with a mask.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.tracer.unknown("the values")

    def __len__(self) -> int:
        return len(self.tracer.known(self.node))

    def __index__(self) -> int:
        raise self.tracer.unknown("the values")

    def __int__(self) -> int:
        raise self.tracer.unknown("the values")

    def __float__(self) -> float:
        raise self.tracer.unknown("the values")

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})

    def __ipow__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.ipow, (self, other), {})


class _Attribute(_Value, fx.proxy.Attribute):
    """An attribute of a traced value, or a method that is called next."""

    def __getattr__(self, k: str) -> Any:
        return _Attribute(self, k)


_FUNCTION = (
    "it calls a torch.autograd.Function, whose own gradient strips would not compute",
    "Write the forward in plain operations, or use the function behind the streamed part.",
)
_TENSORS = "Return tensors, alone or in tuples, lists and dicts."


class _Tracer(fx.Tracer):
    """A recorder with the leaves of `is_leaf`."""

    def __init__(self, module: nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.root = module
        self.arguments = arguments
        self.graph = fx.Graph()
        self.tensor_attrs = {}
        self.layers = dict(module.named_modules())
        self.submodule_paths = {layer: name for name, layer in self.layers.items()}
        self.names = _tensor_names(self.layers)
        self.tensors: dict[str, Tensor] = {}
        self.read: dict[int, fx.Node] = {}  # the node of each tensor
        self.modes = _modes()
        self.error: Exception | None = None  # the first that the forward may have caught
        self.failed: str | None = None  # path of the innermost layer that raised
        self.fakes: FakeValues | None = None  # made when a size is asked for
        self.asked_size = self.guessed = False
        self.side = 1024  # of images whose size is not known

    def record(self) -> Recording:
        """Run the forward."""
        with handled_calls([*self.layers.values()], self._call), no_side_effects(self.layers, self.where):
            args = [self._argument(value) for value in self.arguments.args]
            kwargs = {name: self._argument(value) for name, value in self.arguments.kwargs.items()}
            result = self.root(*args, **kwargs)
            if self.error is not None:
                raise self.error
        leaves, form = pytree.tree_flatten(result)
        unknown = [leaf for leaf in leaves if not isinstance(leaf, fx.Proxy | Tensor | Number | str | None)]
        if unknown or not any(isinstance(leaf, fx.Proxy | Tensor) for leaf in leaves):
            other = unknown[0] if unknown else result
            found = "nothing" if other is None else f"no tensor but {type(other).__name__}"
            raise UnsupportedLayerError(type(self.root).__name__, f"the module returns {found}", _TENSORS)
        values = tuple(self.create_arg(leaf) for leaf in leaves)
        self.create_node("output", "output", (values[0] if form.is_leaf() else values,), {})
        return Recording(self.graph, self.tensors, self.layers, form, self.asked_size, self._shape_of)

    def _shape_of(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a value."""
        try:
            return tuple(self.known(node).shape)
        except ValueError as error:
            raise UnknownSizeError(str(error)) if self.guessed else error from None

    def known(self, node: fx.Node, asks_size: bool = True) -> Any:
        """A value without data, for a question about its size or, unless `asks_size`, its type."""
        self.asked_size |= asks_size
        if self.fakes is None:
            tensors = [*self.root.parameters(), *self.root.buffers()]
            floating = [one.dtype for one in tensors if one.is_floating_point()]
            dtype, device = (*floating, torch.get_default_dtype())[0], next(iter(tensors), torch.empty(0)).device
            inputs = self.arguments.inputs
            shapes = [one.shape for one in inputs]
            self.guessed = any(shape is None or not shape[1] for shape in shapes)
            for index, shape in enumerate(shapes):
                guess = guessed_shape(self.root, index == 0, self.side)
                shapes[index] = guess if shape is None else (shape[0], shape[1] or guess[1], *shape[2:])
            known = [(shape, one.dtype or dtype) for shape, one in zip(shapes, inputs, strict=True) if shape]
            self.fakes = FakeValues(known, self.layers, self.tensors, device)
        try:
            return self.fakes.of(node)
        except LookupError:
            raise self.unknown("the values") from None

    def _argument(self, value: Any) -> Any:
        """An argument of the module, a placeholder if strips read it."""
        return self.create_proxy("placeholder", value.name, (), {}) if isinstance(value, TracedInput) else value

    def unknown(self, what: str) -> Exception:
        """The error for a forward that asks for what no placeholder knows."""
        self.error = self.error or fx.proxy.TraceError(f"'{self.where()}' depends on {what} of the image or of a map")
        return self.error

    def refusal(self, reason: str, remedy: str) -> Exception:
        """The error for a forward that does what strips cannot follow."""
        self.error = self.error or UnsupportedLayerError(self.where(), reason, remedy)
        return self.error

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A condition."""
        raise self.unknown("the values")

    def iter(self, obj: Any) -> Any:
        """A loop."""
        return iter([obj[index] for index in range(len(self.known(obj.node)))])

    def keys(self, obj: fx.Proxy) -> Any:
        """Passing as ``**map``."""
        raise self.unknown("the values")

    def where(self) -> str:
        """Path of the layer that runs."""
        return self.scope.module_path or type(self.root).__name__

    def _call(
        self, layer: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call of a layer, of which leaves become one operation."""
        if not _has_values((args, kwargs)):
            return forward(*args, **kwargs)
        forward = substituted(layer, forward)
        if not is_leaf(layer):
            self._check_questions(forward, args, kwargs)
        if getattr(layer, "streams_reduction", False) and len(args) > 1:
            args = (args[0], *layer.aligned(*args))  # type: ignore[operator]
        try:
            return forward(*args, **kwargs) if layer is self.root else self.call_module(layer, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(layer) or type(layer).__name__
            raise

    def _check_questions(self, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check that a forward does not ask for the type of a value that it is given."""
        names = questioned_names(getattr(forward, "__func__", forward))
        given = dict(zip(inspect.signature(forward).parameters, args, strict=False)) | kwargs if names else {}
        if any(isinstance(given.get(name), fx.Proxy) for name in names):
            raise self.unknown("the type")

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See `_Value`."""
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `is_leaf`."""
        return is_leaf(m)

    def create_arg(self, a: Any) -> Any:
        """The argument as nodes store it. Kinds that occur often come first, because torch.fx looks for rare ones."""
        if a is None or type(a) in (bool, int, float, str):
            return a
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, Tensor):
            return self._tensor(a)
        if type(a) is tuple:
            return tuple(self.create_arg(value) for value in a)
        if type(a) is dict and not a:
            return {}
        if type(a).__module__ == "numpy" and hasattr(a, "item") and getattr(a, "ndim", 1) == 0:
            return a.item()  # a number, which torch takes for one of Python
        try:
            return super().create_arg(a)
        except RuntimeError:  # fx has no way to record such a value
            reason = f"its forward passes {type(a).__name__} to an operation on the image or on a map"
            raise self.refusal(reason, "Pass maps, tensors and numbers; hooks on maps cannot be streamed.") from None

    def create_node(self, kind: str, target: Any, *args: Any, **options: Any) -> fx.Node:
        """Record an operation, unless it runs in another mode of autograd or autocast than the module was called in."""
        if _modes() != self.modes:
            reason = "its forward turns gradients or autocast on or off, which strips do not follow"
            remedy = (
                "Use requires_grad_(False) in place of torch.no_grad(), and call the module inside torch.autocast. A "
                "torch.autograd.Function cannot be streamed."
            )
            raise self.refusal(reason, remedy)
        node = self.graph.create_node(kind, target, *args, **options)
        node.meta["nn_module_stack"] = dict(self.module_stack)
        return node

    def _tensor(self, tensor: Tensor) -> fx.Node:
        """The node that stands for a parameter, buffer or other tensor."""
        if id(tensor) not in self.read:
            name = self.names.get(id(tensor), f"_constant{len(self.tensors)}")
            self.tensors[name] = tensor
            self.read[id(tensor)] = self.create_node("get_attr", name, (), {})
        return self.read[id(tensor)]


def _tensor_names(layers: dict[str, nn.Module]) -> dict[int, str]:
    """The dotted path of every parameter and buffer, by the id of the tensor."""
    names: dict[int, str] = {}
    for path, layer in layers.items():
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            names.setdefault(id(tensor), f"{path}.{name}" if path else name)
    return names


def _has_values(arguments: Any) -> bool:
    """Whether arguments of a call hold a traced value."""
    found: list[fx.Proxy] = []
    fx.node.map_aggregate(arguments, lambda value: found.append(value) if isinstance(value, fx.Proxy) else None)
    return bool(found)


def _modes() -> tuple[object, ...]:
    """The modes of torch that change what an operation computes or which gradients it has."""
    autocast = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    return (torch.is_grad_enabled(), *autocast)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one operation, a layer of torch or a subclass that computes the same, or one of ours."""
    if getattr(module, "streams_pointwise", False) or getattr(module, "streams_reduction", False):
        return True
    if getattr(type(module), "_conv_forward", None) not in (None, nn.Conv2d._conv_forward) and isinstance(
        module, nn.Conv2d
    ):
        return False  # its own computation is recorded
    own = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
    inherits = any(
        base.__module__.startswith("torch.nn.modules") and type(module).forward is getattr(base, "forward", None)
        for base in type(module).__mro__[1:]
        if base not in (nn.Module, nn.Sequential)
    )
    return own or (inherits and not isinstance(module, nn.Sequential)) or is_stochastic_depth(module)


def is_stochastic_depth(module: nn.Module) -> bool:
    """Whether a module computes as torchvision's `StochasticDepth`; by name, so that torchvision is not imported."""
    forward: Any = type(module).forward
    name = (getattr(forward, "__module__", ""), getattr(forward, "__qualname__", ""))
    return name == ("torchvision.ops.stochastic_depth", "StochasticDepth.forward")


def trace_graph(module: nn.Module, arguments: Arguments | None = None) -> Recording:
    """The operations of a module's forward, called with `arguments`; None for those that it requires.

    Raises:
        UnsupportedLayerError: If they depend on the data, or the module takes no image.
    """
    tracer = _Tracer(module, arguments or Arguments.required(module))
    try:
        return tracer.record()
    except UnsupportedLayerError:
        raise
    except Exception as error:
        depends = isinstance(error, fx.proxy.TraceError)
        if tracer.guessed and not depends:
            return _with_smaller_images(module, tracer.arguments, error)
        if tracer.asked_size and not depends and isinstance(error, AssertionError | ValueError):
            raise  # as the plain module does for images of this size
        what = str(error) if depends else f"{type(error).__name__}: {error}"
        if "Cast error details" in what:
            what = "it calls a function of torch.jit.script"
        reason = f"its forward cannot be written down as a fixed list of operations ({what})"
        remedy = "Remove control flow that depends on the data, or stream only the part without it."
        raise UnsupportedLayerError(tracer.failed or type(module).__name__, reason, remedy) from error


def _with_smaller_images(module: nn.Module, arguments: Arguments, error: Exception) -> Recording:
    """The operations for images of the size that the module was made for, if it has one.

    Raises:
        UnknownSizeError: If they fail too.
    """
    tracer = _Tracer(module, arguments)
    tracer.side = own_side(module)
    try:
        return tracer.record()
    except UnsupportedLayerError:
        raise
    except Exception:
        raise UnknownSizeError(
            f"'{type(module).__name__}' asks for the size of its images, and fails for one of channels or a size that "
            f"were guessed ({type(error).__name__}: {error}). Call it on an image first."
        ) from error


class UnknownSizeError(ValueError):
    """A forward that asks for the size of images, which is not known before the first call."""


def named_arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call behind the first one, by name; `names` are those of positional ones."""
    return dict(zip(names, node.args[1:], strict=False)) | node.kwargs


def pair(value: Any) -> Pair:
    """``3 -> (3, 3)``; a pair is returned as it is."""
    if isinstance(value, tuple | list):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))
