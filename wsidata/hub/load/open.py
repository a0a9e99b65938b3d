"""From a name to a table and to somebody who reads its images: what happens once, before a data module has anything.

folder or repository --> files of one commit --> table, as published or of an ordinary data set --> reader
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.datamodules.base import Leaks
from wsidata.hub.client import HubError, HubWarning, check_installed
from wsidata.hub.load.download import Copy, HubAddress, open_folder, open_repository
from wsidata.hub.load.image_dataset import OrdinaryColumns, read_ordinary
from wsidata.hub.load.readers import PublishedPhotos, PublishedSlides
from wsidata.hub.load.tables import read_export
from wsidata.hub.manifest import Kind, Preprocessing
from wsidata.splits.leaks import LeakKind
from wsidata.tables.label_table import LabelTable

_DEFAULTS: dict[Kind, dict[str, Any]] = {
    "slides": {"batch_size": 1, "dtype": "uint8", "image_size": None, "lazy": False},
    "photos": {"batch_size": 32, "dtype": None, "image_size": None, "resize_px": "auto", "normalize": None},
}
"""Arguments that the data module of each kind of image takes, where nothing else was published or asked for."""

_COLUMNS = {name: f"{name}_column" for name in ("image", "label", "group", "site")} | {"config": "config"}
_DRAWN = ("val_fraction", "seed", "small_classes")
Transforms = Mapping[str, Callable[[Any], Any] | None]


@dataclass(frozen=True)
class Opened:
    """What is known once a data set is there.

    Attributes:
        copy: Its files.
        labels: Its table.
        facts: What was published of each image (see `reading.FACTS`); None in an ordinary data set.
        reader: Who reads its images.
    """

    copy: Copy
    labels: LabelTable
    facts: pd.DataFrame | None
    reader: PublishedSlides | PublishedPhotos


def open_published(
    options: Mapping[str, Any],
    token: str | bool | None,
    transforms: Transforms,
    leaks: Leaks,
    leak_checks: Sequence[LeakKind] | None,
) -> Opened:
    """Find a data set, download what is missing, and read its table.

    Args:
        options: Arguments of `HubDataModule`, by name.
        token: Its token.
        transforms: Its `train_transform` and `eval_transform`.
        leaks: What to do about leaks.
        leak_checks: Which to look for.

    Raises:
        HubError, ExportFormatError: see `HubDataModule`.
    """
    copy = _find(options, token)
    columns = {name: options[argument] for name, argument in _COLUMNS.items() if options[argument] is not None}
    drawn = {name: options[name] for name in _DRAWN if options[name] is not None}
    facts = None
    if copy.preprocessing is None:
        labels = read_ordinary(copy, OrdinaryColumns(**columns), **drawn)
    else:
        given = [*(_COLUMNS[name] for name in columns), *drawn]
        if given:
            raise HubError(
                f"'{copy.name}' was published with its columns and its split, which {'=, '.join(given)}= would not "
                "change. Leave that out."
            )
        labels, facts = read_export(copy, copy.preprocessing, remote=options["streaming"])
    common = {**transforms, "num_workers": 0, "leaks": leaks, "leak_checks": leak_checks}
    return Opened(copy, labels, facts, _reader(copy, labels, options, common))


def _find(options: Mapping[str, Any], token: str | bool | None) -> Copy:
    """The files, downloaded if need be."""
    source, streaming = options["source"], options["streaming"]
    folder = Path(source).expanduser()
    if folder.is_dir() or source.startswith(("/", ".", "~")):
        useless = [name for name in ("revision", "streaming") if options[name]]
        if useless:
            raise HubError(f"'{source}' is a folder on this disk: leave out {'=, '.join(useless)}=.")
        return open_folder(folder, cache_dir=_path(options["cache_dir"]))
    check_installed("huggingface_hub", f"'{source}' is downloaded from the Hub, which")
    address = HubAddress(source, options["revision"], options["endpoint"], token, _path(options["cache_dir"]))
    copy = open_repository(address, tables_only=streaming)
    if streaming and (copy.preprocessing is None or copy.preprocessing.layout != "files"):
        raise HubError(
            f"streaming=True fetches one file per image, and '{source}' keeps its images inside Parquet, or was not "
            "published by this package. Leave streaming= out: it is downloaded once."
        )
    return copy


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _reader(
    copy: Copy, labels: LabelTable, options: Mapping[str, Any], common: Mapping[str, Any]
) -> PublishedSlides | PublishedPhotos:
    """Who reads the images, with the published arguments where no others were given."""
    kind: Kind = "photos" if copy.preprocessing is None else copy.preprocessing.kind
    published = {} if copy.preprocessing is None else copy.preprocessing.arguments
    chosen = {name: published.get(name, default) for name, default in _DEFAULTS[kind].items()}
    chosen |= {name: published.get(name, default) for name, default in (("sampling", "shuffle"), ("predict_on", None))}
    for name in ("image_size", "dtype", "batch_size", "sampling", "lazy"):
        if options[name] is not None:
            chosen[name] = options[name]
    if copy.preprocessing is not None and kind == "photos":
        chosen["resize_px"] = None  # they were brought to it before they were published
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
    if copy.preprocessing is not None:
        _warn_of_differences(copy.name, copy.preprocessing, common, lazy=bool(chosen.get("lazy")))
    return (
        PublishedSlides(labels, **chosen, **common) if kind == "slides" else PublishedPhotos(labels, **chosen, **common)
    )


def _warn_of_differences(name: str, published: Preprocessing, transforms: Mapping[str, Any], *, lazy: bool) -> None:
    """Say what cannot be as it was published."""
    for part, argument in (("train", "train_transform"), ("eval", "eval_transform")):
        transform = published.transforms[part]
        if not transform.is_default and transforms[argument] is None:
            _warn(
                f"'{name}' was published with a {part} transform of its own, which cannot travel: {transform.text}. "
                f"The default is used. Pass {argument}= for batches like the publisher's."
            )
    if lazy and not published.encoding.format.startswith("tiff"):
        _warn(
            f"'{name}' holds {published.encoding.format} images, which are decoded whole however few rows are asked "
            "for. Export with image_format='tiff' for images that are never whole."
        )


def _warn(message: str) -> None:
    warnings.warn(message, HubWarning, stacklevel=2)
