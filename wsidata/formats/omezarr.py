"""OME-Zarr pyramids, versions 0.4 (Zarr 2) and 0.5 (Zarr 3, sharded or not).

The attributes of a group name the levels (`multiscales`), their axes with units, and each level's scale; `omero` may
name the channels and their colors. https://ngff.openmicroscopy.org/0.4/ and /0.5/.

Missing and cut-off chunks are detected by `stores.chunks`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import zarr
from numpy.typing import NDArray

from wsidata.errors import ConfinementError, UndecidedImageError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import (
    PLAIN_TYPES,
    RGB_NAMES,
    ImageChoice,
    PixelRequest,
    channel_numbers,
    check_is_rgb,
    choose_channels,
    scaling_hint,
)
from wsidata.formats.codecs.color import channels_image, requested_image
from wsidata.formats.codecs.zarr import check_array
from wsidata.formats.levels import Level
from wsidata.formats.metadata import Loaders, SlideMetadata, StatedSpacing, positive_number
from wsidata.formats.stores.chunks import StoredChunks
from wsidata.formats.stores.files import open_files
from wsidata.formats.vips import DECODED_AT_ONCE_BYTES, TileSource, source_tile
from wsidata.remote.address import SlidePath
from wsidata.utils.confine import confined

UM_PER_UNIT = {
    "micrometer": 1.0, "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "millimeter": 1e3, "millimetre": 1e3,
    "centimeter": 1e4, "centimetre": 1e4, "meter": 1e6, "metre": 1e6, "angstrom": 1e-4, "picometer": 1e-6,
    "picometre": 1e-6,
}  # fmt: skip
VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")
RGB_COLORS = ("FF0000", "00FF00", "0000FF")
MAX_SHIFT_PX = 1.0
"""Levels start at the same place to within this many of their own pixels; larger shifts are not supported."""
MAX_LEVELS = 64
MAX_IMAGES = 1000
"""Images of a store that are asked for where its server does not list them."""


class ZarrPyramid:
    """An open OME-Zarr: a multiscale image, or what bioformats2raw wrote, whose image 0 is the slide.

    Raises:
        UnreadableImageError: if metadata or arrays are missing or inconsistent.
        UnsupportedImageError: if it is not a single image (plates, focal planes, times), channels must be chosen, or
            it is stored in codecs or types that are not decoded here.
    """

    kind = "ome-zarr"
    reader = "zarr"

    def __init__(self, path: SlidePath, request: PixelRequest) -> None:
        self._path, self._request = path, request
        try:
            self._open()
        except (UnsupportedImageError, UnreadableImageError, ConfinementError):
            raise
        except Exception as error:  # zarr and its codecs raise many kinds of exceptions
            if "codec not available" in str(error):
                raise UnsupportedImageError(
                    f"'{path}' is compressed in a way that is not read here ({error}). Write it with Blosc or ZSTD."
                ) from error
            raise UnreadableImageError(f"'{path}' could not be read as OME-Zarr: {error}. Copy it again.") from error

    def _open(self) -> None:
        files, folder = open_files(self._path)
        root = zarr.open(files, path=folder, mode="r")
        if isinstance(root, zarr.Array):
            in_folder = f": '{self._path.parent}'" if isinstance(self._path, Path) else ""
            raise UnsupportedImageError(
                f"'{self._path}' is a single Zarr array {root.shape}, such as one level of an OME-Zarr. Open the "
                f"folder of the whole image, which holds it{in_folder}."
            )
        _check_version(root, self._path)
        group, others = _image_group(root, self._path, self._request.of, can_list=files.can_list)
        _check_version(group, self._path)
        attributes = _ome_attributes(group)
        multiscale = attributes["multiscales"][0]
        if "axes" not in multiscale:
            raise UnsupportedImageError(
                f"'{self._path}' is OME-Zarr {multiscale.get('version', '')} without named axes, as it was before 0.4. "
                "Write it again as 0.4 or 0.5 (ome-zarr-py, or bioformats2raw)."
            )
        self._axes = tuple(axis["name"] if isinstance(axis, Mapping) else str(axis) for axis in multiscale["axes"])
        if self._axes[-2:] != ("y", "x"):
            raise UnsupportedImageError(
                f"'{self._path}' has the axes {''.join(self._axes)}; the last two must be y, x."
            )
        if len(multiscale["datasets"]) > MAX_LEVELS:
            raise UnsupportedImageError(
                f"'{self._path}' names {len(multiscale['datasets'])} levels; more than {MAX_LEVELS} are no pyramid. "
                "Write its metadata again."
            )
        self._arrays = [_array(group, dataset["path"], self._path) for dataset in multiscale["datasets"]]
        storage = [check_array(array, self._path, array.path) for array in self._arrays]
        self._planes = self._chosen_planes()
        transforms = [_transform(multiscale, index, len(self._axes)) for index in range(len(self._arrays))]
        steps, starts = zip(*transforms, strict=True)
        self._check_starts(steps, starts)
        self.levels = tuple(self._level(index, steps) for index in range(len(self._arrays)))
        self._choose_channels(attributes)
        self.metadata = SlideMetadata(_spacing(multiscale, steps[0]), None, ("OME-Zarr scale and unit",), {
            "ome-zarr.version": str(attributes.get("version") or multiscale.get("version")),
            "ome-zarr.name": str(multiscale.get("name", "")),
            "zarr.format": str(group.metadata.zarr_format),
        })  # fmt: skip
        self.associated: Loaders = {name: partial(_whole_image, self._path, at) for name, at in others.items()}
        self._chunks = [
            StoredChunks(array, stored, files, level, self._path)
            for level, (array, stored) in enumerate(zip(self._arrays, storage, strict=True))
        ]
        self._checked: set[int] = set()

    def image(self, level: int) -> pyvips.Image:
        """A whole level: RGB, or the requested channels. A large level is lazy."""
        size, array = self.levels[level], self._arrays[level]
        need = size.width * size.height * len(self._chosen) * array.dtype.itemsize
        if need > DECODED_AT_ONCE_BYTES:
            return self.lazy_image(level)
        return self._shown(level, 0, 0, size.width, size.height)

    def lazy_image(self, level: int) -> pyvips.Image:
        """A level whose tiles are read when a pipeline requests them, also after the slide is closed."""
        array, size, bands = self._arrays[level], self.levels[level].size, len(self.channel_names)
        height_px, width_px = array.chunks[-2:]
        tile = source_tile((width_px, height_px), size, bands * array.dtype.itemsize)
        dtype = np.uint8 if self._request.scale_to_8bit is not None else array.dtype.newbyteorder("=")
        image = TileSource(size, tile, partial(self.region, level), bands=bands, dtype=dtype).image()
        return image if self._request.channels is None else channels_image(image)

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> None:
        """None: a chunk shared by two rectangles would be decoded twice."""

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[Any]:
        """A rectangle inside a level, (height, width, bands)."""
        pixels = self._shown(level, x_px, y_px, width_px, height_px).numpy()
        return np.asarray(pixels).reshape(height_px, width_px, -1)

    def close(self) -> None:
        """Nothing: chunks are files of their own, and an archive is open until the last image of it is dropped."""

    def _chosen_planes(self) -> dict[int, int]:
        """The index along each axis but those of channels, rows and columns, by the number of the axis."""
        sizes = dict(zip(self._axes, self._arrays[0].shape, strict=True))
        choice = self._request.of
        chosen = {
            "z": choice.place("z", range(sizes.get("z", 1)), self._path),
            "t": choice.place("t", range(sizes.get("t", 1)), self._path),
        }
        open_ = {axis: size for axis, size in sizes.items() if axis not in "cyx" and size > 1}
        open_ = {axis: size for axis, size in open_.items() if getattr(choice, axis, None) is None}
        if open_:
            listing = ", ".join(f"{axis}: {size}" for axis, size in open_.items())
            remedy = ", ".join(f"{axis}=0 to {axis}={size - 1}" for axis, size in open_.items() if axis in chosen)
            raise UnsupportedImageError(
                f"'{self._path}' holds a stack ({listing}: focal planes or times), not one image. "
                + (f"Choose one: Slide(path, ...) takes {remedy}." if remedy else "Export the plane.")
            )
        for level, array in enumerate(self._arrays):
            uneven = [axis for axis in chosen if axis in sizes and array.shape[self._axes.index(axis)] != sizes[axis]]
            if uneven:
                raise UnsupportedImageError(
                    f"'{self._path}': level {level} has another number of planes along {', '.join(uneven)} than level "
                    "0, so its planes are not the same ones. Write the pyramid again with all planes in each level."
                )
        return {place: chosen.get(axis, 0) for place, axis in enumerate(self._axes[:-2]) if axis != "c"}

    def _check_starts(self, steps: tuple[Any, ...], starts: tuple[Any, ...]) -> None:
        for index, (step, start) in enumerate(zip(steps, starts, strict=True)):
            shifts = [abs(start[axis] - starts[0][axis]) / step[axis] for axis in (-2, -1)]
            if max(shifts) > MAX_SHIFT_PX:
                raise UnsupportedImageError(
                    f"'{self._path}': level {index} begins {max(shifts):.1f} of its pixels away from level 0. Such "
                    "levels are not read here: write the pyramid again with one origin."
                )

    def _level(self, index: int, steps: tuple[Any, ...]) -> Level:
        """A level by its stated scale, which must match its size to a pixel; before 0.4 only the sizes are stated."""
        (base_height, base_width), (height, width) = (self._arrays[at].shape[-2:] for at in (0, index))
        if index and (height, width) >= self._arrays[index - 1].shape[-2:]:
            raise UnsupportedImageError(
                f"'{self._path}': level {index} ({width}x{height}) is no smaller than the one before. OME-Zarr lists "
                "levels from the largest to the smallest: write the pyramid's metadata again."
            )
        downs = tuple(steps[index][axis] / steps[0][axis] for axis in (-1, -2))
        if all(step == steps[0] for step in steps):
            return Level(index, width, height, base_width / width, base_height / height)
        for side, base, down in ((width, base_width, downs[0]), (height, base_height, downs[1])):
            if abs(side - base / down) > MAX_SHIFT_PX:
                raise UnsupportedImageError(
                    f"'{self._path}': level {index} ({width}x{height}) has the scale {down:.4g} of level 0 "
                    f"({base_width}x{base_height}), which does not fit its size. Write the pyramid's metadata again."
                )
        return Level(index, width, height, *downs)

    def _choose_channels(self, attributes: Mapping[str, Any]) -> None:
        array = self._arrays[0]
        count = array.shape[self._axes.index("c")] if "c" in self._axes else 1
        stated = [
            channel for channel in attributes.get("omero", {}).get("channels", []) if isinstance(channel, Mapping)
        ]
        labels = [one.get("label") for one in stated] if len(stated) == count else [None] * count
        names = tuple(str(label or number) for number, label in enumerate(labels))
        is_rgb = count == 3 and tuple(str(one.get("color", "")).upper() for one in stated) == RGB_COLORS
        if self._request.channels is not None:
            self._chosen = channel_numbers(self._request.channels, names, self._path)
            self.channel_names = tuple(names[number] for number in self._chosen)
        elif count == 1 or is_rgb or self._request.is_rgb:
            if count != 1:
                check_is_rgb(names, self._path)
            self._chosen, self.channel_names = tuple(range(count)), RGB_NAMES
        else:
            colors = " of unstated colors" if count == 3 else ""
            choose_channels(f"'{self._path}' holds {count} channels of {array.dtype}{colors}", names)
        fits = PLAIN_TYPES if self._request.channels is not None else ("uint8",)
        if self._request.scale_to_8bit is None and array.dtype.name not in fits:
            raise UndecidedImageError(
                f"'{self._path}' holds {array.dtype} samples. There is no one right way to show them in 8 bits: say "
                f"which stored values are black and white{scaling_hint(array.dtype)}."
            )

    def _shown(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> pyvips.Image:
        array, chunks = self._arrays[level], self._chunks[level]
        if level not in self._checked:
            of_channels = {self._axes.index("c"): self._chosen} if "c" in self._axes else {}
            chunks.check_present(of_channels | {axis: (index,) for axis, index in self._planes.items()})
            self._checked.add(level)
        place: list[Any] = [self._planes.get(axis, 0) for axis in range(len(self._axes) - 2)]
        place += [slice(y_px, y_px + height_px), slice(x_px, x_px + width_px)]
        planes = []
        for channel in self._chosen:
            if "c" in self._axes:
                place[self._axes.index("c")] = channel
            chunks.check_intact(place)
            try:
                planes.append(np.asarray(array[tuple(place)]))
            except Exception as error:  # codecs raise exceptions of their own, without a common base
                raise UnreadableImageError(
                    f"'{self._path}': level {level} could not be decoded ({error}). Copy it again from its source."
                ) from error
        meaning = "srgb" if len(planes) == 3 else "b-w"
        return requested_image(np.stack(planes, axis=-1), meaning, self._request, self._path.name)


def _image_group(
    root: zarr.Group, path: SlidePath, choice: ImageChoice, *, can_list: bool
) -> tuple[zarr.Group, dict[str, int]]:
    """The group of the slide, and name and number of the images beside it (label, macro) in bioformats2raw's layout."""
    attributes = _ome_attributes(root)
    if "multiscales" in attributes:
        choice.place("series", range(1), path)
        return root, {}
    if "plate" in attributes or "well" in attributes:
        raise UnsupportedImageError(f"'{path}' is a plate of many images. Open one of them: the folder of its field.")
    names = _numbered_groups(root, can_list=can_list)
    if "bioformats2raw.layout" in attributes and not names:
        raise UnreadableImageError(
            f"'{path}' has the metadata of bioformats2raw, but none of its images. Copy it again."
        )
    if not names:
        raise UnreadableImageError(f"'{path}' is a Zarr store without OME-Zarr metadata (no 'multiscales').")
    chosen = names[choice.place("series", names, path)]
    slide = root[chosen]
    if not isinstance(slide, zarr.Group):
        raise UnreadableImageError(f"'{path}': '{chosen}' is no group. Copy it again from its source.")
    return slide, {name: number for number, name in enumerate(names) if name != chosen}


def _numbered_groups(root: zarr.Group, *, can_list: bool) -> list[str]:
    """Names of the images of bioformats2raw, "0", "1" ...; where the server does not list them, without gaps."""
    if can_list:
        return sorted((name for name, _ in root.groups() if name.isdigit()), key=int)
    return list(itertools.takewhile(root.__contains__, map(str, range(MAX_IMAGES))))


def _ome_attributes(group: zarr.Group) -> Mapping[str, Any]:
    """The OME attributes of a group, which version 0.5 stores under "ome"."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return {**attributes, **inner} if isinstance(inner, Mapping) else attributes


def _check_version(group: zarr.Group, path: SlidePath) -> None:
    """Raise for versions of OME-Zarr that are not known here: their transformations mean something else."""
    attributes = _ome_attributes(group)
    stated = [attributes, *attributes.get("multiscales", [])]
    version = next((str(one["version"]) for one in stated if isinstance(one, Mapping) and "version" in one), None)
    if version is not None and version not in VERSIONS:
        raise UnsupportedImageError(
            f"'{path}' is OME-Zarr {version}, which is not read here (only {', '.join(VERSIONS)}). Write it again as "
            "0.4 or 0.5 (ome-zarr-py, or bioformats2raw)."
        )


def _array(group: zarr.Group, name: str, path: SlidePath) -> zarr.Array[Any]:
    if name not in group:
        raise UnreadableImageError(f"'{path}': level '{name}' is named in the metadata, but not there. Copy it again.")
    _check_inside(path, Path(group.path, name).as_posix())
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise UnreadableImageError(f"'{path}': level '{name}' is no array. Copy it again from its source.")
    return found


def _check_inside(path: SlidePath, name: str) -> None:
    """Check that the name of an array does not lead out of its store.

    Raises:
        ConfinementError: if it does.
    """
    if isinstance(path, Path):
        confined(path, name, f"'{path}'")
    elif ".." in name.split("/") or name.startswith("/") or "://" in name:
        raise ConfinementError(f"'{path}' names '{name}', which leads out of it. Write its metadata again.")


def _transform(multiscale: Mapping[str, Any], index: int, axes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translation of a level, followed by those common to all levels."""
    scale, shift = np.ones(axes), np.zeros(axes)
    dataset = multiscale["datasets"][index]
    for one in [*dataset.get("coordinateTransformations", []), *multiscale.get("coordinateTransformations", [])]:
        if one["type"] == "scale":
            scale, shift = scale * np.asarray(one["scale"]), shift * np.asarray(one["scale"])
        elif one["type"] == "translation":
            shift = shift + np.asarray(one["translation"])
    return tuple(scale.tolist()), tuple(shift.tolist())


def _spacing(multiscale: Mapping[str, Any], scale: tuple[float, ...]) -> tuple[StatedSpacing, ...]:
    """In um per pixel; empty without a stated scale (optional before 0.4), or where an axis has no unit of length."""
    places = (multiscale["datasets"][0], multiscale)
    if not any(one["type"] == "scale" for place in places for one in place.get("coordinateTransformations", [])):
        return ()
    axes = multiscale["axes"]
    units = [UM_PER_UNIT.get(str(axis.get("unit"))) if isinstance(axis, Mapping) else None for axis in axes]
    x, y = (None if units[at] is None else positive_number(scale[at] * float(units[at] or 0)) for at in (-1, -2))
    return () if x is None or y is None else (StatedSpacing("OME-Zarr (scale)", (x, y)),)


def _whole_image(path: SlidePath, number: int) -> pyvips.Image:
    return ZarrPyramid(path, PixelRequest(of=ImageChoice(series=number))).image(0)
