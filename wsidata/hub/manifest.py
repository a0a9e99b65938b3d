"""Layout and manifest of an exported folder and of the repository made of it.

Writers and readers agree on this module and nothing else. An export in the layout
"files" (a file per image: slides, large photos):

    README.md                                 the dataset card
    preprocessing.json                        `Preprocessing`, the manifest; written last
    train/metadata.parquet                    a row per image, in the order of `dm.tables["train"]`
    train/images/00000/normal_001.png         the image; names are sanitized, so take them from `file_name`
    train/masks/00000/normal_001.png          its mask, with target="mask"
    validation/...  test/...  predict/...     only splits that have rows; "predict" are rows without a split

and in the layout "parquet" (small photos):

    README.md, preprocessing.json             as above
    data/train-00000-of-00002.parquet         rows in order; images inside, as `datasets.Image` (bytes, path)

`preprocessing.json` is written last, and removed before anything in a finished folder is changed, so a folder without
it is not finished. `.export/` is the writer's journal; it is never uploaded.

Columns of metadata.parquet and of the shards; present unless marked as optional:

    file_name       string     "files" only: path below the metadata's folder, such as "images/00000/normal_001.png"
    image           Image      "parquet" only: struct of bytes and path
    mask_file_name  string     "files" and target="mask": as file_name, of the mask
    mask            Image      "parquet" and target="mask"
    image_id        string     unique in the whole export; the data module's own, or opaque
    label           int64      target="class" or "ordinal": index into `class_names` (in shards a `datasets.ClassLabel`)
    label_name      string     class name, or the target as text; "" for rows without labels
    target          list<float64>  target="multilabel" or "regression": one a class name; "survival": time, event
    group           string     optional: the group's own name, or an opaque one
    site            string     optional: as group
    case            string     optional: as group, of cases, of whose images all are one sample, in the order of `row`
    row             int64      row in the data module's whole table (`dm.labels.frame` without `dm.skipped`)
    width, height   int64      of the image, pixels
    mpp_x, mpp_y    float64    resolution of the image, um/px; null if unknown
    sha256          string     of the encoded image, in hexadecimal
    mask_sha256     string     target="mask": of the encoded mask

Masks are single-band PNGs on the image's grid: class numbers, and 255 for no class.

Everything deterministic has been applied to the images: resolution, `crop` (box or packing), conversion to RGB, and the
`CropOrPad` that the transform begins with, if any (`Transforms.applied`). To get the data module's samples, apply its
*whole* transform (the default of slides or photos for `image_size`, where `Transforms.is_default`). Its `CropOrPad`
then does nothing, and draws no random numbers; so the samples are bitwise those of the data module, where
`Encoding.lossless`, for equal (seed, epoch, row). Training images are cropped only if the training and evaluation
transforms begin with the same crop, so that they can be evaluated on too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from wsidata.stats.result import ChannelStats, StatsError
from wsidata.utils.files import json_sha256, write_text
from wsidata.utils.plain_json import PlainJSONError, from_plain, json_object

FORMAT_VERSION = 1
"""Increased when older readers would misread what is written."""

CASES_VERSION = 2
"""Format of exports with the column `case`, of which older readers would take each image for a sample."""

PREPROCESSING_FILE = "preprocessing.json"
CARD_FILE = "README.md"
METADATA_FILE = "metadata.parquet"
IMAGE_FOLDER = "images"
MASK_FOLDER = "masks"
SHARD_FOLDER = "data"
JOURNAL_FOLDER = ".export"

HUB_SPLITS = {"train": "train", "val": "validation", "test": "test", "": "predict"}
"""Name on the Hub of each split in `dm.labels.frame["split"]`, for folders, shards and configurations."""

DATA_FOLDERS = (*HUB_SPLITS.values(), SHARD_FOLDER)
"""Folders of images and tables."""

TABLE_SPLITS = {hub: split for split, hub in HUB_SPLITS.items()}
"""The inverse: "validation" -> "val", "predict" -> ""."""

COLUMNS = {
    "image_id": "string", "label": "int64", "label_name": "string", "target": "float64", "group": "string",
    "site": "string", "case": "string", "row": "int64", "width": "int64", "height": "int64", "mpp_x": "float64",
    "mpp_y": "float64", "sha256": "string", "mask_sha256": "string",
}  # fmt: skip
"""Types of the columns of both layouts, in order (`target` is a list); some do not apply to all exports."""

IMAGE_DIGESTS = {"image": "sha256", "mask": "mask_sha256"}
"""Column of the SHA-256 of each column of images."""

Layout = Literal["files", "parquet"]
LAYOUTS: tuple[Layout, ...] = ("files", "parquet")
ImageFormat = Literal["png", "jpeg", "tiff", "tiff-jpeg", "original"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("png", "jpeg", "tiff", "tiff-jpeg", "original")
Kind = Literal["slides", "photos"]


class ExportFormatError(ValueError):
    """A folder is not a finished export, or this version cannot read it."""


@dataclass(frozen=True)
class Encoding:
    """Encoding of images.

    Attributes:
        format: "png" and "tiff" (tiled pyramidal BigTIFF, deflate) are lossless, "jpeg" and "tiff-jpeg" (the same
            BigTIFF with JPEG tiles) are not. "original": JPEG photos whose pixels are unchanged keep their compressed
            data, stripped of all metadata, and others are PNG, which is lossless too.
        quality: JPEG quality, 1 to 100; None if lossless.
    """

    format: ImageFormat
    quality: int | None = None

    @property
    def lossless(self) -> bool:
        """Whether decoded pixels equal those that the data module reads."""
        return self.format in ("png", "tiff", "original")


@dataclass(frozen=True)
class Transforms:
    """Transform of a split, and the part of it that was applied to published images.

    Attributes:
        is_default: Whether it is the default for `image_size`: `default_eval_transform`, or for training
            `default_train_transform` of slides and `photo_train_transform` of photos.
        text: Representation of the whole transform.
        applied: Representation of the `CropOrPad` it begins with, if it was applied; else None.
    """

    is_default: bool
    text: str
    applied: str | None


@dataclass(frozen=True)
class TableFile:
    """A Parquet file of rows: metadata.parquet of a split, or one of its shards.

    Attributes:
        split: Name on the Hub: "train", "validation", "test" or "predict".
        path: Path below the folder, with forward slashes.
        rows: Number of rows.
        sha256: Of the file, in hexadecimal.
    """

    split: str
    path: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Preprocessing:
    """The manifest: content of preprocessing.json.

    Attributes:
        kind: "slides" (of a `WSIDataModule`) or "photos" (of an `ImageFolderDataModule`).
        layout: "files" or "parquet".
        encoding: How images were encoded.
        target: "class", "ordinal", "multilabel", "regression", "mask" or "survival".
        class_names: Name of class 0, 1, ... (or of each label or number).
        tables: The files of rows; those of a split in the order of its rows.
        transforms: "train" and "eval".
        arguments: Arguments of the data module that define samples and split, by name; none that names a file, a
            person or a column of the source. Includes "image_size" ([height, width] or None), "dtype" and "lazy"; for
            photos "resize_px" (a number or None), at which the images were read; for cases "cases", which is true.
        crop: Settings of the tissue crop, or None.
        split_digest: `split_digest` of the published `image_id`s.
        opaque_ids: Whether ids were replaced.
        stats: Channel statistics of the data module, or None.
        versions: Version of each library the pixels depend on, and of this package's resampling.
        image_count: Number of images.
        image_bytes: Their encoded size in total.
    """

    kind: Kind
    layout: Layout
    encoding: Encoding
    target: str
    class_names: tuple[str, ...]
    tables: tuple[TableFile, ...]
    transforms: dict[str, Transforms]
    arguments: dict[str, Any]
    crop: dict[str, Any] | None
    split_digest: str
    opaque_ids: bool
    stats: ChannelStats | None
    versions: dict[str, str] = field(default_factory=dict)
    image_count: int = 0
    image_bytes: int = 0

    def tables_of(self, split: str) -> tuple[TableFile, ...]:
        """The files of one split ("train", "validation", "test", "predict"), in the order of its rows."""
        return tuple(table for table in self.tables if table.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have rows, by their names on the Hub."""
        return tuple(dict.fromkeys(table.split for table in self.tables))

    @property
    def digest(self) -> str:
        """SHA-256 of the content, which through `tables` covers all pixels and labels."""
        return json_sha256(self._plain())

    def to_json(self) -> str:
        """JSON text, with the format version and the digest."""
        version = CASES_VERSION if self.arguments.get("cases") else FORMAT_VERSION
        return json.dumps({"format_version": version, **self._plain(), "digest": self.digest}, indent=2) + "\n"

    def _plain(self) -> dict[str, Any]:
        known = None if self.stats is None else replace(self.stats, reading=self.stats.reading or None)
        stats = None if known is None else json.loads(known.to_json())  # as earlier versions read them
        shallow = {**vars(self), "stats": None}  # they have their own JSON, with a digest
        copied = json.loads(json.dumps(shallow, default=asdict))  # tuples become lists
        return {**copied, "stats": stats}

    @classmethod
    def from_json(cls, text: str, source: str = PREPROCESSING_FILE) -> Preprocessing:
        """Read what `to_json` wrote.

        Args:
            text: The JSON.
            source: Its name in error messages.

        Raises:
            ExportFormatError: if it is not a manifest, of a newer version, or was modified.
        """
        try:
            content = json_object(text)
            version, digest = (_popped(content, name) for name in ("format_version", "digest"))
        except PlainJSONError as error:
            raise ExportFormatError(
                f"'{source}' is not a {PREPROCESSING_FILE} of slidestream: {error}. Download or export it again."
            ) from error
        if version not in (FORMAT_VERSION, CASES_VERSION):
            raise ExportFormatError(
                f"'{source}' is of format {version!s:.20}, and this version of slidestream reads {FORMAT_VERSION} and "
                f"{CASES_VERSION}. Install the version it was written with (see its 'versions'), or a newer one."
            )
        try:
            found = cls._from_plain(content)
            ours = found.digest
        except (PlainJSONError, StatsError, RecursionError) as error:
            raise ExportFormatError(
                f"'{source}' is damaged ({type(error).__name__}: {error}). Download or export it again."
            ) from error
        if ours != digest:
            raise ExportFormatError(
                f"'{source}' was changed since it was written: its digest is {ours[:12]}, not {str(digest)[:12]}. "
                "Download or export it again."
            )
        return found

    @classmethod
    def _from_plain(cls, content: dict[str, Any]) -> Preprocessing:
        stats = _popped(content, "stats")
        found = from_plain(cls, {**content, "stats": None})
        absent = [name for name in ("train", "eval") if name not in found.transforms]
        if absent:
            raise PlainJSONError(f"transforms lacks '{absent[0]}'")
        return replace(found, stats=None if stats is None else ChannelStats.from_json(json.dumps(stats)))

    def save(self, folder: str | Path) -> None:
        """Write preprocessing.json into a folder, whole or not at all."""
        write_text(Path(folder) / PREPROCESSING_FILE, self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> Preprocessing:
        """Read preprocessing.json of a folder.

        Raises:
            ExportFormatError: if the folder is not a finished export.
        """
        path = Path(folder) / PREPROCESSING_FILE
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ExportFormatError(
                f"'{folder}' is not a finished export: it has no {PREPROCESSING_FILE}. If an export was interrupted, "
                "run it again; it goes on where it stopped."
            ) from error
        return cls.from_json(text, str(path))


def _popped(content: dict[str, Any], name: str) -> Any:
    if name not in content:
        raise PlainJSONError(f"it lacks '{name}'")
    return content.pop(name)
