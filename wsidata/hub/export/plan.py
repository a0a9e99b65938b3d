"""Plan of an export's rows, file names, preprocessing and encoding, made before any image is written.

Training from an export must equal training from the slides. So images are published before anything random is applied,
and their row numbers are kept, because augmentation is drawn per (seed, epoch, row). Of a transform only the
`CropOrPad` it begins with is applied: loaders apply the whole transform, and cropping again does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
import pyvips

from wsidata.datamodules.base import SplitDataModule
from wsidata.datamodules.geometry import OF_PLANES
from wsidata.datamodules.image_folder import ImageFolderDataModule
from wsidata.datamodules.tiles.module import TileDataModule
from wsidata.datamodules.wsi import WSIDataModule
from wsidata.datasets.cases import CaseDataset
from wsidata.datasets.epochs import EpochDataset
from wsidata.hub.export.encoding import choose_encoding
from wsidata.hub.manifest import (
    HUB_SPLITS,
    IMAGE_FOLDER,
    MASK_FOLDER,
    TABLE_SPLITS,
    ImageFormat,
    Kind,
    Preprocessing,
    Transforms,
)
from wsidata.hub.privacy import READING_ARGUMENTS, published_arguments, published_rows
from wsidata.jobs.identity import identity
from wsidata.slides.masks import is_outlines, outlined_in, values_in
from wsidata.slides.resample import RESAMPLING_VERSION
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.splits.split_file import split_digest
from wsidata.splits.unreadable import without_skipped
from wsidata.tables.label_table import slides_of
from wsidata.tables.parts import Part
from wsidata.transforms.compose import Compose, default_eval_transform, default_train_transform, photo_train_transform
from wsidata.transforms.describe import described
from wsidata.transforms.geometry.crop import CropOrPad

FILES_PER_FOLDER = 1000
"""The Hub asks for at most 10,000 entries per folder; file browsers for fewer."""

_DATASETS: dict[str, Part] = {"train": "train", "validation": "val", "test": "test", "predict": "predict"}
_DEFAULTS = {
    "slides": (default_train_transform, default_eval_transform),
    "photos": (photo_train_transform, default_eval_transform),
}
_LIBRARIES = ("slidestream", "pyvips", "pyvips-binary", "tifffile", "imagecodecs", "simplejpeg", "numpy")


class ExportError(ValueError):
    """An export cannot be made; the message says why. What is there already never passes for a finished export."""


@dataclass(frozen=True)
class SplitPlan:
    """The images of one split.

    Attributes:
        split: Name on the Hub.
        dataset: Source of the images.
        crop: The applied part of the transform; None if there is none.
        indices: Row in `dataset` of each image, in order.
        places: Path of each below the export, without suffix.
        mask_places: The same for each mask; empty without masks.
        sources: Source file of each, followed by that of its mask.
    """

    split: str
    dataset: EpochDataset
    crop: CropOrPad | None
    indices: tuple[int, ...]
    places: tuple[str, ...]
    mask_places: tuple[str, ...]
    sources: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ExportPlan:
    """A planned export.

    Attributes:
        manifest: The manifest, without tables, statistics and number of bytes, and before the layout is chosen.
        rows: Result of `privacy.published_rows`, and the column `place`.
        splits: The splits that have rows.
    """

    manifest: Preprocessing
    rows: pd.DataFrame
    splits: tuple[SplitPlan, ...]


def plan_export(
    dm: SplitDataModule,
    *,
    image_format: ImageFormat | None = None,
    quality: int | None = None,
    opaque_ids: bool = False,
    keep_names: Sequence[str] = (),
) -> ExportPlan:
    """Plan an export; reads the table and no image.

    Args:
        dm: The data module.
        image_format: See `encoding.choose_encoding`.
        quality: JPEG quality.
        opaque_ids: See `privacy.published_rows`.
        keep_names: See `privacy.published_rows`.

    Raises:
        ExportError: if the data module is of another kind, leaves rows out, or has none.
        PrivacyError, TableError, SplitError, ValueError: for its table and arguments.
    """
    if not isinstance(dm, WSIDataModule | ImageFolderDataModule):
        raise ExportError(
            f"a {type(dm).__name__} cannot be exported: its images are encoded already. Publish the WSIDataModule or "
            "ImageFolderDataModule it was made from, or copy the repository as it is."
        )
    if isinstance(dm, TileDataModule):
        raise ExportError(
            "tiles are not exported, as they follow from the slides: publish the WSIDataModule of the same table and "
            "split, and its readers cut the tiles that they need."
        )
    kind: Kind = "slides" if isinstance(dm, WSIDataModule) else "photos"
    arguments = {"lazy": False, **published_arguments(dm.arguments)}
    size: tuple[int, int] | None = getattr(dm, "image_size", None)
    arguments["image_size"] = None if size is None else list(size)
    lazy = bool(arguments["lazy"])
    encoding = choose_encoding(image_format, quality, lazy=lazy, photos=kind == "photos")
    labels = replace(dm.labels, frame=without_skipped(dm.labels.frame, dm.skipped))
    rows = published_rows(labels, opaque_ids=opaque_ids, keep_names=keep_names)
    if rows.empty:
        raise ExportError("the data module's table has no rows.")
    rows = rows.assign(place=_places(rows))
    datasets: dict[str, Any] = {"train": _images_of(dm, "train"), "val": _images_of(dm, "val")}
    arguments["dtype"] = datasets["train"].dtype
    if "case" in rows.columns:
        arguments["cases"] = True
    if kind == "photos":
        arguments["resize_px"] = datasets["train"].resize_px
    crops = {name: leading_crop(dataset.transform) for name, dataset in datasets.items()}
    train_crop = crops["train"] if repr(crops["train"]) == repr(crops["val"]) else None
    splits = tuple(
        _plan_split(dm, labels.frame["image_id"], split, rows, train_crop if split == "train" else crops["val"])
        for split in dict.fromkeys(rows["split"])
    )
    train_default, eval_default = _DEFAULTS[kind]
    transforms = {
        "train": _described(datasets["train"].transform, train_default(size), train_crop),
        "eval": _described(datasets["val"].transform, eval_default(size), crops["val"]),
    }
    manifest = Preprocessing(
        kind=kind,
        layout="files",
        encoding=encoding,
        target=dm.labels.target,
        class_names=dm.class_names,
        tables=(),
        transforms=transforms,
        arguments=arguments,
        crop=_crop_settings(getattr(datasets["train"], "crop", None)),
        split_digest=split_digest(rows.assign(split=rows["split"].map(TABLE_SPLITS))),
        opaque_ids=opaque_ids,
        stats=None,
        versions=_versions(),
        image_count=len(rows),
    )
    return ExportPlan(manifest, rows, splits)


def leading_crop(transform: Any) -> CropOrPad | None:
    """The deterministic `CropOrPad` that a transform begins with; None if it begins with something else."""
    if isinstance(transform, Compose):
        return leading_crop(transform.transforms[0]) if transform.transforms else None
    return transform if isinstance(transform, CropOrPad) and transform.position == "centre" else None


def _plan_split(
    dm: SplitDataModule, image_ids: pd.Series[str], split: str, rows: pd.DataFrame, crop: CropOrPad | None
) -> SplitPlan:
    ours = rows[rows["split"] == split]
    table = slides_of(dm.tables[_DATASETS[split]])
    position = {name: index for index, name in enumerate(table["image_id"])}
    ids = image_ids.iloc[ours["row"]]
    if not set(ids) <= set(position):
        raise ExportError(
            f"{len(set(ids) - set(position))} rows have no split, and predict_on={dm.predict_on!r} leaves them out. "
            "Make the data module with predict_on='all'."
        )
    indices = tuple(position[name] for name in ids)
    columns = [name for name in ("path", "mask") if name in table.columns]
    places = tuple(ours["place"])
    return SplitPlan(
        split=split,
        dataset=_images_of(dm, _DATASETS[split]),
        crop=crop,
        indices=indices,
        places=places,
        mask_places=tuple(place.replace(f"/{IMAGE_FOLDER}/", f"/{MASK_FOLDER}/", 1) for place in places)
        if "mask" in columns
        else (),
        sources=tuple(tuple(filter(None, (str(table[name].iloc[index]) for name in columns))) for index in indices),
    )


def _images_of(dm: SplitDataModule, part: Part) -> EpochDataset:
    """The images of a split, also of cases one by one."""
    dataset = dm.make_dataset(part)
    return dataset.slides if isinstance(dataset, CaseDataset) else dataset


def _places(rows: pd.DataFrame) -> list[str]:
    """A unique path for each image that is safe in any file system and URL."""
    places: list[str] = []
    taken: set[str] = set()
    counts = dict.fromkeys(HUB_SPLITS.values(), 0)
    for name, split in zip(rows["image_id"], rows["split"], strict=True):
        folder = f"{split}/{IMAGE_FOLDER}/{counts[split] // FILES_PER_FOLDER:05d}"
        counts[split] += 1
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:100] or "image"
        place, number = f"{folder}/{safe}", 2
        while place.lower() in taken:
            place, number = f"{folder}/{safe}-{number}", number + 1
        taken.add(place.lower())
        places.append(place)
    return places


def _described(transform: Any, default: Any, applied: CropOrPad | None) -> Transforms:
    text = described(transform)
    return Transforms(text == described(default), text, None if applied is None else described(applied))


def _crop_settings(crop: TissueCrop | None) -> dict[str, Any] | None:
    """Settings of a tissue crop as plain values; its method by name."""
    if crop is None:
        return None
    settings = {one.name: getattr(crop, one.name) for one in fields(crop)}
    return {**settings, "method": described(crop.method)}


def _versions() -> dict[str, str]:
    libvips = ".".join(str(pyvips.version(place)) for place in range(3))
    found = {"libvips": libvips, "resampling": str(RESAMPLING_VERSION)}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a conda environment has libvips without the wheel
            found[name] = "not installed as a package"
    return found


def pixel_settings(plan: ExportPlan, split: SplitPlan) -> dict[str, Any]:
    """Everything that the pixels of a split depend on, apart from its files."""
    crop, manifest = getattr(split.dataset, "crop", None), plan.manifest
    classes = getattr(split.dataset, "mask_classes", None)
    drawn = {"outline_classes": list(outlined_in(classes or {}).items())} if _has_outlines(split) else {}
    return {
        "encoding": asdict(manifest.encoding),
        "crop": repr(split.crop),
        "tissue": manifest.crop,
        "tissue_code": None if crop is None else identity(crop.method),
        "mask_classes": None if classes is None else values_in(classes),
        **drawn,
        "arguments": {
            name: manifest.arguments.get(name)
            for name in READING_ARGUMENTS
            if name not in OF_PLANES or manifest.arguments.get(name) is not None  # as exports begun before had none
        },
        "versions": manifest.versions,
    }


def _has_outlines(split: SplitPlan) -> bool:
    """Whether a mask is drawn from annotations."""
    return any(is_outlines(source) for sources in split.sources for source in sources[1:])
