"""Splits of a dataset of any origin, read by `datasets` from files inside its own folder only.

A card says which files make up a dataset (`data_files`), and `datasets` reads whatever that is: files elsewhere on the
disk, or of the net. So the card is checked before anything is looked for, and the files that were found before any is
read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from wsidata.hub.client import HubError
from wsidata.hub.load.download import LocalCopy
from wsidata.hub.manifest import CARD_FILE

_CARDS = (CARD_FILE, ".huggingface.yaml")
_KINDS = ("parquet", "arrow", "json", "csv", "imagefolder", "webdataset")
"""Modules of `datasets` whose files hold images, or name them. Others (HDF5) have links to files of their own."""


def load_splits(copy: LocalCopy, config: str | None) -> Mapping[str, Any]:
    """The splits, streamed from the files on this disk.

    Raises:
        HubError: if `datasets` cannot load them, or they name files elsewhere.
    """
    from datasets import load_dataset_builder

    if copy.repository is None:
        _refuse_linked_folders(copy.folder)
    for name in _CARDS:
        for path in _named_files(copy, name):
            copy.file(path, f"'{name}' of '{copy.name}'")
    try:
        builder = load_dataset_builder(str(copy.folder), name=config)
    except Exception as error:
        raise _not_loaded(copy, error) from error
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in _KINDS:
        raise HubError(
            f"'{copy.name}' is read by the module '{kind}' of `datasets`. Only Parquet, Arrow, JSON, CSV, WebDataset "
            "or image files are read here: convert it."
        )
    for files in (builder.config.data_files or {}).values():
        for file in files:
            copy.file(str(file), f"the data files of '{copy.name}'")
    try:
        loaded = builder.as_streaming_dataset()
    except Exception as error:
        raise _not_loaded(copy, error) from error
    return {str(name): data for name, data in loaded.items()}


def rows_of(copy: LocalCopy, split: str, data: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and content of each row of a split.

    Raises:
        HubError: if `datasets` cannot read one.
    """
    rows, number = iter(data), 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # of any module of `datasets`
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise HubError(
                f"{copy.name}, {split} {number}: `datasets` cannot read the row ({reason}). Download the dataset "
                "again, or ask whoever published it."
            ) from error
        yield number, row
        number += 1


def _refuse_linked_folders(folder: Path) -> None:
    """Refuse links to folders, which `datasets` passes over without a word."""
    for above, below, _ in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in below:
            if (Path(above) / name).is_symlink():
                raise HubError(
                    f"'{Path(above) / name}' is a link to a folder, which `datasets` does not follow: its images would "
                    "be left out. Copy the folder there, or read your own photos with ImageFolderDataModule."
                )


def _not_loaded(copy: LocalCopy, error: Exception) -> HubError:
    reason = " ".join(str(error).split())
    return HubError(
        f"'{copy.name}' is not a dataset that `datasets` can load ({type(error).__name__}: {reason}). Where it has "
        "several configurations, pass config=."
    )


def _named_files(copy: LocalCopy, name: str) -> Iterator[str]:
    """Paths and patterns of a card's configurations, as `datasets` reads them."""
    from huggingface_hub import DatasetCard

    path = copy.folder / name
    if not path.is_file():
        return
    copy.file(name, f"'{copy.name}'")
    try:
        if name == CARD_FILE:
            content: Any = DatasetCard.load(path, ignore_metadata_errors=True).data.to_dict()
        else:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # of YAML, of the encoding, or of the library's checks
        raise _not_loaded(copy, error) from error
    configs = content.get("configs") if isinstance(content, Mapping) else None
    for one in configs if isinstance(configs, list) else []:
        if isinstance(one, Mapping):
            yield from _texts(one.get("data_files"))
            yield from _texts(one.get("data_dir"))


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a value."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def image_file(copy: LocalCopy, path: str, where: str) -> Path:
    """The file that a row names as its image.

    Raises:
        HubError: if it lies elsewhere, or is missing.
    """
    file = copy.file(path, where)
    if not file.is_file():
        raise HubError(f"{where}: its image '{path}' is missing. Download the dataset again.")
    return file
