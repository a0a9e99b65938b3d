"""What every explanation of a prediction is: numbers, where they lie on the image, and what they explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from streammodels.core.network import Network
from streammodels.core.row_plan import Window


@dataclass(frozen=True)
class MapAxis:
    """One axis of a map.

    Attributes:
        stride: Image pixels from one map pixel to the next.
        first: Image pixel under the centre of map pixel 0; pixel i of the image reaches from i - 0.5 to i + 0.5.
    """

    stride: int
    first: float

    def centre(self, index: float) -> float:
        """The image pixel under the centre of a map pixel."""
        return self.first + index * self.stride

    @property
    def start(self) -> float:
        """The image pixel under the first edge of map pixel 0."""
        return self.first - self.stride / 2


@dataclass(frozen=True)
class MapGrid:
    """Both axes of a map: rows run along `y`, columns along `x`."""

    y: MapAxis
    x: MapAxis


def block_grid(side_px: int) -> MapGrid:
    """The grid of a map each of whose pixels stands for a block of `side_px` x `side_px` image pixels."""
    axis = MapAxis(side_px, (side_px - 1) / 2)
    return MapGrid(axis, axis)


def map_grid(network: Network, node: int) -> MapGrid:
    """The grid of the value of a node.

    Args:
        network: A traced network, upright.
        node: Index of the node.
    """
    vertical = [each.window for each in network.nodes]
    horizontal = [getattr(each.rule, "columns", None) for each in network.nodes]
    return MapGrid(_axis(network, vertical, node), _axis(network, horizontal, node))


def _axis(network: Network, windows: list[Window | None], wanted: int) -> MapAxis:
    """Follow the receptive field of pixel 0 from the image to the node: its first and last image pixel, and strides."""
    first, last, strides = [0], [0], [1]
    for index, node in enumerate(network.nodes[1 : wanted + 1], start=1):
        window, stride = windows[index], max(strides[source] for source in node.inputs)
        low, high = min(first[source] for source in node.inputs), max(last[source] for source in node.inputs)
        if window is not None:
            low -= window.pad_top * stride
            high += (window.extent - 1 - window.pad_top) * stride
            stride *= window.stride
        first.append(low)
        last.append(high)
        strides.append(stride)
    return MapAxis(strides[wanted], (first[wanted] + last[wanted]) / 2)


Method = Literal["gradient", "class activation map", "Grad-CAM", "attention"]


@dataclass(frozen=True)
class Heatmap:
    """How much each place of an image has to do with the score of a class.

    Attributes:
        values: (B, h, w), one number for a place; or the gradient itself, (B, C, H, W).
        class_index: (B,) int64, the class that is explained.
        scores: (B, K), what the network says: the logits of all classes.
        method: How the values were found.
        grid: Where the values lie on the image.
        image_size: Height and width of the image in pixels.
    """

    values: Tensor
    class_index: Tensor
    scores: Tensor
    method: Method
    grid: MapGrid
    image_size: tuple[int, int]
