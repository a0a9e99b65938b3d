"""Small synthetic photos of toadstools of several kinds, for demos and tests.

Kinds differ in the color of the cap, its height, and its spots; photos of one kind differ in position, size, light,
background and format. So neither the mean color nor any single pixel reveals the kind, but a network can learn it.

    write_photos("toadstools", classes=4, per_class=12)                        # labels.csv, names.csv, photos/
    write_photo_folders("toadstools", classes=4, parts={"train": 9, "test": 3})  # train/amber/001.jpg ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import simplejpeg
from numpy.typing import NDArray

KINDS = ("scarlet", "amber", "olive", "teal", "azure", "violet", "rose", "ivory")
"""Names of the kinds; further kinds repeat them with a number."""

_HUES = (2, 16, 34, 88, 106, 135, 165, 24)
"""Hues of the caps, in OpenCV's half degrees."""

Pixels = NDArray[np.uint8]


def write_photos(
    folder: str | Path, *, classes: int = 4, per_class: int = 12, side_px: int = 192, seed: int = 0
) -> Path:
    """Write photos with a table, as in real collections: names without suffix, suffixes in either case.

        folder/labels.csv        image,label         img_0,0
        folder/names.csv         label,name          0,scarlet
        folder/photos/           img_0.jpg, img_1.JPG, ...

    Args:
        folder: Where to write; created if missing.
        classes: Number of kinds.
        per_class: Photos of each.
        side_px: About the shorter side of a photo; some are portrait, some landscape.
        seed: The same arguments and seed give the same files.

    Returns:
        The folder.
    """
    folder = Path(folder)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    labels: list[tuple[str, int]] = []
    for number, (kind, photo) in enumerate(_photos(classes, per_class, side_px, seed)):
        suffix = ".JPG" if number % 9 == 5 else ".jpg"
        (folder / "photos" / f"img_{number}{suffix}").write_bytes(encode_photo(photo))
        labels.append((f"img_{number}", kind))
    names = [(kind, kind_name(kind)) for kind in range(classes)]
    pd.DataFrame(labels, columns=["image", "label"]).to_csv(folder / "labels.csv", index=False, lineterminator="\n")
    pd.DataFrame(names, columns=["label", "name"]).to_csv(folder / "names.csv", index=False, lineterminator="\n")
    return folder


def write_photo_folders(
    folder: str | Path,
    *,
    classes: int = 4,
    per_class: int = 12,
    parts: Mapping[str, int] | None = None,
    side_px: int = 192,
    seed: int = 0,
) -> Path:
    """Write photos in a folder per kind: `folder/amber/001.jpg`.

    Args:
        folder: Where to write; created if missing.
        classes: Number of kinds.
        per_class: Photos of each, without `parts`.
        parts: Photos of each kind in each split, such as `{"train": 9, "test": 3}`: then `folder/train/amber/001.jpg`.
        side_px: About the shorter side of a photo.
        seed: The same arguments and seed give the same files.

    Returns:
        The folder.
    """
    folder = Path(folder)
    places = [""] * per_class if parts is None else [part for part, count in parts.items() for _ in range(count)]
    for number, (kind, photo) in enumerate(_photos(classes, len(places), side_px, seed)):
        path = folder / places[number // classes] / kind_name(kind) / f"{number // classes + 1:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_photo(photo))
    return folder


def kind_name(kind: int) -> str:
    """Name of a kind of toadstool.

    >>> kind_name(1), kind_name(9)
    ('amber', 'amber 2')
    """
    turn, place = divmod(kind, len(KINDS))
    return KINDS[place] if turn == 0 else f"{KINDS[place]} {turn + 1}"


def encode_photo(pixels: Pixels, quality: int = 90) -> bytes:
    """A JPEG of (height, width, 3) RGB pixels with 4:2:0 chroma subsampling, as cameras write it."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420"))


def paint_photo(kind: int, height_px: int, width_px: int, rng: np.random.Generator) -> Pixels:
    """Pixels of a toadstool of a kind (0, 1, ...) on a forest floor, (height, width, 3) RGB."""
    photo = _floor(height_px, width_px, rng)
    side = min(height_px, width_px)
    radius = side * rng.uniform(0.22, 0.34)
    flat = (0.45, 0.8, 0.62)[kind % 3] * rng.uniform(0.93, 1.07)
    x = width_px * rng.uniform(0.35, 0.65)
    y = height_px * rng.uniform(0.35, 0.5)
    lean = radius * rng.uniform(-0.25, 0.25)
    stem = np.array([[x - 0.18 * radius, y], [x + 0.18 * radius, y]])
    foot = np.array([[x + lean + 0.26 * radius, y + 1.7 * radius], [x + lean - 0.26 * radius, y + 1.7 * radius]])
    cv2.fillPoly(photo, [np.rint(np.concatenate([stem, foot])).astype(np.int32)], _shade(24, 40, 215, rng), cv2.LINE_AA)
    cap = _shade(_HUES[kind % len(KINDS)], 60 if kind % len(KINDS) == 7 else 215, 190, rng)
    axes = (round(radius), round(radius * flat))
    cv2.ellipse(photo, (round(x), round(y)), axes, 0, 180, 360, cap, -1, cv2.LINE_AA)
    if kind % 2 == 0:
        _spots(photo, (x, y), radius, flat, rng)
    light = rng.uniform(0.75, 1.1)
    noise = rng.normal(0, 4, photo.shape)
    return np.clip(photo * light + noise, 0, 255).astype(np.uint8)


def _photos(classes: int, per_class: int, side_px: int, seed: int) -> Iterator[tuple[int, Pixels]]:
    """Photos with the kinds in turn; each has a generator of its own, so that adding photos leaves the others alike."""
    for number in range(classes * per_class):
        rng = np.random.default_rng([seed, number])
        short, long = round(side_px * rng.uniform(0.95, 1.1)), round(side_px * rng.uniform(1.2, 1.5))
        height, width = (long, short) if rng.random() < 0.3 else (short, long)
        yield number % classes, paint_photo(number % classes, height, width, rng)


def _floor(height_px: int, width_px: int, rng: np.random.Generator) -> Pixels:
    """Background of leaves and moss: smooth noise between brown and green, and blades of any color."""
    coarse = rng.uniform(-0.5, 0.5, (height_px // 12 + 2, width_px // 12 + 2, 4)).astype(np.float32)
    light, *tints = np.moveaxis(cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC), 2, 0)
    base = np.array([rng.uniform(60, 130), rng.uniform(70, 130), rng.uniform(30, 70)])
    floor = np.clip(base + 70 * light[..., None] + 25 * np.stack(tints, axis=-1), 0, 255).astype(np.uint8)
    for _ in range(14):
        start = rng.uniform(0, (width_px, height_px), 2)
        end = start + rng.normal(0, 0.12 * max(height_px, width_px), 2)
        color = _shade(int(rng.integers(180)), int(rng.integers(60, 200)), int(rng.integers(60, 200)), rng)
        cv2.line(floor, _point(start), _point(end), color, int(rng.integers(1, 4)), cv2.LINE_AA)
    return np.ascontiguousarray(floor)


def _spots(photo: Pixels, center: tuple[float, float], radius: float, flat: float, rng: np.random.Generator) -> None:
    """Paint pale spots on the cap, in place."""
    for angle in np.linspace(0.2, np.pi - 0.2, 6) + rng.normal(0, 0.08, 6):
        reach = radius * rng.uniform(0.35, 0.8)
        place = np.array([center[0] + reach * np.cos(angle), center[1] - reach * flat * np.sin(angle)])
        cv2.circle(photo, _point(place), max(1, round(0.07 * radius)), _shade(25, 15, 240, rng), -1, cv2.LINE_AA)


def _shade(hue: int, saturation: int, value: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """An RGB color near one of hue (0..179), saturation and value (0..255)."""
    near = np.clip(
        [hue + rng.normal(0, 2), saturation + rng.normal(0, 10), value + rng.normal(0, 12)], 0, (179, 255, 255)
    )
    red, green, blue = cv2.cvtColor(near.astype(np.uint8).reshape(1, 1, 3), cv2.COLOR_HSV2RGB).ravel()
    return int(red), int(green), int(blue)


def _point(place: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(place[0])), round(float(place[1]))
