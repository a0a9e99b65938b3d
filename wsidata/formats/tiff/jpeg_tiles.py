"""JPEG tiles at the speed of libjpeg-turbo, with its warnings taken seriously.

Most slides are tiles of JPEG. The shortest way to their pixels is libjpeg-turbo on each tile's own bytes
(docs/benchmarks.md). And the safest: other readers drop libjpeg's warnings ("premature end of data", "extraneous
bytes") and show what came out; here they are errors.

A tile in a TIFF is not quite a JPEG file. What is missing is put in front of it, as TIFF Technical Note 2 has it:

1. Quantisation and Huffman tables, where the directory keeps them once for all tiles (the tag JPEGTables).
2. The colour. A JPEG stream of three components says by a JFIF or Adobe marker whether they are RGB or YCbCr; without
   a marker libjpeg takes YCbCr. Where the directory says RGB (Aperio's "JPEG/RGB") an Adobe marker saying so is added,
   unless the tile has a marker of its own, which then is believed: the directory's tag is known to lie (Bio-Formats).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.codecs.jpeg import JPEG_END, JPEG_START
from wsidata.formats.tiff.photometric import MINISBLACK, RGB, YCBCR
from wsidata.formats.tiff.tile_index import JPEG_COMPRESSION
from wsidata.formats.tiff.tiles import TiffTiles

START_OF_SCAN = b"\xff\xda"
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""An Adobe marker (APP14) of version 100 with the colour transform 0: the components are RGB."""

HABITS = ("extraneous bytes before marker", "JFIF", "Adobe")
"""Warnings that a careless writer causes in every tile, without harm. Damage causes them in single tiles."""
MAX_KNOWN_HEADERS = 1024
MAX_ROUNDING = 3.0
"""Mean difference, of 255, between two decoders that agree what a tile means."""


class JpegTiles:
    """Decodes the tiles or strips of one directory. Safe to use from several threads.

    Args:
        segments: The directory, one for which `suits` is true; kept as the attribute `segments`.
    """

    def __init__(self, segments: TiffTiles) -> None:
        self.segments = segments
        tables = segments.page.jpegtables or b""
        self._tables = tables[len(JPEG_START) : tables.rfind(JPEG_END)] if tables else b""
        self._colours = "GRAY" if segments.page.photometric == MINISBLACK else "RGB"
        self._prefixes: dict[bytes, tuple[bytes, tuple[int, int]]] = {}

    @staticmethod
    def suits(segments: TiffTiles) -> bool:
        """Whether the directory holds JPEG of a kind that is decoded here: 8 bits, grey, RGB or YCbCr, one plane."""
        page = segments.page
        kinds = {(MINISBLACK, 1), (RGB, 3), (YCBCR, 3)}
        return (
            page.compression == JPEG_COMPRESSION
            and not page.is_ndpi  # its strips are parts of one stream
            and (page.photometric, page.samplesperpixel) in kinds
            and page.bitspersample == 8
            and segments.grid.planes == 1
        )

    def decode(self, index: int) -> NDArray[np.uint8]:
        """Pixels of one tile or strip.

        Args:
            index: Its number in the directory; one that was written.

        Returns:
            (height, width, 3), or (height, width, 1) for grey.

        Raises:
            UnreadableImageError: if libjpeg-turbo reports as little as a warning, or the size is not the tile's.
            UnsupportedImageError: if its colours cannot be told.
        """
        data = self.segments.data(index)
        try:
            prefix, size = self._prefix(data)
            self.segments.check_size(index, size)
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(prefix + data[len(JPEG_START) :], self._colours)
        except UnsupportedImageError:
            raise
        except (ValueError, RuntimeError) as error:
            raise self.segments.undecodable(index, error) from error
        self.segments.check_size(index, (pixels.shape[0], pixels.shape[1]))
        return pixels

    def _prefix(self, data: bytes) -> tuple[bytes, tuple[int, int]]:
        """What to put before a tile's bytes in place of its start marker, and the size (height, width) it states.

        Both follow from the tile's header alone, which in most slides is the same for all tiles, and is remembered.
        """
        header = data[: data.find(START_OF_SCAN)]
        known = self._prefixes.get(header)
        if known is None:
            known = self._examine(header, data)
            if len(self._prefixes) >= MAX_KNOWN_HEADERS:  # writers that fit Huffman tables to each tile
                self._prefixes.clear()
            self._prefixes[header] = known
        return known

    def _examine(self, header: bytes, data: bytes) -> tuple[bytes, tuple[int, int]]:
        prefix = JPEG_START + self._tables
        height, width, colours, sampling = simplejpeg.decode_jpeg_header(prefix + data[len(JPEG_START) :])
        has_marker = b"JFIF\0" in header or b"Adobe" in prefix + header
        if self.segments.page.photometric == YCBCR and colours == "RGB":
            raise self._contradiction("are YCbCr", "say by an Adobe marker that they are RGB")
        if self.segments.page.photometric == RGB and colours != "RGB" and not has_marker:
            if sampling != "444":
                raise self._contradiction(
                    "are RGB", f"store colour at a lower resolution ({sampling}), as only YCbCr does"
                )
            prefix = JPEG_START + ADOBE_RGB + self._tables
        return prefix, (height, width)

    def _contradiction(self, says: str, but: str) -> UnsupportedImageError:
        return UnsupportedImageError(
            f"'{self.segments.path}': TIFF directory {self.segments.page.index} says its tiles {says}, but they {but}. "
            "Which it is cannot be told. Correct the tag PhotometricInterpretation (2 is RGB, 6 YCbCr), or convert the "
            "slide anew."
        )


def are_faithful(levels: Sequence[JpegTiles]) -> bool:
    """Whether libjpeg-turbo gives the pixels that tifffile gives, on a tile of each of some levels of a file.

    Damaged tiles are no evidence; whoever reads them gets the error. False is also the answer where all tiles tried
    draw the same harmless warning: then it is the writer's habit, and the levels are left to decoders that ignore it.

    Args:
        levels: Their decoders.

    Raises:
        UnreadableImageError: if none of the tiles tried can be decoded.
        UnsupportedImageError: if the colours cannot be told: what tiles say of themselves contradicts their directory.
    """
    failures, successes = [], 0
    for tiles in levels:
        for index in tiles.segments.samples():
            try:
                ours = tiles.decode(index)
            except UnreadableImageError as error:
                failures.append(error)
                continue
            theirs = tiles.segments.decode(index)
            if np.abs(ours.astype(np.int16) - theirs).mean() > MAX_ROUNDING:
                raise tiles._contradiction(
                    f"have the colours {int(tiles.segments.page.photometric)}",
                    "have others by their own markers, or not all the same ones",
                )
            if not np.array_equal(ours, theirs):
                return False
            successes += 1
            break  # one sound tile speaks for its level
    if successes or not failures:
        return True
    if len(failures) > 1 and all(any(habit in str(error) for habit in HABITS) for error in failures):
        return False
    raise failures[0]
