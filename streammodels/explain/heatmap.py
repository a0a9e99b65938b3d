"""Values of an explanation on a grid of receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from streammodels.core.network import Network
from streammodels.core.row_plan import ResizedRows, SlidingWindow

Method = Literal["gradient", "class activation map", "Grad-CAM", "attention"]
Unit = Literal["logit", "probability", "value"]


@dataclass(frozen=True)
class Heatmap:
    """Relevance of each location of an image for a class score.

    Attributes:
        values: (B, h, w), one value per location; or the gradient itself, (B, C, H, W).
        class_index: (B,) int64, the explained class of each image.
        scores: (B, K), the logits of all classes.
        method: The method that computed the values.
        grid: Image coordinates of the values.
        image_size: Height and width of the image in pixels.
        unit: Unit of the values of a class activation map; "value" is that of a regression.
    """

    values: Tensor
    class_index: Tensor
    scores: Tensor
    method: Method
    grid: MapGrid
    image_size: tuple[int, int]
    unit: Unit = "logit"


@dataclass(frozen=True)
class MapGrid:
    """Image coordinates of a map: rows along `y`, columns along `x`."""

    y: MapAxis
    x: MapAxis


@dataclass(frozen=True)
class MapAxis:
    """Image coordinates of a map along one axis.

    Attributes:
        stride: Image pixels from one map pixel to the next.
        first: Image pixel under the center of map pixel 0; pixel i of the image extends from i - 0.5 to i + 0.5.
    """

    stride: int
    first: float

    def center(self, index: float) -> float:
        """The image pixel under the center of a map pixel."""
        return self.first + index * self.stride

    centre = center

    @property
    def start(self) -> float:
        """The image pixel under the first edge of map pixel 0."""
        return self.center(-0.5)


def block_grid(side_px: int) -> MapGrid:
    """The grid of a map with one value per block of `side_px` x `side_px` image pixels."""
    axis = MapAxis(side_px, (side_px - 1) / 2)
    return MapGrid(axis, axis)


def receptive_field_grid(network: Network, node: int) -> MapGrid:
    """The receptive-field centers of a node's output pixels.

    Args:
        network: A traced network, upright.
        node: Index of the node.
    """
    windows = ([each.window for each in network.nodes], [each.columns for each in network.nodes])
    return MapGrid(*(_axis(network, along, node) for along in windows))


def _axis(network: Network, windows: Sequence[SlidingWindow | ResizedRows | None], node: int) -> MapAxis:
    """Propagate the receptive field of pixel 0 (first and last image pixel) and the stride from the image to a node."""
    first, last, strides = [0], [0], [1]
    for each, window in list(zip(network.nodes, windows, strict=True))[1 : node + 1]:
        stride = max(strides[source] for source in each.inputs)
        low, high = min(first[source] for source in each.inputs), max(last[source] for source in each.inputs)
        if isinstance(window, ResizedRows):
            raise ValueError(
                f"where the pixels of '{network.nodes[node].path}' lie on the image is only known for maps that are "
                f"not enlarged; '{each.path}' does. Explain the map in front of it."
            )
        if window is not None:
            low -= window.pad_top * stride
            high += (window.extent - 1 - window.pad_top) * stride
            stride *= window.stride
        first.append(low)
        last.append(high)
        strides.append(stride)
    return MapAxis(strides[node], (first[node] + last[node]) / 2)
