"""Published images are read by the very data modules they were published with; only their table is known already.

Slides are then pictures of one level, photos are photos. Whatever those modules check, crop, augment and normalise,
they do here too, by the same code.
"""

from __future__ import annotations

from typing import Any

from wsidata.datamodules.image_folder import ImageFolderDataModule
from wsidata.datamodules.wsi import WSIDataModule
from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.hub.client import HubError
from wsidata.hub.manifest import MASK_NO_CLASS
from wsidata.slides.masks import IGNORE
from wsidata.stats.result import ChannelStats
from wsidata.tables.label_table import LabelTable
from wsidata.tables.parts import Part
from wsidata.utils.messages import describe_problems


class PublishedSlides(WSIDataModule):
    """Pictures that were made of slides, and their table.

    Args:
        labels: The table.
        **options: Arguments of `WSIDataModule`, but its table, resolution and split.
    """

    def __init__(self, labels: LabelTable, **options: Any) -> None:
        super().__init__(labels.frame, level=0, target=labels.target, class_names=labels.class_names, **options)
        self._known = labels

    def read_labels(self) -> LabelTable:
        """The table that is known."""
        return self._known

    def make_dataset(self, part: Part) -> SlideDataset:
        """As for slides; masks may also say that a pixel is of no class."""
        dataset = super().make_dataset(part)
        if dataset.masks is not None:
            dataset.mask_classes[MASK_NO_CLASS] = IGNORE
        return dataset

    def finish(self, dataset: EpochDataset, stats: ChannelStats | None) -> None:
        """Nothing: slides are not normalised."""


class PublishedPhotos(ImageFolderDataModule):
    """Photos that were published, and their table.

    Args:
        labels: The table.
        **options: Arguments of `ImageFolderDataModule`, but its table and split.
    """

    def __init__(self, labels: LabelTable, **options: Any) -> None:
        if labels.target == "mask":
            raise HubError(f"'{labels.source}' holds photos with masks, which cannot be read.")
        super().__init__(labels.frame, target=labels.target, **options)
        self._known = labels

    def read_labels(self) -> LabelTable:
        """The table that is known."""
        return self._known

    def check(self) -> None:
        """Look at every photo's header, and compare sizes where they must be one.

        Raises:
            HubError: naming those that cannot be read.
        """
        problems = self.find_unreadable()
        if problems:
            raise HubError(describe_problems(self._known.source, list(problems.values()), "Ask whoever published it."))
        super().check()

    def finish(self, dataset: EpochDataset, stats: ChannelStats | None) -> None:
        """Give the photos what they are normalised with."""
        if stats is not None:
            self.stats = stats
        if isinstance(dataset, PhotoDataset):
            dataset.normalization = self._normalization()
