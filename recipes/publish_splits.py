"""Publication of preprocessed, split slides in a folder or on the Hub, and training from it.

python recipes/publish_splits.py labels.csv --image_dir slides --mpp 8 --folder published/mine
python recipes/publish_splits.py labels.csv --image_dir slides --mpp 8 --repo me/mine     private, on the Hub
wsidata publish TABLE --repo me/mine --mpp 8                            the same on the command line, also of photos
"""

from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli

from wsidata import CardText, HubDataModule, SplitDataModule, WSIDataModule, export, publish


def same_batches(first: SplitDataModule, second: SplitDataModule) -> bool:
    """Whether the validation batches of two data modules are identical."""
    for dm in (first, second):
        dm.setup("validate")
    loaders = [dm.val_dataloader() for dm in (first, second)]
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(*loaders, strict=True))


def main(
    table: Path, image_dir: Path | None = None, mpp: float = 8.0, image_size: int | None = None,
    folder: Path = Path("published/slides"), repo: str | None = None,
    image_format: Literal["png", "jpeg"] | None = None, opaque_ids: bool = False, license: str | None = None,  # noqa: A002
) -> None:  # fmt: skip
    """Export or publish, load it back, and compare.

    Args:
        table: Table with the columns image and class, or a folder of class folders.
        image_dir: Folder of the slides.
        mpp: Resolution to read at, um per pixel.
        image_size: Side in pixels to crop or pad to; null keeps sizes.
        folder: Folder to export to.
        repo: Dataset of the Hub to publish to, "owner/name"; null exports only.
        image_format: Encoding; null for a lossless one.
        opaque_ids: Numbers instead of the images' names.
        license: Identifier of the Hub, such as cc-by-4.0.
    """
    slides = WSIDataModule(table, image_dir, mpp=mpp, image_size=image_size, num_workers=0)
    card = CardText(license)
    if repo is None:
        export(slides, folder, image_format=image_format, opaque_ids=opaque_ids, card=card)
        loaded = HubDataModule(folder, num_workers=0)
    else:
        published = publish(slides, repo, folder=folder, image_format=image_format, opaque_ids=opaque_ids, card=card)
        loaded = HubDataModule(repo, revision=published.commit, num_workers=0)
    print(f"loaded back: {', '.join(f'{len(loaded.tables[part])} {part}' for part in ('train', 'val', 'test'))}")
    print(f"validation batches are the same to the last bit: {same_batches(slides, loaded)}")
    print(f"train from it with HubDataModule('{repo or folder}')")


if __name__ == "__main__":
    auto_cli(main)
