"""The compared variants of a training step, shared by the parent process (without torch) and workers.

The memory of a variant is estimated here, before anything is allocated, because a benchmark killed by the kernel has no
result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MODELS = ("resnet18", "resnet34", "resnet50")

OUTPUT_STRIDE = 32
"""Input pixels per row of the feature map: lightstream needs image and tile to be multiples of it."""

LIGHTSTREAM_SMALLEST_TILE = {"resnet18": 1024, "resnet34": 1920, "resnet50": 928}
"""The first multiple of 32 above the rows that lightstream loses per tile in the backward pass: 992, 1888 and 896."""

# Peak bytes above the baseline in float32 for ResNet-18, from own runs at 1024 and 2048 pixels, rounded up.
WEIGHT_GRADIENT_BYTES = 50_000_000
PLAIN_BYTES_PER_PIXEL = 450
CHECKPOINT_BYTES_PER_PIXEL = 270
STRIP_BYTES_PER_PIXEL = 600
CARRY_BYTES_PER_COLUMN_AND_STRIP = 2400
FEATURE_MAP_BYTES_PER_PIXEL = 8  # 512 channels / 32**2 pixels, float32, the map itself and its gradient, and slack
IMAGE_BYTES_PER_PIXEL = 12
TIMES_RESNET18 = {"resnet18": 1.0, "resnet34": 1.5, "resnet50": 4.0}


@dataclass(frozen=True)
class Variant:
    """One way to run the training step, by its name on the command line.

    | name | what runs |
    |---|---|
    | `plain` | ordinary autograd |
    | `checkpoint` | `torch.utils.checkpoint` around the stem and each residual block |
    | `strips-128` | strips of 128 rows, each computed twice |
    | `strips-128-half`, `strips-128-all` | the same, with the graphs of half of them, or of all, kept |
    | `memory-2GB` | whatever `stream(trunk, memory="2GB")` chooses |
    | `tiles-1600` | overlapping tiles, exact, each computed twice |
    | `lightstream-1600` | lightstream 1.0.7 with such tiles |

    Attributes:
        name: As above.
        kind: What comes before the first hyphen.
        strip_rows: Input rows per strip, for "strips".
        kept: "none", "half" or "all" graphs, for "strips".
        tile_px: Side of the square tile in pixels, for "tiles" and "lightstream".
        memory: Budget, for "memory".
    """

    name: str
    kind: str
    strip_rows: int | None = None
    kept: str = "none"
    tile_px: int | None = None
    memory: str | None = None

    @classmethod
    def parse(cls, name: str) -> Variant:
        """The variant of that name.

        Raises:
            ValueError: If there is none.
        """
        kind, _, rest = name.partition("-")
        size, _, kept = rest.partition("-")
        if kind in ("plain", "checkpoint") and not rest:
            return cls(name, kind)
        if kind == "strips" and size.isdigit() and kept in ("", "half", "all"):
            return cls(name, kind, strip_rows=int(size), kept=kept or "none")
        if kind in ("tiles", "lightstream") and rest.isdigit():
            return cls(name, kind, tile_px=int(rest))
        if kind == "memory" and rest:
            return cls(name, kind, memory=rest)
        raise ValueError(
            f"there is no variant {name!r}. Examples: plain, checkpoint, strips-128, strips-128-half, strips-128-all, "
            "memory-2GB, tiles-1600, lightstream-1600"
        )

    def why_not(self, side_px: int, model: str) -> str | None:
        """Why this variant cannot take an image of this side, or None if it can."""
        if self.tile_px is None:
            return None
        if self.kind == "tiles":
            return None if side_px > self.tile_px else f"the image ({side_px} px) is smaller than the tile"
        smallest = LIGHTSTREAM_SMALLEST_TILE[model]
        if self.tile_px % OUTPUT_STRIDE or self.tile_px < smallest:
            return (
                f"lightstream needs a tile of a multiple of {OUTPUT_STRIDE} and at least {smallest} px for {model}, "
                f"not {self.tile_px}"
            )
        if side_px % OUTPUT_STRIDE:
            return f"lightstream is wrong for sides that are no multiple of {OUTPUT_STRIDE}, the side is {side_px}"
        if side_px < self.tile_px:
            return f"lightstream crashes on an image ({side_px} px) smaller than its tile ({self.tile_px} px)"
        return None

    def estimated_bytes(self, side_px: int, model: str, bytes_per_value: int = 4) -> int:
        """Peak memory of one step on a square image, the image included, everything else in the process excluded."""
        pixels, times = side_px * side_px, TIMES_RESNET18[model]
        if self.kind == "plain" or self.kept == "all":
            step = times * PLAIN_BYTES_PER_PIXEL * pixels
        elif self.kind == "checkpoint" or self.kept == "half":
            step = times * CHECKPOINT_BYTES_PER_PIXEL * pixels
        elif self.kind == "strips":
            rows = min(self.strip_rows or side_px, side_px)
            strips = -(-side_px // rows)
            step = STRIP_BYTES_PER_PIXEL * rows * side_px + CARRY_BYTES_PER_COLUMN_AND_STRIP * side_px * strips
            step *= times
        elif self.kind == "memory":
            step = PLAIN_BYTES_PER_PIXEL  # it keeps to its budget, or says why it cannot
        else:
            tile = self.tile_px or side_px
            step = times * (PLAIN_BYTES_PER_PIXEL * tile * tile + FEATURE_MAP_BYTES_PER_PIXEL * pixels)
        return int(step + IMAGE_BYTES_PER_PIXEL * pixels + WEIGHT_GRADIENT_BYTES) * bytes_per_value // 4


@dataclass(frozen=True)
class Job:
    """One measurement, as passed to a fresh process.

    Attributes:
        variant: What to run.
        model: One of `MODELS`.
        side_px: Side of the square image, pixels.
        threads: Threads torch may use.
        dtype: "float32" or "float64".
        reference_path: File with the gradients to compare with, or None.
        gradients_path: File to write this variant's gradients to, or None.
        result_path: File to write the result to, as JSON.
    """

    variant: Variant
    model: str
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
