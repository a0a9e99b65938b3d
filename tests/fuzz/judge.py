"""What comes of a damaged file: right pixels, the reference decoder's pixels, or an error that names it."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pandas as pd
import pyvips
import tifffile
import zarr
import zarr.storage
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from fuzz.kinds import Kind
from wsidata.photos.read import read_photo
from wsidata.slides.slide import Slide
from wsidata.splits.split_file import load_splits
from wsidata.tables.label_table import read_table

MAX_COMPARED_PX = 4_000_000
"""Of larger images, a part is read, which must not fail with a foreign error."""
MAX_ROUNDING = 2
"""Of 255, between decoders; and between 16 bits scaled here and by the reference."""


def read(kind: Kind, path: Path) -> Any:
    """What this project makes of a file."""
    if kind.read == "photo":
        return read_photo(path, apply_icc=False)
    if kind.read == "table":
        return read_table(path, label_column="label", image_column="image").frame.drop(columns="path")
    if kind.read == "split":
        return load_splits(path)[["image_id", "split"]]  # what the digest covers
    with Slide(path, **dict(kind.options)) as slide:
        if max(slide.width, slide.height, slide.width * slide.height // 2000) > 2000:
            slide.read_region(0, 0, min(64, slide.width), min(64, slide.height))
            return None
        return slide.numpy(level=0)


def judge(kind: Kind, path: Path, right: Any) -> str:
    """ "right", "reference", "part" or "refused"; anything else describes what went wrong.

    Args:
        kind: The kind of file.
        path: A damaged file.
        right: What is read from the intact one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read(kind, path)
        except Exception as error:
            is_own = type(error).__module__.startswith("wsidata") or isinstance(error, FileNotFoundError)
            is_own = is_own and path.name in str(error)
            return "refused" if is_own else f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]}"
        if found is None:
            return "part"
        if _equal(found, right):
            return "right"
        if any(_agrees(reference, kind, path, found) for reference in _references(kind, path)):
            return "reference"
    return f"wrong: {_difference(found, right)}"


def _agrees(reference: Any, kind: Kind, path: Path, found: Any) -> bool:
    """Whether one of the results of a reference decoder, before it fails, is the one found."""
    try:
        is_rough = path.suffix == ".avif"
        return any(_equal(found, one, is_rough=is_rough) for one in reference(kind, path))
    except Exception:
        return False


def _equal(found: Any, expected: Any, *, is_rough: bool = False) -> bool:
    """Whether two results are the same; rough: decoders of AVIF differ in how they enlarge colors."""
    if isinstance(found, pd.DataFrame):
        return isinstance(expected, pd.DataFrame) and found.astype(str).equals(expected.astype(str))
    if found.shape != expected.shape:
        return False
    difference = np.abs(found.astype(np.int64) - expected)
    return int(difference.max(initial=0)) <= MAX_ROUNDING or (is_rough and float(difference.mean()) <= 3)


def _difference(found: Any, right: Any) -> str:
    if isinstance(found, pd.DataFrame):
        return f"{len(found)} rows instead of {len(right)}"
    if found.shape != right.shape:
        return f"{found.shape} instead of {right.shape}"
    return f"{(found != right).any(-1).mean():.1%} of the pixels"


def _references(kind: Kind, path: Path) -> list[Any]:
    if kind.read in ("table", "split"):
        return [_table]
    if path.is_dir() or path.suffix in (".ozx", ".zip"):
        return [_zarr_planes]
    if path.suffix == ".dcm":
        return [_openslide]
    if path.suffix == ".bmp":
        return [_pillow, _opencv]
    return [_pillow, _tifffile] if kind.read == "photo" else [_tifffile, _libvips, _openslide]


def _pillow(kind: Kind, path: Path) -> Iterator[NDArray[Any]]:
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
        if image.mode.startswith("I;16") or image.mode == "I":
            yield _rgb(np.asarray(image).astype(np.float64) / 257)
        elif image.mode == "CMYK":
            yield _ink(np.asarray(image))
        else:
            yield _rgb(np.asarray(image.convert("RGBA")))


def _opencv(kind: Kind, path: Path) -> Iterator[NDArray[Any]]:
    yield cv2.imread(str(path))[..., ::-1]


def _openslide(kind: Kind, path: Path) -> Iterator[NDArray[Any]]:
    with openslide.OpenSlide(path) as slide:
        yield _rgb(np.asarray(slide.read_region((0, 0), 0, slide.dimensions)))


def _libvips(kind: Kind, path: Path) -> Iterator[NDArray[Any]]:
    yield pyvips.Image.tiffload(str(path), fail_on="error", autorotate=True).colourspace("srgb").numpy()[..., :3]


def _tifffile(kind: Kind, path: Path) -> Iterator[NDArray[Any]]:
    """Each directory, and pairs of directories as channels; upright and as stored."""
    options = dict(kind.options)
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if _decodes(page)]
        if "channels" in options:
            for first in pages:
                same = [page.asarray() for page in pages if page.shape == first.shape]
                yield from (np.stack([first.asarray(), second], -1) for second in same)
            return
        for page in pages:
            pixels = page.asarray()
            pixels = np.moveaxis(pixels, 0, -1) if page.planarconfig == 2 and pixels.ndim == 3 else pixels
            for shown in _shown(page, pixels, options):
                yield from _turned(_on_white(page, _rgb(shown)))


def _decodes(page: Any) -> bool:
    page.dataoffsets = tuple(
        place * bool(size) for place, size in zip(page.dataoffsets, page.databytecounts, strict=True)
    )
    try:
        return int(page.asarray().size) > 0
    except Exception:
        return False


def _shown(page: Any, pixels: NDArray[Any], options: dict[str, Any]) -> Iterator[NDArray[Any]]:
    low, high = options.get("scale_to_8bit", (0, 255))
    if page.photometric == 3:
        yield (page.colormap >> 8 if page.colormap.max() > 255 else page.colormap).T[pixels]
    elif page.photometric == 5:
        yield _ink(pixels)
    elif pixels.dtype == bool or page.bitspersample < 8:
        gray = pixels.astype(np.float64) * (255 / (2**page.bitspersample - 1))
        yield 255 - gray if page.photometric == 0 else gray
    elif pixels.dtype != np.uint8:
        yield np.clip((pixels.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    else:
        yield 255 - pixels if page.photometric == 0 else pixels


def _on_white(page: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """Tiles and strips that were never written are white here, and black in tifffile."""
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    columns = -(-page.imagewidth // width)
    for index, place in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        if 0 in place:
            row, column = divmod(index, columns)
            pixels[row * height : (row + 1) * height, column * width : (column + 1) * width] = 255
    return pixels


def _turned(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for one in (pixels, pixels.swapaxes(0, 1)):
        yield from (one, one[::-1], one[:, ::-1], one[::-1, ::-1])


def _zarr_planes(kind: Kind, path: Path) -> Iterator[NDArray[Any]]:
    """The arrays, for all that zarr checks."""
    group = zarr.open_group(path if path.is_dir() else zarr.storage.ZipStore(path), mode="r")
    for level in ("0", "1"):
        yield np.moveaxis(np.asarray(group[level][...]), 0, 2)


def _ink(pixels: NDArray[Any]) -> NDArray[Any]:
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="cmyk")
    return np.asarray(image.icc_transform("srgb", input_profile="cmyk").numpy())


def _rgb(pixels: NDArray[Any]) -> NDArray[Any]:
    pixels = np.rint(pixels).astype(np.int64)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:]
        pixels = np.rint((pixels[..., :-1] * alpha + 255 * (255 - alpha)) / 255).astype(np.int64)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, 2)


def _table(kind: Kind, path: Path) -> Iterator[pd.DataFrame]:
    """A damaged table may be another one, of the same columns."""
    if kind.read == "split":
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "split_digest" not in frame.columns:
            yield load_splits(path)
    elif path.suffix == ".parquet":
        pd.read_parquet(path)
        yield read(kind, path)
    else:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        if len({len(row) for row in rows if row}) == 1:
            yield read(kind, path)
