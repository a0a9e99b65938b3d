"""Translation of functions and operators into operations on strips.

Numbers among their arguments are fixed when the module is traced. Parameters, buffers and other tensors are
*constants*, which are passed with every strip. In a map whose channels are last (`channels_last.py`), dimension 3 is
the channels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from streammodels.core.operations import FrozenBatchNorm, Pointwise, Rule
from streammodels.core.statistics.vectors import Vector
from streammodels.errors import UnsupportedLayerError
from streammodels.tracing import modules
from streammodels.tracing.channels_last import with_constants
from streammodels.tracing.fx_graph import named_arguments
from streammodels.tracing.over_channels import over_channels
from streammodels.tracing.padding import cut, padding_function
from streammodels.tracing.resizing import resizing_function, transposed_convolution

POINTWISE_FUNCTIONS: frozenset[Any] = frozenset(
    {
        functional.relu, functional.relu_, torch.relu, torch.relu_, functional.relu6, functional.hardtanh,
        functional.leaky_relu, functional.elu, functional.celu, functional.selu, torch.selu, torch.celu,
        functional.gelu, functional.silu, functional.mish, functional.sigmoid, torch.sigmoid, functional.logsigmoid,
        functional.tanh, torch.tanh, functional.hardsigmoid, functional.hardswish, functional.softplus,
        functional.softsign, functional.tanhshrink, functional.hardshrink, functional.softshrink,
        functional.threshold, torch.threshold, torch.exp, torch.abs, torch.sqrt, torch.square, torch.neg,
        torch.clamp, torch.clip, torch.clamp_min, torch.clamp_max, operator.neg, operator.pos, operator.pow, torch.pow,
        torch.rsqrt, torch.reciprocal, torch.log, torch.log1p, torch.expm1, torch.addcmul,
        torch.erf, torch.sin, torch.cos, torch.sign, torch.nan_to_num, torch.clone,
    }
)  # fmt: skip
"""Functions of single pixels; further arguments have to be numbers or constants."""

RELUS = frozenset({functional.relu, functional.relu_, torch.relu, torch.relu_})
"""Functions whose form in place is ``functional.relu_``."""

POINTWISE_METHODS = frozenset(
    {
        "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "exp", "abs", "sqrt", "sqrt_", "square", "neg", "pow",
        "clamp", "clamp_", "clip", "clamp_min", "clamp_max", "rsqrt", "reciprocal", "log", "log1p", "expm1", "erf",
        "sin", "cos", "sign", "nan_to_num", "clone",
        "contiguous", "float", "double", "half", "bfloat16", "to",
    }
)  # fmt: skip
"""Methods of single pixels; further arguments have to be numbers or constants."""

JOIN_FUNCTIONS: dict[Any, Callable[..., Tensor]] = {
    operator.add: torch.add, operator.iadd: torch.add, torch.add: torch.add, "add": torch.add, "add_": torch.add,
    operator.sub: torch.sub, operator.isub: torch.sub, torch.sub: torch.sub, "sub": torch.sub, "sub_": torch.sub,
    operator.mul: torch.mul, operator.imul: torch.mul, torch.mul: torch.mul, "mul": torch.mul, "mul_": torch.mul,
    operator.truediv: torch.div, operator.itruediv: torch.div, torch.div: torch.div, "div": torch.div,
    torch.maximum: torch.maximum, torch.minimum: torch.minimum,
}  # fmt: skip
"""Functions and methods of two maps. With a number or a parameter as one of them they are pointwise."""

CONCATENATIONS: frozenset[Any] = frozenset({torch.cat, torch.concat, torch.concatenate})

TRANSPOSED: frozenset[Any] = frozenset({functional.conv_transpose2d, torch.conv_transpose2d})
CONVOLUTIONS: frozenset[Any] = frozenset({functional.conv2d, torch.conv2d}) | TRANSPOSED

SPLITS: frozenset[Any] = frozenset({torch.split, torch.chunk, "split", "chunk", torch.unbind, "unbind"})
"""Operations that return a tuple of maps, of some channels each."""

_POOLS: dict[Any, Callable[..., Rule]] = {
    functional.max_pool2d: modules.max_pool,
    functional.avg_pool2d: lambda _path, *arguments, **options: modules.average_pool(*arguments, **options),
}


def name_of(node: fx.Node) -> str:
    """Short name of the operation of a node."""
    return str(getattr(node.target, "__name__", node.target))


def is_channels(dimension: Any, last: bool) -> bool:
    """Whether a dimension of a map is that of its channels."""
    return isinstance(dimension, int) and dimension in ((3, -1) if last else (1, -3))


def pointwise_call(node: fx.Node, path: str, constants: Mapping[fx.Node, Any], last: bool) -> Pointwise:
    """The rule of a function or method of one map, numbers and constants.

    Args:
        node: The operation.
        path: Its name, for errors.
        constants: The values of constants.
        last: Whether the channels of the map are last.

    Raises:
        UnsupportedLayerError: If it reads several maps, or a constant that differs from row to row.
    """
    if any(isinstance(value, fx.Node) and value not in constants for value in node.kwargs.values()):
        raise UnsupportedLayerError(path, "a map is passed as a keyword", "Pass the map as the first argument.")
    if sum(source not in constants for source in node.all_input_nodes) > 1:
        raise UnsupportedLayerError(path, "it reads several maps", "Use torch.maximum or torch.minimum of two maps.")
    read = [source for source in node.all_input_nodes if source in constants]
    if node.target in JOIN_FUNCTIONS and not all(isinstance(a, fx.Node | Number) for a in node.args):
        raise UnsupportedLayerError(path, "it reads something else than numbers and tensors", "Pass one of these.")
    for constant in read:
        _check_constant(constant, constants[constant], path, last)
    in_place = functional.relu_ if node.target in RELUS else None
    rule = Pointwise(called(node, read), in_place)
    return with_constants(rule) if last and read else rule


def _check_constant(constant: fx.Node, value: Any, path: str, last: bool) -> None:
    if isinstance(value, Vector):
        return  # checked when it is known
    if not isinstance(value, Tensor):
        raise UnsupportedLayerError(path, f"'{constant.name}' is no tensor", "Pass maps, tensors and numbers.")
    axis = 3 if last else 2
    if value.ndim > 4:
        reason = f"'{constant.name}' of shape {tuple(value.shape)} makes more dimensions of a map than (B, C, H, W)"
        raise UnsupportedLayerError(path, reason, "Use one value for a channel.")
    if value.ndim >= axis and value.shape[-axis] != 1:
        reason = f"'{constant.name}' of shape {tuple(value.shape)} differs from row to row"
        shape = "(C,)" if last else "(C, 1, 1)"
        raise UnsupportedLayerError(path, reason, f"Use one value for a channel: shape {shape}.")


def called(node: fx.Node, constants: list[fx.Node]) -> Callable[..., Tensor]:
    """The operation as a function of rows and the values of its constants."""
    target, arguments, options = node.target, node.args, dict(node.kwargs)
    options.pop("inplace", None)

    def apply(rows: Tensor, *tensors: Tensor) -> Tensor:
        known = dict(zip(constants, tensors, strict=True))
        values = [known.get(a, rows) if isinstance(a, fx.Node) else a for a in arguments]
        further = {k: known[v] if isinstance(v, fx.Node) else v for k, v in options.items()}
        if isinstance(target, str) and target not in JOIN_FUNCTIONS:
            result: Tensor = getattr(values[0], target.removesuffix("_"))(*values[1:], **further)
            return result
        function: Any = JOIN_FUNCTIONS.get(target, target)
        if function in (functional.relu_, torch.relu_):
            function = functional.relu
        if function in JOIN_FUNCTIONS.values():  # torch.add and the like take a number only as the second
            values = [v if isinstance(v, Tensor) else _number(v, rows) for v in values]
        computed: Tensor = function(*values, **further)
        return computed

    return apply


def _number(value: Any, rows: Tensor) -> Tensor:
    """A number as torch takes it in arithmetic with `rows`, in double precision without raising theirs."""
    kind = torch.promote_types(rows.dtype, torch.float64) if isinstance(value, float) else None
    return torch.tensor(value, dtype=kind)


def function_rule(node: fx.Node, path: str, last: bool) -> Rule:
    """The rule of a pool, dropout, mean or part of the channels.

    Raises:
        UnsupportedLayerError: If the operation does not stream.
    """
    target: Any = node.target
    if target is operator.getitem:
        return _part(node, path, last)
    if target is functional.dropout or (target is functional.dropout2d and not last):
        given = named_arguments(node, "p", "training", "inplace")
        return modules.dropout(target is functional.dropout2d, given.get("p", 0.5), given.get("training", True))
    rule = over_channels(node, 3 if last else 1)
    if rule is None and not last:
        rule = resizing_function(node, path) or padding_function(node, path)
    if rule is not None:
        return rule
    if target in _POOLS and not last:
        return _POOLS[target](path, *node.args[1:], **node.kwargs)
    if target in (functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d) and not last:
        size = named_arguments(node, "output_size")["output_size"]
        return modules.global_pool(path, size, target is functional.adaptive_max_pool2d)
    raise _unknown(node, path, last)


def batch_norm(node: fx.Node, path: str) -> tuple[FrozenBatchNorm, list[Any]]:
    """The rule of ``functional.batch_norm``, and the nodes of mean, variance, weight and bias (None where not given).

    Raises:
        UnsupportedLayerError: If it is not frozen.
    """
    names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = named_arguments(node, *names)
    statistics = [given.get(name) for name in names[:4]]
    return modules.frozen_batch_norm(
        path, given.get("eps", 1e-5), bool(given.get("training", False)), statistics[0] is not None
    ), statistics


def convolution(node: fx.Node, path: str, constants: Mapping[fx.Node, Any]) -> tuple[Rule, list[Any]]:
    """The rule of ``functional.conv2d`` or ``conv_transpose2d``, and the nodes of weight and bias (None without one).

    Raises:
        UnsupportedLayerError: If the weight is computed from a map.
    """
    transposed = node.target in TRANSPOSED
    names = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
    given = named_arguments(node, "weight", "bias", "stride", "padding", *names)
    weight, bias = given.pop("weight"), given.pop("bias", None)
    value = constants.get(weight)
    if not isinstance(value, Tensor) or value.ndim != 4 or any(isinstance(one, fx.Node) for one in given.values()):
        raise UnsupportedLayerError(path, "its weight is computed from a map", "Use parameters.")
    rule = (transposed_convolution if transposed else modules.convolution)(tuple(value.shape[2:]), **given)
    return rule, [weight, bias]


def _unknown(node: fx.Node, path: str, last: bool) -> UnsupportedLayerError:
    if node.target is getattr:
        reason = f"it reads '{node.args[1]}' of the image or of a map, which strips do not know"
        return UnsupportedLayerError(path, reason, "Use what is known in __init__.")
    where = " on a map whose channels come last" if last else ""
    reason = f"'{name_of(node)}' is not known to work row by row{where}"
    remedy = "Use the torch.nn layer or a plain operator for it, or stream the part of the network before it."
    return UnsupportedLayerError(path, reason, remedy)


def check_split(node: fx.Node, path: str, last: bool) -> None:
    """Check that a `SPLITS` operation splits channels, and that its parts are read by index.

    Raises:
        UnsupportedLayerError: If not.
    """
    given = _split_arguments(node)
    sizes = given.get("sizes")
    numbers = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
    if not is_channels(given.get("dim", 0), last) or not all(isinstance(size, int) for size in numbers):
        raise UnsupportedLayerError(path, "it splits something else than channels", f"Use dim={3 if last else 1}.")
    for user in node.users:
        if user.target is not operator.getitem or not isinstance(user.args[1], int):
            reason = f"'{user.name}' reads the tuple of maps as a whole"
            raise UnsupportedLayerError(path, reason, "Take its parts apart: a, b = x.split(...).")


def _split_arguments(node: fx.Node) -> dict[str, Any]:
    """Number or sizes of the parts, which torch has several names for, and the dimension."""
    renamed = dict.fromkeys(("split_size_or_sections", "split_size", "chunks"), "sizes")
    return {renamed.get(name, name): value for name, value in named_arguments(node, "sizes", "dim").items()}


def _part(node: fx.Node, path: str, last: bool) -> Rule:
    """The rule of one part of a split, or of a slice of the channels or of rows and columns."""
    source: Any = node.args[0]
    index: Any = node.args[1]
    if isinstance(source, fx.Node) and source.target in SPLITS:
        sizes = _split_arguments(source)["sizes"]
        function = torch.chunk if name_of(source) == "chunk" else torch.split
        return Pointwise(lambda rows: function(rows, sizes, 1)[index])
    whole = slice(None)
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        position = items.index(Ellipsis)
        items[position : position + 1] = [whole] * (5 - len(items))
    items += [whole] * (4 - len(items))
    order = (0, 3, 1, 2) if last else (0, 1, 2, 3)
    if len(items) > 4 or not all(isinstance(item, slice) for item in items) or items[0] != whole:
        raise UnsupportedLayerError(path, "it takes a part of the rows, the columns or the batch", "Take channels.")
    _, chosen, rows, columns = (items[position] for position in order)
    if (rows, columns) != (whole, whole):
        if chosen != whole:
            raise UnsupportedLayerError(path, "it takes a part of channels and rows", "Take one after the other.")
        return cut(path, rows, columns)
    if not all(bound is None or isinstance(bound, int) for bound in (chosen.start, chosen.stop, chosen.step)):
        raise UnsupportedLayerError(path, "its bounds are computed", "Compute them in __init__.")
    return Pointwise(lambda rows: rows[:, chosen])
