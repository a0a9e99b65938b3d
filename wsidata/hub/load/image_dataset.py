"""Image classification datasets of any origin, with a column of images, one of classes, and splits.

The `datasets` library finds their files in any layout and returns each row's encoded bytes, which are written to files
once (see `unpack`), so that such a dataset is read, checked and split like a folder of photos.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.hub.client import HubError, check_installed
from wsidata.hub.load.data_files import image_file, load_splits, rows_of
from wsidata.hub.load.download import LocalCopy
from wsidata.hub.load.unpack import cache_folder, once, write_image
from wsidata.splits.make import SmallClasses, make_splits
from wsidata.tables.class_names import class_map
from wsidata.tables.label_table import COLUMNS, LabelTable
from wsidata.tables.parts import SplitError, part_name
from wsidata.utils.files import json_sha256
from wsidata.utils.messages import name_some

_INDEX = "index.parquet"
_CLASSES = "classes.json"


@dataclass(frozen=True)
class ImageDatasetColumns:
    """Columns of an image classification dataset.

    Attributes:
        config: Its configuration, if it has several.
        image: Column of images. None: the only one.
        label: Column of classes. None: the only `ClassLabel`, or "label".
        group: Column of patients, or None.
        site: Column of centers or scanners, or None.
    """

    config: str | None = None
    image: str | None = None
    label: str | None = None
    group: str | None = None
    site: str | None = None


def read_image_dataset(
    copy: LocalCopy,
    columns: ImageDatasetColumns,
    *,
    val_fraction: float = 0.2,
    seed: int = 42,
    small_classes: SmallClasses = "raise",
) -> LabelTable:
    """The table of an image classification dataset with its own splits; ids are `<split>-<row>`.

    Args:
        copy: Its files.
        columns: Its columns.
        val_fraction: Fraction of the training rows to validate on, if it has no validation split.
        seed: Seed of that draw.
        small_classes: See `splits.make_splits`.

    Raises:
        HubError: if `datasets` cannot load it, or it lacks the columns.
        SplitError: if a split is not called train, validation or test.
    """
    check_installed("datasets", f"'{copy.name}' was not published by this package: reading it")
    folder = once(_folder(copy, columns), lambda empty: _unpack(copy, columns, empty))
    frame = pd.read_parquet(folder / _INDEX).assign(split=lambda rows: rows["split"].map(_part))
    frame["path"] = [name if Path(name).is_absolute() else str(folder / name) for name in frame["path"]]
    names = json.loads((folder / _CLASSES).read_text(encoding="utf-8"))
    if names is None:  # labels are text or numbers: classes are their sorted values
        names = list(class_map([label for label in frame["label_name"] if label]).class_names)
    number = {name: index for index, name in enumerate(names)}
    frame["label"] = [number.get(name, -1) for name in frame["label_name"]]
    labeled = frame["label"] >= 0
    if not (frame["split"] == "val").any() and val_fraction:
        free = frame["split"].where(frame["split"] != "train", "")
        drawn = make_splits(
            frame[labeled].assign(split=free[labeled]),
            val_fraction=val_fraction,
            seed=seed,
            small_classes=small_classes,
            split_column="split",
            group_column=None if columns.group is None else "group",
            label_column="label_name",
        )
        frame["split"] = drawn["split"].reindex(frame.index).fillna("")
    frame.loc[~labeled, "split"] = ""  # such as a test split with secret labels: for prediction only
    return LabelTable(frame[list(COLUMNS)], tuple(names), copy.name)


def _part(split: str) -> str:
    part = part_name(split)
    if not part:
        raise SplitError(f"the dataset has a split '{split}', which is neither train, validation nor test.")
    return part


def _folder(copy: LocalCopy, columns: ImageDatasetColumns) -> Path:
    """Folder of the unpacked images, named by a digest of files and columns."""
    if copy.commit is not None and copy.repository is not None:
        which: list[Any] = [copy.repository.repo_id, copy.commit]
    else:  # a local folder: the files it holds now
        files = sorted(path for path in copy.folder.rglob("*") if path.is_file())
        which = [str(copy.folder), *((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)]
    return cache_folder(copy.cache_dir) / json_sha256([which, vars(columns)])[:40]


def _unpack(copy: LocalCopy, columns: ImageDatasetColumns, folder: Path) -> None:
    """Write images, their index and the class names."""
    splits = load_splits(copy, columns.config)
    features = next(iter(splits.values())).features
    if not features:
        raise HubError(f"'{copy.name}' does not say which columns it has. Add `dataset_info` to its card.")
    image, label = _columns(features, columns, copy.name)
    from datasets import ClassLabel, Image

    names = list(features[label].names) if isinstance(features[label], ClassLabel) else None
    rows: list[dict[str, Any]] = []
    for split, data in splits.items():
        _part(split)
        kept = [name for name in (image, label, columns.group, columns.site) if name is not None]
        encoded = data.select_columns(kept).cast_column(image, Image(decode=False))
        for number, row in rows_of(copy, split, encoded):
            rows.append(
                {
                    "image_id": f"{split}-{number:07d}",
                    "path": _image_path(copy, row[image], split, number, folder),
                    "label_name": _label_name(row[label], names, f"{copy.name}, {split} {number}"),
                    "group": "" if columns.group is None else str(row[columns.group]),
                    "site": "" if columns.site is None else str(row[columns.site]),
                    "split": split,
                }
            )
    if not rows:
        raise HubError(f"'{copy.name}' has no rows.")
    pd.DataFrame(rows).to_parquet(folder / _INDEX, index=False)
    (folder / _CLASSES).write_text(json.dumps(names), encoding="utf-8")


def _columns(features: Mapping[str, Any], columns: ImageDatasetColumns, name: str) -> tuple[str, str]:
    """The columns of images and of classes."""
    from datasets import ClassLabel, Image

    def only(given: str | None, kind: type, what: str, argument: str) -> str:
        found = [given] if given else [key for key, feature in features.items() if isinstance(feature, kind)]
        if not found and argument == "label_column=" and "label" in features:
            found = ["label"]
        if len(found) != 1 or found[0] not in features:
            shown = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
            raise HubError(f"'{name}' needs exactly one column of {what}; its columns are {shown}. Pass {argument}...")
        return str(found[0])

    for extra in (columns.group, columns.site):
        if extra is not None and extra not in features:
            raise HubError(f"'{name}' has no column '{extra}'; its columns are {', '.join(features)}.")
    return (
        only(columns.image, Image, "images", "image_column="),
        only(columns.label, ClassLabel, "classes", "label_column="),
    )


def _label_name(label: Any, names: list[str] | None, where: str) -> str:
    """Class name of a row; "" if it has none (-1 in a `ClassLabel`)."""
    if label is None or (names is not None and label < 0):
        return ""
    if names is None:
        return str(label)
    if label >= len(names):
        raise HubError(
            f"{where}: label {label} is none of the {len(names)} classes {name_some(names)}. Correct the labels, or "
            "the names of classes in the dataset's card."
        )
    return str(names[label])


def _image_path(copy: LocalCopy, image: Any, split: str, number: int, root: Path) -> str:
    """Path of an image's own file (absolute), or of one written for it (below `root`)."""
    where = f"{copy.name}, {split} {number}"
    if not isinstance(image, Mapping) or (image.get("bytes") is None and image.get("path") is None):
        raise HubError(f"{where}: has no image.")
    if image["bytes"] is not None:
        return write_image(root / split, number, image["bytes"], image.get("path")).relative_to(root).as_posix()
    return str(image_file(copy, image["path"], where).absolute())
