"""Photos for `mushrooms.py`: one photo that is there twice must not be trained on and validated on."""

import argparse
from itertools import combinations
from pathlib import Path

import pandas as pd
from mushrooms_options import VAL_FRACTION

from wsidata import HubDataModule, ImageFolderDataModule
from wsidata.datamodules.base import SplitDataModule
from wsidata.splits.fingerprints import alike, look_of, photo_thumbnail, same_bytes
from wsidata.synthetic.photos import write_photos
from wsidata.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ToneJitter, Transform


def augmentation(image_size: int | None) -> Transform:
    """What a small set needs: crops of any size, mirrored, in other light. Whole photos (None) are not cropped."""
    crop = [] if image_size is None else [RandomResizedCrop(image_size, area=(0.35, 1.0))]
    return Compose([*crop, RandomHorizontalFlip(), ToneJitter(0.1, 0.2, 0.2)])


def write_demo(folder: Path, seed: int) -> tuple[Path, Path, Path]:
    """Synthetic photos: their folder, table, and table of names."""
    if not folder.exists():
        print(f"Demo: writing synthetic photos to {folder}.")
        write_photos(folder, classes=6, per_class=24, side_px=160, seed=seed)
    return folder / "photos", folder / "labels.csv", folder / "names.csv"


def make_photos(
    options: argparse.Namespace, fold: int | None = None, groups: pd.DataFrame | None = None
) -> SplitDataModule:
    """The data module that the options ask for.

    Args:
        options: The command line.
        fold: Number of the part to validate on, with `--k-fold`.
        groups: Columns image, label and group: what must not be divided. None: nothing.
    """
    size = None if options.stream else options.image_size
    shared = {
        "image_size": size,
        "train_transform": augmentation(size),
        "batch_size": 1 if options.stream else options.batch_size,
        "sampling": "balanced" if options.class_weights == "sampling" else "shuffle",
        "num_workers": options.num_workers,
        "predict_on": "all",
        "resize_px": None if options.stream else "auto",
    }
    if options.hub:
        return HubDataModule(options.hub, val_fraction=options.val_fraction, **shared)
    table = groups if groups is not None else options.labels or options.data
    labels = {"label_column": "label", "label_names": options.names} if options.labels else {}
    if groups is not None:
        labels = {"label_column": "label", "group_column": "group"}
    return ImageFolderDataModule(
        table, options.data, val_fraction=options.val_fraction or VAL_FRACTION, test_fraction=options.test_fraction,
        k_fold=None if fold is None else (fold, options.k_fold), small_classes="train", seed=options.seed,
        **labels, **shared,
    )  # fmt: skip


def find_duplicates(frame: pd.DataFrame) -> pd.DataFrame:
    """Every pair of photos that are one file twice, or look alike: saved again, resized, turned, cropped a little.

    Args:
        frame: Columns image_id, path and label_name.

    Returns:
        Columns first, second, label_first, label_second, what.
    """
    paths = frame["path"].tolist()
    place = {path: number for number, path in enumerate(paths)}
    found = {(place[a], place[b]): "the same file" for group in same_bytes(paths) for a, b in combinations(group, 2)}
    looks = [(number, look) for number, path in enumerate(paths) if (look := look_of(photo_thumbnail(path)))]
    pictures = [look for _, look in looks]
    for i, j, correlation in alike(pictures, pictures):
        pair = (looks[i][0], looks[j][0])
        if i < j and pair not in found:
            found[pair] = f"look alike (correlation {correlation:.2f})"
    names, labels = frame["image_id"].tolist(), frame["label_name"].tolist()
    rows = [(names[a], names[b], labels[a], labels[b], what) for (a, b), what in sorted(found.items())]
    return pd.DataFrame(rows, columns=["first", "second", "label_first", "label_second", "what"])


def keep_together(frame: pd.DataFrame, duplicates: pd.DataFrame) -> pd.DataFrame:
    """A table in which photos that are each other's duplicates, at whatever remove, are of one group.

    Returns:
        Columns image, label and group.
    """
    group = {name: name for name in frame["image_id"]}
    for first, second in duplicates[["first", "second"]].to_numpy():
        ours, theirs = group[first], group[second]
        group = {name: ours if of == theirs else of for name, of in group.items()}
    groups = [group[name] for name in frame["image_id"]]
    return pd.DataFrame({"image": frame["image_id"], "label": frame["label_name"], "group": groups})


def describe_duplicates(duplicates: pd.DataFrame, photos: int) -> str:
    """What was found, in words."""
    if duplicates.empty:
        return f"Duplicates: none among {photos} photos (compared by bytes and by look)."
    lines = [f"Duplicates: {len(duplicates)} pairs among {photos} photos:"]
    for first, second, label_first, label_second, what in duplicates.head(10).to_numpy():
        other = "" if label_first == label_second else f" - but {label_first} and {label_second}"
        lines.append(f"  {first} and {second}: {what}{other}")
    return "\n".join([*lines, *(["  ..."] if len(duplicates) > 10 else [])])
