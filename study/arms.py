"""The arms of the study: what each network sees of an image, and how it comes to one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Reads = Literal["image", "tiles", "features"]
LEARNING_RATES = (3e-3, 8e-3, 2e-2)


@dataclass(frozen=True)
class Arm:
    """One way to classify an image.

    Attributes:
        name: As in tables and figures.
        reads: The whole "image", streamed; its "tiles", each alone through the network, with gradients; or "features"
            of its tiles by an encoder that is not trained.
        pool: How positions, or tiles, become one vector: "max", "lse", "avg" or "attention". Of tiles, "max" is over
            all positions of all tiles, as for the whole image; "attention" weighs tiles, each the maximum of its map.
        shrink: The image is shrunk by so much first, by area.
        strides: Strides of the convolutions of the network.
        tile_px: Side of a tile.
        stride_px: Pixels from a tile to the next.
        sampled: Number of tiles, drawn anew each step, that are trained on; 0 for all. All are read for evaluation.
        encoder: Of features: "random", the same network with its first weights, or "imagenet".
        question: What the arm is compared for, a heading of the page.
    """

    name: str
    reads: Reads = "image"
    pool: str = "max"
    shrink: int = 1
    strides: tuple[int, ...] = (1, 2, 2, 1)
    tile_px: int = 0
    stride_px: int = 0
    sampled: int = 0
    encoder: str = ""
    question: str = "arms"


WHOLE = Arm("whole image")
NEEDLES = (
    WHOLE,
    Arm("whole, log-sum-exp", pool="lse"),
    Arm("whole, attention", pool="attention"),
    Arm("whole, average", pool="avg"),
    Arm("shrunk 2x", shrink=2, strides=(1, 1, 2, 1)),
    Arm("shrunk 4x", shrink=4, strides=(1, 1, 1, 1)),
    Arm("shrunk 2x, same strides", shrink=2),
    Arm("shrunk 4x, same strides", shrink=4),
    Arm("tiles, max", "tiles", tile_px=32, stride_px=32),
    Arm("tiles, attention", "tiles", "attention", tile_px=32, stride_px=32),
    Arm("tiles overlap, attention", "tiles", "attention", tile_px=32, stride_px=16),
    Arm("sampled tiles, attention", "tiles", "attention", tile_px=32, stride_px=32, sampled=4),
    Arm("frozen random, attention", "features", "attention", tile_px=32, stride_px=32, encoder="random"),
    Arm("frozen ImageNet, attention", "features", "attention", tile_px=32, stride_px=32, encoder="imagenet"),
)
"""Arms of the canvases of digits."""

LONG = tuple(
    arm for arm in NEEDLES
    if arm.reads != "features" and arm.name not in {"whole, attention", "whole, average"} and "same" not in arm.name
)  # fmt: skip
"""Those that are trained several times as long, too."""

SLIDES = (
    Arm("whole image", strides=(1, 2, 2, 2)),
    Arm("shrunk 2x", shrink=2, strides=(1, 1, 2, 2)),
    Arm("shrunk 4x", shrink=4, strides=(1, 1, 1, 2)),
    Arm("tiles, attention", "tiles", "attention", strides=(1, 2, 2, 2), tile_px=64, stride_px=64),
    Arm("frozen ImageNet, attention", "features", "attention", tile_px=64, stride_px=64, encoder="imagenet"),
)
"""Arms of the slides with small lesions."""

BORDERS = tuple(
    replace(WHOLE, name=f"tiles of {side}", reads="tiles", tile_px=side, stride_px=side, question="borders")
    for side in (12, 16, 24, 48)
)
"""Arms of the question what borders of tiles cost; the aggregation is that of the whole image."""
