"""What every explanation of a prediction is: numbers, where they lie on the image, and what they explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .map_grid import MapGrid

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
