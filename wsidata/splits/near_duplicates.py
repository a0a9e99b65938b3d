"""Detection of copies by their bytes, and of near-duplicates by perceptual hashing.

Reading hundreds of slides of gigabytes whole would take hours, so bytes are compared in three steps, each only for the
files that the step before could not tell apart: size, the ends and the middle, everything. Near-duplicates (saved
again, resized, rotated, cropped) are found by a perceptual hash of a thumbnail (the signs of its low frequencies, after
pHash: Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), and confirmed by
correlating the thumbnails.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.photos.read import read_photo
from wsidata.remote.address import Address, is_address, shown
from wsidata.remote.source import RemoteBytes, identity_of
from wsidata.slides.file_facts import FileFacts
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.slide import Slide
from wsidata.utils.files import SAMPLE_BYTES, file_sha256, files_of, sample_digest
from wsidata.utils.retries import retried

SIDE_PX = 32
"""Side of the thumbnails."""

_LARGE_BYTES = 16 * 1024**2
"""Bytes of a file from which digests are kept: looking one up costs as much as reading a few megabytes."""

_FREQUENCIES = 12

_PLAIN_STD = 0.01
"""Variation (as a fraction of the brightest value) below which a thumbnail is plain."""

HASH_DISTANCE = 0.18
"""Fraction of differing signs up to which two images may be near-duplicates.

Measured on photos and synthetic slides: up to 0.09 for the same image recompressed, halved, lightened or rotated, up to
0.2 with 5 % of it cut off (0.13 in the middle), at least 0.28 for different images."""

CORRELATION = 0.8
"""Correlation of thumbnails from which two images are near-duplicates."""


def same_bytes(paths: Iterable[str]) -> list[list[str]]:
    """Groups of files with the same content; a folder (Zarr) counts as one file, missing paths are ignored.

    Of files on servers only size, ends and middle are compared, and stores there are left out.
    """
    named = list(dict.fromkeys(paths))
    remote = [path for path in named if is_address(path) and not Address(path).is_store]
    same = _equal([path for path in named if not is_address(path) and Path(path).exists()], *_OF_FILES)
    return same + _equal(remote, *_OF_ADDRESSES)


def _equal(paths: list[str], *keys: Callable[[str], Hashable]) -> list[list[str]]:
    """Groups of paths that are equal by all of the keys, each found out only of those that are equal so far."""
    groups = [paths]
    for key in keys:
        groups = [same for group in groups for same in _divide(group, key)]
    return groups


def _divide(paths: list[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """The groups of at least two paths with one key."""
    of: defaultdict[Hashable, list[str]] = defaultdict(list)
    for path in paths:
        of[retried(partial(key, path), shown(path))].append(path)
    return [group for group in of.values() if len(group) > 1]


def _size(path: str) -> int:
    return sum(file.stat().st_size for file in files_of(Path(path)))


def _sample(path: str) -> str | None:
    return _known("sample", sample_digest, Path(path))


def _digest(path: str) -> tuple[str | None, ...]:
    return tuple(_known("sha256", file_sha256, file) for file in files_of(Path(path)))


def _remote_size(path: str) -> int:
    return identity_of(Address(path)).length


def _remote_sample(path: str) -> str:
    """SHA-256 of the ends and the middle of a file on a server."""
    file = RemoteBytes(Address(path))
    length = file.identity.length
    places = (0, length // 2, max(0, length - SAMPLE_BYTES))
    return hashlib.sha256(b"".join(file.read(place, SAMPLE_BYTES) for place in places)).hexdigest()


_OF_FILES, _OF_ADDRESSES = (_size, _sample, _digest), (_remote_size, _remote_sample)


@dataclass(frozen=True)
class _DigestFact:
    sha256: str


def _known(name: str, digest: Callable[[Path], str | None], path: Path) -> str | None:
    """A digest of a file; of large ones it is known from earlier runs."""
    if not path.is_file() or path.stat().st_size < _LARGE_BYTES:
        return digest(path)
    kept = FileFacts(path)
    fact = kept.get(_DigestFact, name)
    if fact is not None:
        return fact.sha256
    found = digest(path)
    if found is not None:
        kept.put(name, _DigestFact(found))
        kept.save()
    return found


@dataclass(frozen=True, eq=False)
class PerceptualHash:
    """Perceptual hash and thumbnail of an image.

    Attributes:
        signs: (8, 143) bool: hash of the image in each of the eight right-angle symmetries, itself first.
        pixels: (8, 1024) float32: the thumbnail in each of them, mean 0, standard deviation 1.
    """

    signs: NDArray[np.bool_]
    pixels: NDArray[np.float32]


def slide_thumbnail(path: str, options: SlideOptions = AS_STORED) -> NDArray[np.float64]:
    """Thumbnail of a slide, the mean of its channels, without its aspect ratio: (32, 32)."""
    with Slide.from_options(path, options) as slide:
        return thumbnail_of(slide)


def thumbnail_of(slide: Slide) -> NDArray[np.float64]:
    """`slide_thumbnail` of an open slide."""
    picture = slide.thumbnail(8 * SIDE_PX)
    if not slide.options.has_colors:  # `thumbnail_image` has rules for colors, which these are not
        picture = picture.bandmean().copy(interpretation="b-w")
    small = picture.thumbnail_image(SIDE_PX, height=SIDE_PX, size="force")
    pixels = np.asarray(small.numpy(), dtype=np.float64)
    return pixels if pixels.ndim == 2 else np.asarray(pixels.mean(axis=2))


def photo_thumbnail(path: str) -> NDArray[np.float64]:
    """Thumbnail of a photo, without its aspect ratio: (32, 32)."""
    small = read_photo(path, short_side_px=2 * SIDE_PX)
    return np.asarray(cv2.resize(small, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).mean(axis=2))


def perceptual_hash(thumbnail: NDArray[np.float64]) -> PerceptualHash | None:
    """Perceptual hash of a square gray thumbnail; None if it is plain, and so like every other plain one."""
    if thumbnail.std() <= _PLAIN_STD * max(float(np.abs(thumbnail).max()), 1e-9):
        return None
    level = (thumbnail - thumbnail.mean()) / thumbnail.std()
    turned = np.stack([np.rot90(side, turns) for side in (level, level.T) for turns in range(4)])
    return PerceptualHash(_signs(turned), turned.reshape(len(turned), -1).astype(np.float32))


def _signs(pictures: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which low frequencies of each picture (discrete cosine transform, without the mean) are above their median."""
    side = pictures.shape[-1]
    basis = np.cos(np.pi * (np.arange(side) + 0.5) * np.arange(_FREQUENCIES)[:, None] / side)
    basis[0] /= np.sqrt(2)
    frequencies = (basis @ pictures @ basis.T).reshape(len(pictures), -1)[:, 1:]
    return np.asarray(frequencies > np.median(frequencies, axis=1, keepdims=True))


def similar_pairs(first: list[PerceptualHash], second: list[PerceptualHash]) -> list[tuple[int, int, float]]:
    """`(i, j, correlation)` of near-duplicates `first[i]` and `second[j]`, rotated or not."""
    if not first or not second:
        return []
    ours = np.stack([hashed.signs[0] for hashed in first]).astype(np.float32) * 2 - 1
    pairs: list[tuple[int, int, float]] = []
    for j, hashed in enumerate(second):
        agreement = ours @ (hashed.signs.T.astype(np.float32) * 2 - 1) / ours.shape[1]  # (i, symmetry), 1 = all signs
        for i in np.flatnonzero((1 - agreement.max(axis=1)) / 2 <= HASH_DISTANCE):
            turn = int(agreement[i].argmax())
            correlation = float(first[i].pixels[0] @ hashed.pixels[turn] / hashed.pixels.shape[1])
            if correlation >= CORRELATION:
                pairs.append((int(i), j, correlation))
    return pairs
