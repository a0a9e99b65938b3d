"""Publication of slides or photos, preprocessed and split, in a folder or on the Hugging Face Hub.

python recipes/publish_splits.py                                        the demo: synthetic slides, to published/demo
python recipes/publish_splits.py --slides camelyon16 --level 5 --image-size 4096 --format jpeg
python recipes/publish_splits.py --photos mushrooms --labels mushrooms/raw_img_labels.csv --repo me/mushrooms
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from camelyon16 import CLASSES, read_reference

from wsidata import CardText, HubDataModule, ImageFolderDataModule, SplitDataModule, WSIDataModule, export, publish
from wsidata.synthetic.slides import write_camelyon16


def make_slides(options: argparse.Namespace) -> WSIDataModule:
    """Data module of Camelyon16, of slides with a table (columns image and class), or of synthetic slides."""
    folder, resolution = options.slides, {"mpp": options.mpp, "level": options.level}
    if folder is None:
        folder = write_camelyon16(options.folder.with_name(f"{options.folder.name}-slides"), normal=6, tumor=6, test=4)
    if resolution == {"mpp": None, "level": None}:
        resolution["level"] = 1
    labels: dict[str, Any] = {"class_names": CLASSES["tumor"], "test_prefix": "test_"} if options.labels is None else {}
    table = options.labels or read_reference(folder)
    images = folder / "images" if (folder / "images").is_dir() else folder
    size = options.image_size or (512 if options.slides is None else None)
    return WSIDataModule(
        table, images, image_size=size, seed=options.seed, val_fraction=options.val_fraction, num_workers=0,
        **labels, **resolution,
    )  # fmt: skip


def make_photos(options: argparse.Namespace) -> ImageFolderDataModule:
    """Data module of photos with a table (columns image and label), or with a folder per class."""
    labeled = {} if options.labels is None else {"image_dir": options.photos, "label_column": "label"}
    return ImageFolderDataModule(
        options.labels or options.photos, image_size=options.image_size, small_classes="train", seed=options.seed,
        val_fraction=options.val_fraction, batch_size=1, num_workers=0, **labeled,
    )  # fmt: skip


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--slides", type=Path, help="folder of slides (default: synthetic ones)")
    what.add_argument("--photos", type=Path, help="folder of photos")
    parser.add_argument("--labels", type=Path, help="table (default: Camelyon16's own; for photos, a folder per class)")
    parser.add_argument("--mpp", type=float, help="um per pixel to read slides at")
    parser.add_argument("--level", type=int, help="level to read slides at (default: 1)")
    parser.add_argument("--image-size", type=int, help="crop or pad to squares (default: 512 in the demo, else keep)")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="share to validate on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of the split (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="export to (default: a folder in published/)")
    parser.add_argument("--repo", help="publish to this dataset of the Hub too; private")
    parser.add_argument("--format", choices=("png", "jpeg", "original"), help="(default: a lossless one)")
    parser.add_argument("--opaque-ids", action="store_true", help="numbers instead of the images' names")
    parser.add_argument("--license", help="identifier of the Hub, such as cc-by-4.0")
    options = parser.parse_args(argv)
    data = options.slides or options.photos
    options.folder = options.folder or Path("published") / (options.repo or (data.name if data else "demo"))
    return options


def same_batches(first: SplitDataModule, second: SplitDataModule) -> bool:
    """Whether the validation batches of two data modules are identical."""
    for dm in (first, second):
        dm.setup("validate")
    loaders = [dm.val_dataloader() for dm in (first, second)]
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(*loaders, strict=True))


def main(argv: list[str] | None = None) -> None:
    """Export or publish, load it back, and compare."""
    options = parse_arguments(argv)
    dm = make_photos(options) if options.photos else make_slides(options)
    how = {"image_format": options.format, "opaque_ids": options.opaque_ids, "card": CardText(options.license)}
    if options.repo:
        published = publish(dm, options.repo, folder=options.folder, **how)
        loaded = HubDataModule(options.repo, revision=published.commit, num_workers=0)
    else:
        export(dm, options.folder, **how)
        loaded = HubDataModule(options.folder, num_workers=0)
    print(f"loaded back: {', '.join(f'{len(loaded.tables[part])} {part}' for part in ('train', 'val', 'test'))}")
    print(f"statistics are the same: {loaded.stats == dm.stats}")
    print(f"validation batches are the same to the last bit: {same_batches(dm, loaded)}")
    print(f"train from it with HubDataModule('{options.repo or options.folder}')")


if __name__ == "__main__":
    main()
