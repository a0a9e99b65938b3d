"""Opening of a dataset by its name, which yields its table and a reader of its images.

folder or repository -> files of one commit -> table (of an export or any image dataset) -> reader
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from wsidata.hub.client import HubError, HubWarning, check_installed
from wsidata.hub.load.download import LocalCopy, open_folder, open_repository
from wsidata.hub.load.image_dataset import ImageDatasetColumns, read_image_dataset
from wsidata.hub.load.readers import PhotoReader, SlideReader
from wsidata.hub.load.tables import read_export
from wsidata.hub.manifest import PREPROCESSING_FILE, ExportFormatError, Kind, Preprocessing
from wsidata.hub.repository import HubRepository
from wsidata.tables.label_table import LabelTable
from wsidata.utils.plain_json import PlainJSONError, from_plain

_DEFAULTS: dict[Kind, dict[str, Any]] = {
    "slides": {"batch_size": 1, "dtype": "uint8", "image_size": None, "lazy": False, "max_slides": None},
    "photos": {"batch_size": 32, "dtype": None, "image_size": None, "resize_px": "auto", "normalize": None},
}
"""Arguments for each kind of image, where nothing else was published or requested."""


_COLUMNS = {name: f"{name}_column" for name in ("image", "label", "group", "site")} | {"config": "config"}
_LOADING = ["batch_size", "sampling", "predict_on", "max_slides"]
_DRAWN = ("val_fraction", "seed", "small_classes")


_LARGEST_PX = 10**7


@dataclass(frozen=True)
class _Published:
    """Types of the published arguments that are used here."""

    batch_size: int = 1
    dtype: Literal["uint8", "float"] | None = None
    image_size: int | tuple[int, int] | None = None
    lazy: bool = False
    resize_px: int | Literal["auto"] | None = None
    normalize: Literal["stats", "imagenet"] | None = None
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    predict_on: Literal["train", "val", "test", "all"] | None = None
    max_slides: int | None = None


@dataclass(frozen=True)
class Opened:
    """A dataset whose table was read.

    Attributes:
        copy: Its files.
        labels: Its table.
        facts: What was published of each image (see `tables.FACTS`); None if it was not published by this package.
        reader: What checks, reads and counts its images.
        loading: `batch_size`, `sampling`, `predict_on` and `max_slides`.
    """

    copy: LocalCopy
    labels: LabelTable
    facts: pd.DataFrame | None
    reader: SlideReader | PhotoReader
    loading: dict[str, Any]


def open_published(
    options: Mapping[str, Any], token: str | bool | None, transforms: Mapping[str, Callable[[Any], Any] | None]
) -> Opened:
    """Find a dataset, download what is missing, and read its table.

    Args:
        options: Arguments of `HubDataModule`, by name.
        token: Its token.
        transforms: Its `train_transform` and `eval_transform`.

    Raises:
        HubError, ExportFormatError: see `HubDataModule`.
    """
    copy = _find(options, token)
    columns = {name: options[argument] for name, argument in _COLUMNS.items() if options[argument] is not None}
    drawn = {name: options[name] for name in _DRAWN if options[name] is not None}
    facts = None
    if copy.preprocessing is None:
        labels = read_image_dataset(copy, ImageDatasetColumns(**columns), **drawn)
    else:
        given = [*(_COLUMNS[name] for name in columns), *drawn]
        if given:
            raise HubError(
                f"'{copy.name}' was published with its columns and its split, which {'=, '.join(given)}= would not "
                "change. Leave that out."
            )
        labels, facts = read_export(copy, copy.preprocessing, remote=options["streaming"])
    chosen = _choose(copy, options)
    loading = {name: chosen.pop(name) for name in _LOADING if name in chosen}
    if copy.preprocessing is not None:
        _warn_of_differences(copy.name, copy.preprocessing, transforms, lazy=bool(chosen.get("lazy")))
    kind = SlideReader if "lazy" in chosen else PhotoReader
    return Opened(copy, labels, facts, kind(labels, **{**chosen, **transforms}), loading)


def _find(options: Mapping[str, Any], token: str | bool | None) -> LocalCopy:
    """The files, downloaded if necessary."""
    source, streaming = options["source"], options["streaming"]
    folder = Path(source).expanduser()
    if folder.is_dir() or source.startswith(("/", ".", "~")):
        useless = [name for name in ("revision", "streaming") if options[name]]
        if useless:
            raise HubError(f"'{source}' is a folder on this disk: leave out {'=, '.join(useless)}=.")
        return open_folder(folder, cache_dir=_path(options["cache_dir"]))
    check_installed("huggingface_hub", f"'{source}' is downloaded from the Hub, which")
    given = {name: options[name] for name in ("revision", "endpoint")}
    repository = HubRepository(source, token=token, cache_dir=_path(options["cache_dir"]), **given)
    copy = open_repository(repository, tables_only=streaming)
    if streaming and (copy.preprocessing is None or copy.preprocessing.layout != "files"):
        raise HubError(
            f"streaming=True fetches one file per image, and '{source}' keeps its images inside Parquet, or was not "
            "published by this package. Leave streaming= out: it is downloaded once."
        )
    return copy


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _choose(copy: LocalCopy, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of reader and loaders: requested, else published, else the default of the kind of image."""
    kind: Kind = "photos" if copy.preprocessing is None else copy.preprocessing.kind
    published = {} if copy.preprocessing is None else _published(copy.name, copy.preprocessing)
    defaults = {**_DEFAULTS[kind], "sampling": "shuffle", "predict_on": None}
    chosen = {name: published.get(name, default) for name, default in defaults.items()}
    for name in ("image_size", "dtype", "batch_size", "sampling", "lazy"):
        if options[name] is not None:
            chosen[name] = options[name]
    if copy.preprocessing is not None and kind == "photos":
        chosen["resize_px"] = None  # they were resized before publishing
    for name in ("resize_px", "normalize", "predict_on"):
        if options[name] != "published":
            chosen[name] = options[name]
    foreign = {"slides": ("resize_px", "normalize"), "photos": ("lazy",)}[kind]
    wrong = [name for name in foreign if chosen.pop(name, None)]
    if wrong:
        raise HubError(f"'{copy.name}' holds {kind}, for which there is no {wrong[0]}=. Leave it out.")
    if isinstance(chosen["image_size"], list):
        chosen["image_size"] = tuple(chosen["image_size"])
    if chosen.get("lazy") and options["streaming"]:
        raise HubError("lazy=True reads rows of files on this disk. Leave out streaming=True.")
    return chosen


def _published(name: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """The published arguments of reader and loaders, checked.

    Raises:
        ExportFormatError: naming one that no data module would have.
    """
    names = {one.name for one in fields(_Published)}
    given = {key: value for key, value in preprocessing.arguments.items() if key in names}
    try:
        found = from_plain(_Published, given, "arguments")
    except PlainJSONError as error:
        raise ExportFormatError(
            f"{PREPROCESSING_FILE} of '{name}' is damaged: {error}. Download or export it again."
        ) from error
    sides = found.image_size if isinstance(found.image_size, tuple) else (found.image_size,)
    counts = {key: getattr(found, key) for key in ("batch_size", "resize_px", "max_slides")}
    small = [key for key, count in counts.items() if isinstance(count, int) and count < 1]
    small += ["image_size"] if any(side is not None and not 1 <= side <= _LARGEST_PX for side in sides) else []
    if small:
        raise ExportFormatError(
            f"{PREPROCESSING_FILE} of '{name}' is damaged: arguments.{small[0]} is {given[small[0]]!r:.40}. "
            "Download or export it again."
        )
    return {key: getattr(found, key) for key in given}


def _warn_of_differences(name: str, published: Preprocessing, transforms: Mapping[str, Any], *, lazy: bool) -> None:
    """Warn of what will differ from the published dataset."""
    for part, argument in (("train", "train_transform"), ("eval", "eval_transform")):
        transform = published.transforms[part]
        if not transform.is_default and transforms[argument] is None:
            _warn(
                f"'{name}' was published with a {part} transform of its own, {transform.text}, which cannot be "
                f"loaded; the default is used. Pass {argument}= for batches like the publisher's."
            )
    if lazy and not published.encoding.format.startswith("tiff"):
        _warn(
            f"'{name}' holds {published.encoding.format} images, which are decoded whole however few rows are "
            "requested. Export with image_format='tiff' for images that are never whole."
        )


def _warn(message: str) -> None:
    warnings.warn(message, HubWarning, stacklevel=2)
