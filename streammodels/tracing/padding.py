"""Translation of padding, and of slices of rows and columns, into windows of one row."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import fx, nn
from torch.nn import functional

from streammodels.core.operations import Padding, Pointwise
from streammodels.core.row_plan import PaddingMode, SlidingWindow
from streammodels.errors import UnsupportedLayerError
from streammodels.tracing.fx_graph import named_arguments

_MODES: dict[str, PaddingMode] = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate"}


def padding_module(module: Any, path: str) -> Padding | Pointwise | None:
    """The rule of a layer that pads a map; None if it is another one.

    Raises:
        UnsupportedLayerError: If it cannot be streamed exactly.
    """
    modes: dict[Any, str] = {nn.ZeroPad2d: "constant", nn.ConstantPad2d: "constant", nn.ReflectionPad2d: "reflect"}
    modes[nn.ReplicationPad2d] = "replicate"
    for kind, mode in modes.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return padding(path, module.padding, mode, getattr(module, "value", 0.0))
    return None


def padding_function(node: fx.Node, path: str) -> Padding | Pointwise | None:
    """The rule of a call of `torch.nn.functional.pad`; None if it is another function.

    Raises:
        UnsupportedLayerError: If it cannot be streamed exactly.
    """
    if node.target is not functional.pad:
        return None
    return padding(path, **named_arguments(node, "pad", "mode", "value"))


def padding(path: str, pad: Any, mode: str = "constant", value: Any = None) -> Padding | Pointwise:
    """The rule of `torch.nn.functional.pad`, arguments as there.

    Raises:
        UnsupportedLayerError: If it cannot be streamed exactly.
    """
    numbers = [*pad] if isinstance(pad, tuple | list) else []
    whole = bool(numbers) and all(isinstance(number, int) for number in numbers)
    fill = 0.0 if value is None else value
    if not whole or not isinstance(fill, Real):
        raise UnsupportedLayerError(path, "its padding is computed", "Pass numbers.")
    numbers += [0] * (4 - len(numbers))
    left, right, top, bottom, *channels = numbers
    if any(channels) and not any(numbers[:4]) and not any(channels[2:]) and mode == "constant":
        return Pointwise(lambda rows: functional.pad(rows, (0, 0, 0, 0, *channels[:2]), value=float(fill)))
    if mode not in _MODES or any(channels) or (mode != "constant" and min(numbers) < 0):
        reason = f"padding by {tuple(numbers)} in mode '{mode}' is not known to work row by row"
        remedy = f"Use one of the modes {', '.join(_MODES)}, for rows and columns or for channels."
        raise UnsupportedLayerError(path, reason, remedy)
    known = _MODES[mode]
    window, columns = SlidingWindow(1, 1, top, bottom, known), SlidingWindow(1, 1, left, right, known)
    return Padding(window, columns, float(fill))


def cut(path: str, rows: slice, columns: slice) -> Padding:
    """The rule of a slice of rows and columns, ``map[:, :, rows, columns]``.

    Raises:
        UnsupportedLayerError: If it counts from the other end of the map than its border.
    """
    return Padding(_kept(path, rows), _kept(path, columns))


def _kept(path: str, part: slice) -> SlidingWindow:
    start, stop, step = part.start or 0, part.stop, 1 if part.step is None else part.step
    if not all(isinstance(number, int) for number in (start, step, stop or 0)) or step < 1:
        raise UnsupportedLayerError(path, "its bounds are computed", "Compute them in __init__.")
    if start < 0 or (stop is not None and stop >= 0):
        reason = "it takes rows or columns that are counted from the other end of the map"
        remedy = "Cut off borders, x[:, :, a:-b], or take every n-th row, x[:, :, a::n]."
        raise UnsupportedLayerError(path, reason, remedy)
    return SlidingWindow(1, step, -start, stop or 0)
