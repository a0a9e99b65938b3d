"""Channel statistics, saved to files and checkpoints with a digest that detects changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsidata.errors import SlideError
from wsidata.slides.tissue.crop import CropKind
from wsidata.utils.files import json_sha256, write_text
from wsidata.utils.plain_json import PlainJSONError, from_plain, json_object

Reduction = Literal["pooled", "per_image"]


class StatsError(SlideError, ValueError):
    """Statistics cannot be computed or loaded; the message names every image, or the file, with the reason."""


class StatsWarning(UserWarning):
    """Some images are left out of the statistics; the message names them."""


@dataclass(frozen=True)
class ChannelStats:
    """Channel means and standard deviations of images.

    Attributes:
        mean: Mean of each channel, on the scale 0..1.
        std: Standard deviation of each channel, on the same scale.
        count_px: Number of pixels (of each channel).
        image_count: Number of images.
        reduction: "pooled" or "per_image"; see `channel_stats`.
        tissue_only: Whether only tissue, or the pixels of a mask, were counted.
        max_value: The value that 1.0 stands for: 255 (8-bit images) or 65535 (16-bit).
        resolution: The resolution the images were read at, such as `{"mpp": 2.0}`.
        crop: "tissue" or "pack" if slides were cropped to their tissue; else None.
        skipped: (name, reason) of the images that were left out because they could not be read.
        reading: How else the slides were read: those of `channels`, `scale_to_8bit`, `apply_icc`, `series`, `z` and `t`
            that are not the default. None: unknown, as of earlier versions, arrays and open slides.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    count_px: int
    image_count: int
    reduction: Reduction
    tissue_only: bool
    max_value: int
    resolution: dict[str, Any] = field(default_factory=dict, hash=False)
    crop: CropKind | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    reading: dict[str, Any] | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of all but `skipped`, in hexadecimal; does not depend on folders."""
        return json_sha256(_plain(self) | ({"reading": self.reading} if self.reading else {}))

    def to_json(self) -> str:
        """JSON text with the digest; floats keep every bit."""
        known = {} if self.reading is None else {"reading": self.reading}
        return json.dumps({**_plain(self), **known, "digest": self.digest, "skipped": self.skipped}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> ChannelStats:
        """Read what `to_json` wrote.

        Raises:
            StatsError: if the text is something else, or was changed since.
        """
        try:
            content = json_object(text)
            digest = content.pop("digest", None)
            stats = from_plain(cls, content)
            counted = stats.digest
            if digest is None or not len(stats.mean) == len(stats.std) > 0:
                raise PlainJSONError("it lacks 'digest'" if digest is None else "mean and std are not of equal length")
        except (PlainJSONError, RecursionError) as error:
            raise StatsError(
                f"this is no JSON of channel statistics ({type(error).__name__}: {error}). Write it with "
                "ChannelStats.to_json() or .save(path)."
            ) from error
        if digest != counted:
            raise StatsError(
                f"these statistics were changed since they were written: their digest is {counted[:12]}, not "
                f"{str(digest)[:12]}. Compute them again with channel_stats(...)."
            )
        return stats

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, making its folder."""
        write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> ChannelStats:
        """Read a file that `save` wrote.

        Raises:
            StatsError: naming the file, if it is something else, or was changed since.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise StatsError(f"'{path}' is no JSON of channel statistics: it is no text ({error.reason}).") from error
        except StatsError as error:
            raise StatsError(f"'{path}': {error}") from error


def _plain(stats: ChannelStats) -> dict[str, Any]:
    content = {**asdict(stats), "mean": list(stats.mean), "std": list(stats.std)}
    del content["skipped"], content["reading"]  # the latter is new: digests of files without it stay
    return content
