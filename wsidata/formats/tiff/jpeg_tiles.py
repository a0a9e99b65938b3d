"""Decoder of JPEG tiles in TIFF by libjpeg-turbo, whose warnings are errors here.

Most slides are tiles of JPEG. libjpeg-turbo on each tile's own bytes is the fastest way to their pixels
(docs/benchmarks.md), and the safest: other readers ignore libjpeg's warnings ("premature end of data", "extraneous
bytes") and show what came out.

A tile in a TIFF is not quite a JPEG file. What is missing is put in front of it (TIFF Technical Note 2):

1. Quantization and Huffman tables, where the directory keeps them once for all tiles (the tag JPEGTables).
2. The color space. A JPEG stream of three components says by a JFIF or Adobe marker whether they are RGB or YCbCr;
   without a marker libjpeg takes YCbCr. Where the directory says RGB (Aperio's "JPEG/RGB") an Adobe marker saying so is
   added, unless the tile has a marker of its own, which then is believed: the directory's tag is known to be wrong in
   files of Bio-Formats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.codecs.jpeg import JPEG_END, JPEG_START, SCAN_START, check_scans
from wsidata.formats.tiff.photometric import MINISBLACK, RGB, YCBCR
from wsidata.formats.tiff.tile_index import JPEG_COMPRESSION
from wsidata.formats.tiff.tiles import TiffTiles

ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""An Adobe marker (APP14) of version 100 with the color transform 0: the components are RGB."""

HARMLESS_WARNINGS = ("extraneous bytes before marker", "JFIF", "Adobe")
"""Harmless where a careless writer causes them in every tile. Damage causes them in single tiles."""
MAX_KNOWN_HEADERS = 1024
MAX_ROUNDING = 3.0
"""Mean difference, of 255, between two decoders that agree on a tile's color space."""


class JpegTiles:
    """Decoder of the tiles or strips of a directory for which `suits` is true. Safe to use from several threads."""

    def __init__(self, tiles: TiffTiles) -> None:
        self.tiles = tiles
        tables = tiles.page.jpegtables or b""
        self._tables = tables[len(JPEG_START) : tables.rfind(JPEG_END)] if tables else b""
        self._colorspace = "GRAY" if tiles.page.photometric == MINISBLACK else "RGB"
        self._prefixes: dict[bytes, tuple[bytes, tuple[int, int]]] = {}

    @staticmethod
    def suits(tiles: TiffTiles) -> bool:
        """Whether the directory holds JPEG of a kind that is decoded here: 8 bits, gray, RGB or YCbCr, one plane."""
        page = tiles.page
        kinds = {(MINISBLACK, 1), (RGB, 3), (YCBCR, 3)}
        return (
            page.compression == JPEG_COMPRESSION
            and not page.is_ndpi  # its strips are parts of one stream
            and (page.photometric, page.samplesperpixel) in kinds
            and page.bitspersample == 8
            and tiles.grid.planes == 1
        )

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Pixels of one tile that was written.

        Returns:
            (height, width, 3), or (height, width, 1) for gray.

        Raises:
            UnreadableImageError: if libjpeg-turbo reports an error or a warning, or the size is not the tile's.
            UnsupportedImageError: if its color space is contradictory.
        """
        data = self.tiles.data(index)
        try:
            prefix, size = self._prefix(data)
            self.tiles.check_size(index, size)
            check_scans(self.tiles.path, data)
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(prefix + data[len(JPEG_START) :], self._colorspace)
        except UnsupportedImageError:
            raise
        except (ValueError, RuntimeError) as error:
            raise self.tiles.undecodable(index, error) from error
        self.tiles.check_size(index, (pixels.shape[0], pixels.shape[1]))
        return pixels

    def _prefix(self, data: bytes) -> tuple[bytes, tuple[int, int]]:
        """What replaces the start marker of a tile, and the size (height, width) it states.

        Both follow from the tile's header, which is the same for all tiles of most slides, and are cached by it.
        """
        header = data[: data.find(SCAN_START)]
        known = self._prefixes.get(header)
        if known is None:
            known = self._examine(header, data)
            if len(self._prefixes) >= MAX_KNOWN_HEADERS:  # writers that fit Huffman tables to each tile
                self._prefixes.clear()
            self._prefixes[header] = known
        return known

    def _examine(self, header: bytes, data: bytes) -> tuple[bytes, tuple[int, int]]:
        prefix = JPEG_START + self._tables
        height, width, colorspace, sampling = simplejpeg.decode_jpeg_header(prefix + data[len(JPEG_START) :])
        has_marker = b"JFIF\0" in header or b"Adobe" in prefix + header
        if self.tiles.page.photometric == YCBCR and colorspace == "RGB":
            raise self._contradiction("are YCbCr", "say by an Adobe marker that they are RGB")
        if self.tiles.page.photometric == RGB and colorspace != "RGB" and not has_marker:
            if sampling != "444":
                raise self._contradiction(
                    "are RGB", f"store color at a lower resolution ({sampling}), as only YCbCr does"
                )
            prefix = JPEG_START + ADOBE_RGB + self._tables
        return prefix, (height, width)

    def _contradiction(self, says: str, but: str) -> UnsupportedImageError:
        return UnsupportedImageError(
            f"'{self.tiles.path}': TIFF directory {self.tiles.page.index} says its tiles {says}, but they {but}. "
            "Which is right cannot be told. Correct the tag PhotometricInterpretation (2 is RGB, 6 YCbCr), or convert "
            "the slide again."
        )


def agree_with_tifffile(levels: Sequence[JpegTiles]) -> bool:
    """Whether libjpeg-turbo gives tifffile's pixels, tried on a tile of each of some levels of a file.

    Damaged tiles do not count; reading them raises the error. Also False where all tiles tried cause a harmless
    warning: the levels are then left to decoders that ignore it.

    Raises:
        UnreadableImageError: if none of the tiles tried can be decoded.
        UnsupportedImageError: if the color space in the tiles contradicts their directory.
    """
    failures, successes = [], 0
    for jpeg in levels:
        for index in jpeg.tiles.sample_indices():
            try:
                ours = jpeg.decode(index)
            except UnreadableImageError as error:
                failures.append(error)
                continue
            theirs = jpeg.tiles.decode(index)
            if not np.array_equal(ours, theirs):
                if np.abs(ours.astype(np.int16) - theirs).mean() > MAX_ROUNDING:
                    raise jpeg._contradiction(
                        f"have the photometric {int(jpeg.tiles.page.photometric)}",
                        "have another by their own markers, or not all the same one",
                    )
                return False
            successes += 1
            break  # one intact tile stands for its level
    if successes or not failures:
        return True
    if len(failures) > 1 and all(any(warning in str(error) for warning in HARMLESS_WARNINGS) for error in failures):
        return False
    raise failures[0]
