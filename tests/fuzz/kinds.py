"""Intact files of every kind that is read, and how each is read."""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numcodecs
import numpy as np
import pandas as pd
import pyvips
import tifffile
import zarr
import zarr.storage
from PIL import Image, ImageCms
from places import ROOT

from wsidata.synthetic.slides import write_pixels

COARSE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGB = cv2.resize(COARSE, (150, 110), interpolation=cv2.INTER_CUBIC)
GRAY = np.ascontiguousarray(RGB[..., 1])
GRAY16 = GRAY.astype(np.uint16) * 257
INK = np.dstack([RGB, GRAY // 2])
CLEAR = np.dstack([RGB, np.where(GRAY > 128, 255, 0).astype(np.uint8)])
TILED = {"tile": (64, 64), "metadata": None}

Writer = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: File name; its suffix is part of the kind.
        write: Writes an intact one.
        read: How it is read: "slide", "photo", "table" or "split".
        options: Arguments of `Slide`.
    """

    name: str
    write: Writer
    read: str = "slide"
    options: tuple[tuple[str, Any], ...] = ()


def _writers_of(test: str) -> ModuleType:
    """A test module, for the files it writes."""
    spec = importlib.util.spec_from_file_location(
        f"fuzz_{Path(test).stem}", ROOT / "tests" / "wsidata" / "formats" / test
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tiff(path: Path, pixels: Any = RGB, photometric: str = "rgb", **options: Any) -> None:
    tifffile.imwrite(path, pixels, photometric=photometric, **{"metadata": None, **options})


def _pyramid(path: Path, **options: Any) -> None:
    write_pixels(path, RGB, tile=64, levels=2, **options)


def _pillow(path: Path, pixels: Any = RGB, mode: str | None = None, **options: Any) -> None:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)


def _vips(path: Path, pixels: Any = RGB, **options: Any) -> None:
    pyvips.Image.new_from_array(pixels).write_to_file(str(path), **options)


def _ome_rgb(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(RGB, subifds=1, photometric="rgb", tile=(64, 64), compression="jpeg", metadata={"axes": "YXS"})
        tiff.write(RGB[::2, ::2], subfiletype=1, photometric="rgb", tile=(64, 64), compression="jpeg")


def _ome_channels(path: Path) -> None:
    planes = np.stack([GRAY16, GRAY16[::-1], GRAY16 // 3])
    metadata = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}
    tifffile.imwrite(path, planes, photometric="minisblack", ome=True, metadata=metadata, compression="zlib")


def _zarr(path: Path, version: str, **storage: Any) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    colors = [
        {"label": name, "color": color} for name, color in zip("RGB", ("FF0000", "00FF00", "0000FF"), strict=True)
    ]
    scales = [{"type": "scale", "scale": [1.0, step * 0.25, step * 0.25]} for step in (1, 2)]
    attributes = {
        "multiscales": [
            {
                "version": version,
                "axes": [{"name": "c"}, *({"name": axis, "unit": "micrometer"} for axis in "yx")],
                "datasets": [
                    {"path": str(level), "coordinateTransformations": [scale]} for level, scale in enumerate(scales)
                ],
            }
        ],
        "omero": {"channels": colors},
    }
    for level, pixels in enumerate((RGB, RGB[::2, ::2])):
        planes = np.moveaxis(pixels, 2, 0)
        array = group.create_array(str(level), shape=planes.shape, chunks=(1, 32, 32), dtype="u1", **storage)
        array[...] = planes
    group.attrs.update(attributes if version == "0.4" else {"ome": {**attributes, "version": version}})


def _zip(path: Path, method: int) -> None:
    """A store in a ZIP archive, its chunks as they are, or compressed again."""
    with tempfile.TemporaryDirectory() as folder:
        _zarr(Path(folder), "0.5", compressors=zarr.codecs.BloscCodec())
        with zipfile.ZipFile(path, "w", method) as archive:
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())


def _scn(path: Path) -> None:
    test = _writers_of("tiff/vendors/test_scn.py")
    region = test.image_xml("r", [(150, 110)], 2, offset_nm=(5_000_000, 9_000_000), view_nm=(37_500, 27_500))
    test.write_scn(path, test.MACRO + region, [*test.MACRO_PAGES, RGB])


def _table(path: Path) -> None:
    rows = pd.DataFrame({"image": [f"{number}.tif" for number in range(30)], "label": ["a", "b", "c"] * 10})
    rows["extent"] = np.linspace(0, 1, 30)
    for name in rows["image"]:
        path.with_name(name).touch()
    rows.to_parquet(path) if path.suffix == ".parquet" else rows.to_csv(path, index=False)


def _split(path: Path) -> None:
    from wsidata.splits.make import make_splits
    from wsidata.splits.split_file import save_splits

    names = [f"{number}.tif" for number in range(30)]
    table = pd.DataFrame({"image_id": names, "label_name": ["a", "b"] * 15})
    save_splits(make_splits(table, val_fraction=0.2, test_fraction=0.2, seed=1), path)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = Image.Exif()
EXIF[0x0112] = 6
DEEP = (("scale_to_8bit", (0, 65_535)),)
SLASHES = {"name": "v2", "separator": "/"}
FLAT, DEEP_SHARDS = (1, 64, 64), (3, 64, 64)
CHANNELS = (("channels", (0, 2)),)

KINDS = (
    Kind("jpeg.tif", partial(_pyramid, compression="jpeg")),
    Kind("deflate.tif", partial(_pyramid, compression="deflate")),
    Kind("subifds.tif", partial(_pyramid, compression="jpeg", subifds=True)),
    Kind("aperio.svs", partial(_pyramid, compression="jpeg", vendor="aperio")),
    Kind("jpeg2000.svs", partial(_pyramid, compression="jpeg2000", vendor="aperio")),
    Kind("philips.tiff", partial(_pyramid, compression="jpeg", vendor="philips")),
    Kind("lzw-strips.tif", partial(_tiff, compression="lzw", predictor=True, rowsperstrip=20)),
    Kind("plain-strips.tif", partial(_tiff, rowsperstrip=20)),
    Kind("big-endian.tif", partial(_tiff, byteorder=">", bigtiff=True, **TILED)),
    Kind("zstd.tif", partial(_tiff, compression="zstd", **TILED)),
    Kind("webp.tif", partial(_tiff, compression="webp", **TILED)),
    Kind("planar.tif", partial(_tiff, pixels=np.moveaxis(RGB, 2, 0), planarconfig="separate", compression="zlib")),
    Kind("deep.tif", partial(_tiff, pixels=GRAY16, photometric="minisblack", compression="lzw"), options=DEEP),
    Kind("float.tif", partial(_tiff, pixels=GRAY.astype("f4"), photometric="minisblack", compression="zlib"),
         options=(("scale_to_8bit", (0, 255)),)),
    Kind("white.tif", partial(_tiff, pixels=GRAY, photometric="miniswhite", compression="packbits")),
    Kind("ink.tif", partial(_tiff, pixels=INK, photometric="separated", compression="zlib", **TILED)),
    Kind("clear.tif", partial(_tiff, pixels=CLEAR, extrasamples=["unassalpha"], compression="lzma", **TILED)),
    Kind("palette.tif", partial(_pillow, mode="P", compression="tiff_lzw")),
    Kind("fax.tif", partial(_pillow, mode="1", compression="group4")),
    Kind("rgb.ome.tif", _ome_rgb),
    Kind("channels.ome.tif", _ome_channels, options=CHANNELS),
    Kind("slide.qptiff", lambda path: _writers_of("tiff/vendors/test_qptiff.py").write_qptiff(path), options=CHANNELS),
    Kind("slide.bif", lambda path: _writers_of("tiff/vendors/test_bif.py").write_bif(path)),
    Kind("slide.scn", _scn),
    Kind("slide.dcm", lambda path: _writers_of("test_dicom.py").write_dicom(path, RGB)),
    Kind("blosc-04.zarr", partial(_zarr, version="0.4", compressors=numcodecs.Blosc(), chunk_key_encoding=SLASHES)),
    Kind("zlib-04.zarr", partial(_zarr, version="0.4", compressors=numcodecs.Zlib())),
    Kind("zstd-05.zarr", partial(_zarr, version="0.5", compressors=zarr.codecs.ZstdCodec(checksum=True))),
    Kind("gzip-05.zarr", partial(_zarr, version="0.5", compressors=zarr.codecs.GzipCodec())),
    Kind("blosc-shards-05.zarr", partial(_zarr, version="0.5", compressors=zarr.codecs.BloscCodec(), shards=FLAT)),
    Kind("zstd-shards-05.zarr", partial(_zarr, version="0.5", compressors=zarr.codecs.ZstdCodec(), shards=DEEP_SHARDS)),
    Kind("stored.ozx", partial(_zip, method=zipfile.ZIP_STORED)),
    Kind("deflated.zarr.zip", partial(_zip, method=zipfile.ZIP_DEFLATED)),
    Kind("plain.jpg", partial(_pillow, quality=90), "photo"),
    Kind("progressive.jpg", partial(_pillow, progressive=True, exif=EXIF, icc_profile=SRGB), "photo"),
    Kind("gray.jpg", partial(_pillow, pixels=GRAY, restart_marker_rows=1), "photo"),
    Kind("ink.jpg", lambda path: Image.fromarray(INK, "CMYK").save(path), "photo"),
    Kind("plain.png", _pillow, "photo"),
    Kind("clear.png", partial(_pillow, pixels=CLEAR, icc_profile=SRGB), "photo"),
    Kind("deep.png", partial(_pillow, pixels=GRAY16), "photo"),
    Kind("interlaced.png", partial(_vips, interlace=True), "photo"),
    Kind("plain.gif", partial(_pillow, mode="P"), "photo"),
    Kind("plain.bmp", _pillow, "photo"),
    Kind("lossy.webp", partial(_pillow, quality=80), "photo"),
    Kind("lossless.webp", partial(_pillow, pixels=CLEAR, lossless=True), "photo"),
    Kind("plain.avif", partial(_vips, Q=60), "photo"),
    Kind("photo.tif", partial(_pillow, compression="tiff_adobe_deflate"), "photo"),
    Kind("labels.csv", _table, "table"),
    Kind("labels.parquet", _table, "table"),
    Kind("split.csv", _split, "split"),
)  # fmt: skip
