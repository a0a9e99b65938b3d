"""What is compared: this file exists so that the parent process, which must stay free of torch, and the worker agree.

A variant is one way to take the same training step. Its memory is estimated here, before anything is allocated, because
a benchmark that is killed by the kernel says nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("plain", "checkpoint", "strips", "lightstream")

OUTPUT_STRIDE = 32
"""Input pixels per row of ResNet-18's feature map: lightstream needs image and tile to be multiples of it."""

LIGHTSTREAM_SMALLEST_TILE = 1024
"""The first multiple of 32 above the 992 rows that lightstream loses per tile in ResNet-18's backward pass."""

# Peak bytes above the baseline in float32, from this benchmark's own runs at 1024 and 2048 pixels, rounded up.
WEIGHT_GRADIENT_BYTES = 50_000_000
PLAIN_BYTES_PER_PIXEL = 450
CHECKPOINT_BYTES_PER_PIXEL = 270
STRIP_BYTES_PER_PIXEL = 600
CARRY_BYTES_PER_COLUMN_AND_STRIP = 2400
FEATURE_MAP_BYTES_PER_PIXEL = 8  # 512 channels / 32**2 pixels, float32, the map itself and its gradient, and slack
IMAGE_BYTES_PER_PIXEL = 12


@dataclass(frozen=True)
class Variant:
    """One way to take the training step.

    Attributes:
        kind: One of `KINDS`.
        strip_rows: Input rows per strip, for "strips".
        tile_px: Side of the square tile in pixels, for "lightstream".
    """

    kind: str
    strip_rows: int | None = None
    tile_px: int | None = None

    @property
    def name(self) -> str:
        """Name in the results, such as `strips-256`."""
        parameter = self.strip_rows or self.tile_px
        return f"{self.kind}-{parameter}" if parameter else self.kind

    def why_not(self, side_px: int) -> str | None:
        """Why this variant cannot take an image of this side, or None if it can."""
        if self.tile_px is None:
            return None
        if self.tile_px % OUTPUT_STRIDE or self.tile_px < LIGHTSTREAM_SMALLEST_TILE:
            return (
                f"lightstream needs a tile that is a multiple of {OUTPUT_STRIDE} and at least "
                f"{LIGHTSTREAM_SMALLEST_TILE} px for ResNet-18, --tile is {self.tile_px}"
            )
        if side_px % OUTPUT_STRIDE:
            return f"lightstream is wrong for sides that are no multiple of {OUTPUT_STRIDE}, the side is {side_px}"
        if side_px < self.tile_px:
            return f"lightstream crashes on an image ({side_px} px) smaller than its tile ({self.tile_px} px)"
        return None

    def estimated_bytes(self, side_px: int, bytes_per_value: int = 4) -> int:
        """Peak memory of one step on a square image, the image included, everything else in the process excluded."""
        pixels = side_px * side_px
        if self.kind == "plain":
            step = PLAIN_BYTES_PER_PIXEL * pixels
        elif self.kind == "checkpoint":
            step = CHECKPOINT_BYTES_PER_PIXEL * pixels
        elif self.kind == "strips":
            rows = min(self.strip_rows or side_px, side_px)
            strips = -(-side_px // rows)
            step = STRIP_BYTES_PER_PIXEL * rows * side_px + CARRY_BYTES_PER_COLUMN_AND_STRIP * side_px * strips
        else:
            tile = self.tile_px or side_px
            step = PLAIN_BYTES_PER_PIXEL * tile * tile + FEATURE_MAP_BYTES_PER_PIXEL * pixels
        return (step + IMAGE_BYTES_PER_PIXEL * pixels + WEIGHT_GRADIENT_BYTES) * bytes_per_value // 4


@dataclass(frozen=True)
class Job:
    """One measurement, as it is handed to a fresh process.

    Attributes:
        variant: What to run.
        side_px: Side of the square image, pixels.
        threads: Threads torch may use.
        dtype: "float32" or "float64".
        reference_path: File with the gradients to compare with, or None.
        gradients_path: File to write this variant's gradients to, or None.
        result_path: File to write the result to, as JSON.
    """

    variant: Variant
    side_px: int
    threads: int
    dtype: str
    reference_path: str | None
    gradients_path: str | None
    result_path: str

    def to_dict(self) -> dict[str, Any]:
        """The job as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        return cls(**{**values, "variant": Variant(**values["variant"])})
