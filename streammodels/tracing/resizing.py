"""Translation of layers and functions that resize a map."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import fx, nn
from torch.nn import functional

from streammodels.core.operations import Rule
from streammodels.core.resampling import (
    Interpolate,
    Interpolation,
    PixelShuffle,
    TransposedConvolution,
    TransposedWindow,
)
from streammodels.errors import UnsupportedLayerError
from streammodels.tracing.fx_graph import named_arguments, pair

_MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")


def resizing_module(module: nn.Module, path: str) -> Rule | None:
    """The rule of a layer that resizes a map; None if it is another one.

    Raises:
        UnsupportedLayerError: If it cannot be streamed exactly.
    """
    if isinstance(module, nn.Upsample) and type(module).forward is nn.Upsample.forward:
        return interpolation(
            path, module.size, module.scale_factor, module.mode, module.align_corners, module.recompute_scale_factor
        )
    if isinstance(module, nn.ConvTranspose2d) and type(module).forward is nn.ConvTranspose2d.forward:
        return _transposed_convolution(module)
    if isinstance(module, nn.PixelShuffle) and type(module).forward is nn.PixelShuffle.forward:
        return PixelShuffle.by(module.upscale_factor)
    return None


def resizing_function(node: fx.Node, path: str) -> Rule | None:
    """The rule of a call of a function that resizes a map; None if it is another one.

    Raises:
        UnsupportedLayerError: If it cannot be streamed exactly.
    """
    if node.target in (functional.interpolate, functional.upsample):
        names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
        return interpolation(path, **named_arguments(node, *names))
    if node.target is functional.upsample_nearest:
        return interpolation(path, **named_arguments(node, "size", "scale_factor"), mode="nearest")
    if node.target is functional.upsample_bilinear:
        return interpolation(path, **named_arguments(node, "size", "scale_factor"), mode="bilinear", align_corners=True)
    if node.target is functional.pixel_shuffle:
        return PixelShuffle.by(named_arguments(node, "upscale_factor")["upscale_factor"])
    return None


def interpolation(
    path: str,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Interpolate:
    """The rule of `torch.nn.functional.interpolate`, arguments as there.

    Raises:
        UnsupportedLayerError: If it cannot be streamed exactly.
    """
    if mode not in _MODES or antialias:
        found = f"mode '{mode}'" + (" with antialiasing" if antialias else "")
        reason = f"interpolation in {found} is not streamed"
        raise UnsupportedLayerError(path, reason, f"Use one of the modes {', '.join(_MODES)}, or a pool with a stride.")
    if recompute_scale_factor:
        reason = "recompute_scale_factor=True takes the factor from the sizes of the whole map"
        raise UnsupportedLayerError(path, reason, "Pass size=, or leave recompute_scale_factor out.")
    sizes, factors = _pair_of(size, path), _pair_of(scale_factor, path)
    axes = [
        Interpolation(
            mode,  # type: ignore[arg-type]
            None if sizes is None else int(sizes[axis]),
            None if factors is None else float(factors[axis]),
            bool(align_corners),
        )
        for axis in (0, 1)
    ]
    return Interpolate(axes[0], axes[1])


def _pair_of(value: Any, path: str) -> list[Any] | None:
    """Two numbers, for rows and columns; None for None."""
    if value is None:
        return None
    listed = list(value) if isinstance(value, list | tuple) else [value]
    if len(listed) == 1:
        listed *= 2
    if len(listed) != 2 or not all(isinstance(one, Real) for one in listed):
        raise UnsupportedLayerError(path, "the size of its result is computed", "Pass numbers.")
    return listed


def _transposed_convolution(module: nn.ConvTranspose2d) -> TransposedConvolution:
    weight: Any = module._parameters.get("weight")  # None if it is parametrized; else it may have been replaced
    kernel = pair(module.kernel_size) if weight is None else tuple(weight.shape[2:])
    geometry = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
    return transposed_convolution(kernel, *geometry)


def transposed_convolution(
    kernel: tuple[int, ...],
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> TransposedConvolution:
    """The rule of a transposed convolution, arguments as in torch."""
    spread, steps, pads, below = pair(dilation), pair(stride), pair(padding), pair(output_padding)
    window, columns = (TransposedWindow(spread[i] * (kernel[i] - 1) + 1, steps[i], pads[i], below[i]) for i in (0, 1))
    return TransposedConvolution(window, columns, spread, groups)
