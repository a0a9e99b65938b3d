"""Damaged copies of small slides, and what reading them comes to. `test_damage` runs it as a program: it may crash.

python damages.py KIND FOLDER COUNT
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
import tifffile

from wsidata.errors import SlideError
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

SIZE_PX, TILE_PX = (200, 150), 64
MEMORY_BYTES = 6 * 1024**3
CHECKED = ("deflate", "png")
"""Codecs with a checksum: whatever is altered in their data is noticed."""
UNCHECKABLE_TAGS = {254, 256, 257, 258, 262, 273, 277, 279, 317, 324, 325, 330, 347}
"""TIFF tags a single altered byte of which can describe another sound picture: sizes, kinds of pixels, places."""


@dataclass(frozen=True)
class Damage:
    """One thing done to a file: `data` replaces the bytes from `start` on, or the file ends there."""

    kind: str
    start: int
    data: bytes | None = None

    def apply(self, sound: bytes) -> bytes:
        if self.data is None:
            return sound[: self.start]
        return sound[: self.start] + self.data + sound[self.start + len(self.data) :]


def write_slide(folder: Path, kind: str) -> Path:
    """A slide of a kind such as "aperio-jpeg", "vips-jpeg" (tables kept once) or "photo-png"."""
    maker, codec = kind.split("-")
    rng = np.random.default_rng(1)
    ramp = np.moveaxis(np.indices(SIZE_PX[::-1]), 0, 2)
    pixels = np.dstack([ramp, 200 - ramp.sum(2) // 2]) + rng.integers(0, 40, (*SIZE_PX[::-1], 1))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    path = folder / f"whole.{codec if maker == 'photo' else 'tif'}"
    image = pyvips.Image.new_from_array(pixels)
    if maker == "photo":
        image.write_to_file(str(path))
    elif maker == "vips":
        image.tiffsave(str(path), tile=True, tile_width=TILE_PX, tile_height=TILE_PX, pyramid=True, compression=codec)
    elif maker == "subifds":
        write_pixels(path, pixels, tile=TILE_PX, levels=2, compression=codec, subifds=True)
    else:
        write_pixels(path, pixels, vendor=maker, tile=TILE_PX, levels=2, compression=codec)
    return path


def places(path: Path) -> tuple[dict[int, int], list[tuple[int, int, int, int]]]:
    """Of each byte of a TIFF's directories its tag (-1: numbers of the directory); and (level, tile, start, stop)."""
    tags: dict[int, int] = dict.fromkeys(range(16), -1)
    tiles = []
    with tifffile.TiffFile(path) as tiff:
        for level, series in enumerate(tiff.series[0].levels):
            page = series.keyframe
            for tag in page.tags:
                tags |= dict.fromkeys(range(tag.offset, tag.offset + tag.parent.tiff.tagsize), tag.code)
                tags |= dict.fromkeys(range(tag.valueoffset, tag.valueoffset + tag.valuebytecount), tag.code)
            own = [*range(page.offset, page.offset + 8), *range(max(t.offset for t in page.tags) + 20, tags_end(page))]
            tags |= dict.fromkeys([at for at in own if at not in tags], -1)
            where = zip(page.dataoffsets, page.databytecounts, strict=True)
            tiles += [(level, index, start, start + count) for index, (start, count) in enumerate(where)]
    return tags, tiles


def tags_end(page: tifffile.TiffPage) -> int:
    """End of a directory, the pointer to the next one included."""
    return int(max(tag.offset for tag in page.tags) + page.parent.tiff.tagsize + page.parent.tiff.offsetsize)


def draw(path: Path, rng: np.random.Generator, count: int) -> list[Damage]:
    """Damages of all kinds, most of them where it hurts."""
    sound = path.read_bytes()
    is_tiff = path.suffix == ".tif"
    tags, tiles = places(path) if is_tiff else (dict.fromkeys(range(200), -1), [(0, 0, 200, len(sound))])
    directory = sorted(at for at in tags if at < len(sound))
    made = []
    for number in range(count):
        match number % 5:
            case 0:
                made.append(Damage("cut off", int(rng.integers(0, len(sound)))))
            case 1:
                at = int(rng.choice(directory))
                made.append(Damage("altered directory", at, bytes([sound[at] ^ int(rng.integers(1, 256))])))
            case 2:
                _, _, start, stop = tiles[int(rng.integers(len(tiles)))]
                at = int(rng.integers(start, stop))
                made.append(Damage("altered byte", at, bytes([sound[at] ^ int(rng.integers(1, 256))])))
            case 3:
                _, _, start, stop = tiles[int(rng.integers(len(tiles)))]
                at = int(rng.integers(start, stop))
                length = int(min(stop - at, rng.integers(16, 600)))
                made.append(Damage("lost block", at, bytes(length)))
            case _:
                made.append(Damage("cut off", len(sound) - int(rng.integers(1, 40))))
    return made


def verdicts(kind: str, folder: Path, count: int) -> list[str]:
    """Damage a slide so many times.

    Returns:
        For each time "right", "refused", "deceived" (a difference that nothing could tell) or "WRONG: ...".
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    path = write_slide(folder, kind)
    sound, bad = path.read_bytes(), path.with_name(f"bad{path.suffix}")
    with Slide(path) as slide:
        expected = [slide.numpy(level=level) for level in range(slide.level_count)]
    found = []
    for damage in draw(path, np.random.default_rng(list(kind.encode())), count):
        bad.write_bytes(damage.apply(sound))
        verdict = _verdict(bad, expected)
        if isinstance(verdict, list):
            verdict = "deceived" if _is_beyond_checking(kind, path, damage, expected, verdict) else "WRONG: differs"
        found.append(verdict if not verdict.startswith("WRONG") else f"{verdict} ({kind}, {damage})")
    return found


def _verdict(path: Path, expected: list[np.ndarray]) -> str | list[np.ndarray]:
    try:
        with Slide(path) as slide:
            if slide.width * slide.height > 10**7:  # an altered size; do not paint the wall
                slide.read_region(0, 0, 500, 500)
                return []
            pixels = [slide.numpy(level=level) for level in range(slide.level_count)]
            shown = [np.asarray(slide.image(level=level).numpy()) for level in range(slide.level_count)]
            if not all(map(np.array_equal, pixels, shown)):
                return "WRONG: image() and numpy() differ"
    except SlideError as error:
        return "refused" if path.name in str(error) else f"WRONG: the error does not name the file: {error}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"
    same = len(pixels) == len(expected) and all(map(np.array_equal, pixels, expected))
    return "right" if same else pixels


def _is_beyond_checking(
    kind: str, path: Path, damage: Damage, expected: list[np.ndarray], pixels: list[np.ndarray]
) -> bool:
    """Whether no reader could have noticed: codecs without a checksum, in their own tile; tags that make sense."""
    codec = kind.split("-")[1]
    if damage.data is None or (codec in CHECKED and damage.kind != "altered directory"):
        return False
    if kind.startswith("photo"):
        return True
    tags, tiles = places(path)
    touched = range(damage.start, damage.start + len(damage.data))
    if any(at in tags for at in touched):
        return {tags[at] for at in touched if at in tags} <= UNCHECKABLE_TAGS
    if len(pixels) != len(expected):
        return False
    allowed = {(level, index) for level, index, start, stop in tiles if start < touched.stop and touched.start < stop}
    for level, (was, now) in enumerate(zip(expected, pixels, strict=True)):
        across = -(-was.shape[1] // TILE_PX)
        changed = np.argwhere((was != now).any(axis=2)) // TILE_PX if was.shape == now.shape else [(-1, -1)]
        if not {(level, int(row * across + column)) for row, column in changed} <= allowed:
            return False
    return True


if __name__ == "__main__":
    print(*verdicts(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])), sep="\n")
