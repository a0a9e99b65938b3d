"""Checks, datasets and statistics of published images, as in the data modules they came from.

Published slides are images of a single level; photos are photos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from wsidata.datamodules.checks import check_batchable, check_one_kind, check_slides
from wsidata.datamodules.geometry import Geometry, photo_geometry, slide_geometry
from wsidata.datamodules.image_folder import check_one_size, length_of_side, pixel_type
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.formats.resolution import MEASURES
from wsidata.hub.client import HubError
from wsidata.hub.load.streamed import RemoteFiles, StreamedPhotoDataset, StreamedSlideDataset
from wsidata.hub.manifest import Preprocessing
from wsidata.photos.read import read_photo
from wsidata.photos.survey import THREADS, PhotoSurvey
from wsidata.slides.masks import IGNORE, check_masks, mask_classes
from wsidata.slides.options import SlideOptions
from wsidata.splits.near_duplicates import photo_thumbnail, slide_thumbnail
from wsidata.stats.compute import channel_stats
from wsidata.stats.result import ChannelStats
from wsidata.tables.label_table import LabelTable, slides_of
from wsidata.tables.parts import Part, SplitError
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.base import as_tuples
from wsidata.transforms.compose import default_eval_transform, default_train_transform, photo_train_transform
from wsidata.transforms.geometry.crop import check_size
from wsidata.utils.messages import check_choice, describe_problems

_LEVEL = {"level": 0}
_Transform = Callable[[Any], Any] | None
_ImageSize = int | tuple[int, int] | None


class SlideReader:
    """Reads images that were made of slides.

    Args:
        labels: The table.
        image_size: Height and width to crop or pad to; one number for a square. None keeps sizes.
        train_transform: None: the default for `image_size`.
        eval_transform: None: the default for `image_size`.
        dtype: "uint8" or "float".
        lazy: Whether images are `LazyImage`s, and masks `LazyMask`s.
    """

    normalize = None
    thumbnail = staticmethod(slide_thumbnail)

    def __init__(
        self,
        labels: LabelTable,
        *,
        image_size: _ImageSize,
        train_transform: _Transform,
        eval_transform: _Transform,
        dtype: Literal["uint8", "float"],
        lazy: bool,
    ) -> None:
        check_choice("dtype", dtype, ("uint8", "float"))
        self.image_size = None if image_size is None else check_size(image_size)
        self._labels, self._dtype, self._lazy = labels, dtype, lazy
        self._sizes_follow_slides = (image_size, train_transform, eval_transform) == (None, None, None) and not lazy
        self._train_transform = as_transform(train_transform or default_train_transform(self.image_size))
        self._eval_transform = as_transform(eval_transform or default_eval_transform(self.image_size))
        self._mask_classes = None
        if labels.target == "mask":
            self._mask_classes = {**mask_classes(len(labels.class_names)), IGNORE: IGNORE}

    def geometry(self, published: Preprocessing | None, own: Mapping[str, _Transform]) -> Geometry:
        """How slides were read when they were published, and the transforms of this reader.

        Args:
            published: The manifest.
            own: `train_transform` and `eval_transform`, None for the default.
        """
        assert published is not None  # other datasets are read as photos
        arguments = {name: as_tuples(value) for name, value in published.arguments.items() if value is not None}
        options = {one.name: arguments[one.name] for one in fields(SlideOptions) if one.name in arguments}
        return slide_geometry(
            {name: arguments[name] for name in MEASURES if name in arguments},
            SlideOptions(**options),
            published.crop,
            image_size=self.image_size,
            dtype=self._dtype,
            **own,
        )

    def check(self, batch_size: int) -> None:
        """Open the header of every slide, and of every mask."""
        frame = self._labels.frame
        sizes = check_slides(frame, _LEVEL)
        if "mask" in frame.columns:
            check_masks(frame)
        check_one_kind(sizes, self._dtype)
        if self._sizes_follow_slides and "case" not in frame.columns:
            check_batchable(sizes, batch_size)

    def channel_stats(
        self, table: pd.DataFrame, executor: Executor | None = None, share: str | Path | None = None
    ) -> ChannelStats:
        """Pooled over all pixels of a table's images."""
        return channel_stats(slides_of(table)["path"], level=0, executor=executor, share=share)

    def make_dataset(self, table: pd.DataFrame, part: Part, remote: RemoteFiles | None) -> SlideDataset:
        """Dataset of one split, on this disk or remote."""
        kind: Callable[..., SlideDataset]
        kind = SlideDataset if remote is None else partial(StreamedSlideDataset, remote=remote)
        return kind(
            table,
            _LEVEL,
            self._train_transform if part == "train" else self._eval_transform,
            dtype=self._dtype,
            with_labels=part != "predict",
            fresh_epochs=part == "train",
            lazy=self._lazy,
            mask_classes=self._mask_classes,
        )


class PhotoReader:
    """Reads photos.

    Args:
        labels: The table.
        image_size: Height and width to crop or pad to; one number for a square. None keeps sizes.
        train_transform: None: the default for `image_size`.
        eval_transform: None: the default for `image_size`.
        dtype: "uint8" or "float". None: "float" if photos are normalized.
        resize_px: See `ImageFolderDataModule`.
        normalize: See `ImageFolderDataModule`.

    Raises:
        HubError: for photos with masks.
        ValueError: for arguments that do not go together.
    """

    thumbnail = staticmethod(photo_thumbnail)

    def __init__(
        self,
        labels: LabelTable,
        *,
        image_size: _ImageSize,
        train_transform: _Transform,
        eval_transform: _Transform,
        dtype: Literal["uint8", "float"] | None,
        resize_px: int | Literal["auto"] | None,
        normalize: Literal["stats", "imagenet"] | None,
    ) -> None:
        if labels.target == "mask":
            raise HubError(f"'{labels.source}' holds photos with masks, which cannot be read.")
        self.image_size = None if image_size is None else check_size(image_size)
        has_default = train_transform is None or eval_transform is None
        self._sizes_follow_photos = image_size is None and has_default
        self._resize_px = length_of_side(resize_px, self.image_size, has_default)
        self.normalize, self._dtype = normalize, pixel_type(dtype, normalize)
        self._train_transform = as_transform(train_transform or photo_train_transform(self.image_size))
        self._eval_transform = as_transform(eval_transform or default_eval_transform(self.image_size))
        self._labels, self._survey = labels, PhotoSurvey(self._resize_px)

    def geometry(self, published: Preprocessing | None, own: Mapping[str, _Transform]) -> Geometry:
        """How photos were read when they were published, and are read and transformed here.

        Args:
            published: The manifest; None for another dataset.
            own: `train_transform` and `eval_transform`, None for the default.
        """
        arguments = {} if published is None else published.arguments
        return photo_geometry(
            resize_px=arguments.get("resize_px") if self._resize_px is None else self._resize_px,
            image_size=self.image_size,
            apply_icc=arguments.get("apply_icc", True),
            dtype=self._dtype,
            normalize=self.normalize,
            **own,
        )

    def check(self, batch_size: int) -> None:
        """Read every photo's header, and compare sizes where batches need one.

        Raises:
            HubError: naming those that cannot be read.
        """
        frame = self._labels.frame
        problems = self._survey.look([Path(path) for path in frame["path"]])
        if problems:
            raise HubError(describe_problems(self._labels.source, problems, "Ask whoever published it."))
        if self._sizes_follow_photos and batch_size > 1:
            check_one_size({name: self._survey.sizes[path] for name, path in frame[["image_id", "path"]].to_numpy()})

    def channel_stats(
        self, table: pd.DataFrame, executor: Executor | None = None, share: str | Path | None = None
    ) -> ChannelStats:
        """Pooled over all pixels of a table's photos, at the size they are read at."""
        if table.empty:
            raise SplitError(
                "there are no training photos to take channel statistics of. Pass stats=, or load the checkpoint of "
                "the training run, which remembers them."
            )
        read = partial(read_photo, short_side_px=self._resize_px)
        with ThreadPoolExecutor(THREADS) if executor is None else nullcontext(executor) as pool:
            return channel_stats(table["path"], read=read, executor=pool, share=share)

    def make_dataset(self, table: pd.DataFrame, part: Part, remote: RemoteFiles | None) -> PhotoDataset:
        """Dataset of one split, on this disk or remote."""
        kind: Callable[..., PhotoDataset]
        kind = PhotoDataset if remote is None else partial(StreamedPhotoDataset, remote=remote)
        return kind(
            table,
            self._train_transform if part == "train" else self._eval_transform,
            resize_px=self._resize_px,
            dtype=self._dtype,
            with_labels=part != "predict",
            fresh_epochs=part == "train",
        )
