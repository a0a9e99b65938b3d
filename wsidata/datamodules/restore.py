"""Arguments of a data module that reads new images as those of a checkpoint's run were read."""

from __future__ import annotations

import os
import posixpath
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.datamodules.checkpoint import memory_in, read_checkpoint
from wsidata.datamodules.geometry import GeometryError, GeometryWarning
from wsidata.errors import SlideError
from wsidata.formats.open import open_pyramid
from wsidata.formats.plain_image import PlainImagePyramid
from wsidata.formats.resolution import MEASURES
from wsidata.formats.tiff.levels import SEARCHED_KINDS
from wsidata.remote.address import Address, is_address, shown, slide_path
from wsidata.slides.artifacts.without import TissueWithout
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.methods import TissueMethod, find_tissue, otsu_density, otsu_saturation
from wsidata.tables.find_slides import split_suffix
from wsidata.tables.parts import part_name
from wsidata.transforms.base import TransformError
from wsidata.transforms.rebuild import rebuilt

Images = str | Path | pd.DataFrame | Sequence[str | Path]
"""A table, a folder, or a list of files; of slides also addresses."""

_SHARED = ("image_size", "dtype")
_READ = {
    "slides": ("channels", "scale_to_8bit", "apply_icc", "series", "z", "t", *_SHARED),
    "photos": ("resize_px", "apply_icc", "normalize", *_SHARED),
    "features": (),
    None: _SHARED,
}
_LABELS = ("class_names", "target", "decimal", "time_unit")
_METHODS = {method.__name__: method for method in (find_tissue, otsu_saturation, otsu_density)}
_SPLITS = {"split", "split_column", "test_ids", "test_prefix", "val_ids", "val_prefix", "val_fraction", "k_fold"}
_SURELY_PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".gif"}
_HYPER_PARAMETERS = "datamodule_hyper_parameters"  # Lightning's key
_CLASSES = {"slides": "WSIDataModule", "photos": "ImageFolderDataModule", "features": "FeatureBagDataModule"}
_HOW = {
    "slides": "WSIDataModule(images, label_column=None, mpp=..., image_size=..., crop=..., eval_transform=...)",
    "photos": "ImageFolderDataModule(images, label_column=None, image_size=..., normalize=..., eval_transform=...)",
}


def recall(checkpoint: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the data module of a checkpoint's run remembered, and the arguments it was made with.

    Args:
        checkpoint: A checkpoint file, or its content.

    Raises:
        ValueError: if it cannot be read, or there was no data module of this package.
        GeometryError: if it was written before data modules remembered how images are read.
    """
    content = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint)
    name = "this checkpoint" if isinstance(checkpoint, Mapping) else f"'{checkpoint}'"
    memory = memory_in(content)
    if memory is None:
        raise ValueError(
            f"{name} holds nothing of a data module of wsidata: it was not trained with one, or holds weights only. "
            f"Say how its images were read: {_HOW['slides']}, or {_HOW['photos']}."
        )
    if memory.get("geometry") is None:
        raise GeometryError(
            f"{name} was written by an earlier version and does not remember how images were read. Pass the arguments "
            f"of its training run: {_HOW['slides']}, or {_HOW['photos']}."
        )
    return memory, dict(content.get(_HYPER_PARAMETERS) or {})


def reading_arguments(memory: Mapping[str, Any], kind: str | None, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by which images are read as the checkpoint's were.

    Args:
        memory: What the data module of its run remembered.
        kind: "slides" or "photos", what the new data module reads; None for what is published.
        changed: Arguments that are given, and so need not be known.

    Raises:
        GeometryError: if the model is of the other kind of images, or a crop or transform cannot be made again.

    Warns:
        GeometryWarning: if the resolution of the training slides was corrected, which is not done here.
    """
    saved = memory["geometry"]
    if kind not in (None, saved["kind"]) and "kind" not in changed.get("allow_changed", ()):
        other = _CLASSES[saved["kind"]]
        raise GeometryError(
            f"the model was trained on {saved['kind']}, and these are read as {kind}. Use {other}.from_checkpoint; or, "
            "if the difference is meant, allow_changed=['kind', ...], and arguments for what the other kind lacks."
        )
    found = {name: as_tuple(saved[name]) for name in _READ[kind] if name in saved}
    if kind == "slides" and saved["kind"] == "slides":
        found |= _resolution(saved, changed)
        if "crop" not in changed:
            found["crop"] = _crop(saved["crop"])
    if saved["eval_transform"] is not None and "eval_transform" not in changed:
        try:
            found["eval_transform"] = rebuilt(saved["eval_transform"])
        except TransformError as error:
            raise GeometryError(f"{error} Pass eval_transform=, the one of the training run.") from error
    if saved.get("normalize") == "stats" and memory.get("stats") is None and "stats" not in changed:
        raise GeometryError("images were normalized, and the checkpoint holds no statistics. Pass stats=.")
    return found


def kept_arguments(
    names: Collection[str], memory: Mapping[str, Any], trained: Mapping[str, Any], changed: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments that are taken from the run's data module as they are.

    Args:
        names: Their names.
        memory: What the data module of the run remembered.
        trained: Its arguments.
        changed: Arguments that are given, and so need not be known.

    Raises:
        GeometryError: if its way to find tissue cannot be made again.
    """
    found = {name: as_tuple(trained[name]) for name in names if name in trained}
    method = memory["geometry"].get("tissue_method")
    if "tissue_method" in names and method is not None and "tissue_method" not in changed:
        found["tissue_method"] = _method(method)
        if found["tissue_method"] is None:
            raise GeometryError(
                f"the model was trained on tiles of the tissue that {method} finds, which cannot be made from its "
                "description. Pass tissue_method=, as in training."
            )
    return found


def label_arguments(
    images: Images, memory: Mapping[str, Any], trained: Mapping[str, Any], changed: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by which labels are read as those of training; all images are test images, if nothing else is said.

    Args:
        images: The images.
        memory: What the data module of the run remembered.
        trained: Its arguments.
        changed: Arguments that are given.
    """
    if changed.get("label_column") is None:
        return {"label_column": None}
    known = {name: trained[name] for name in _LABELS if trained.get(name) is not None}
    if memory.get("time_bins") is not None:
        known["time_bins"] = list(memory["time_bins"])
    else:
        known.setdefault("class_names", list(memory["class_names"]))
    if not (_SPLITS & changed.keys() or _has_split_folders(images)):
        known |= {"test_prefix": "", "val_fraction": 0.0}
    if "label_names" in changed:
        known.pop("class_names", None)
    return known


def refuse_tiles(trained: Mapping[str, Any], kept: Collection[str], allowed: Collection[str]) -> None:
    """Raise if a model of tiles would be shown whole slides, cropped to the size of a tile.

    Args:
        trained: Arguments of the run's data module.
        kept: Those of them that the new data module takes as they are.
        allowed: Settings that may differ.

    Raises:
        GeometryError: if so.
    """
    if "min_tissue" in trained and "min_tissue" not in kept and "kind" not in allowed:
        raise GeometryError(
            "the model was trained on tiles of slides, and here whole slides are read. Use "
            "TileDataModule.from_checkpoint; or, if the difference is meant, allow_changed=['kind']."
        )


def refuse_other_kind(paths: Iterable[str], kind: str | None, allowed: Collection[str]) -> None:
    """Raise for slides among new photos, and for photos among new slides, as far as their headers tell.

    A TIFF of one level may be either.

    Args:
        paths: The new images; those that cannot be read are passed over.
        kind: "slides" or "photos", what the model was trained on; None for what is published.
        allowed: Settings that may differ.

    Raises:
        GeometryError: naming the first.
    """
    if kind in (None, "features") or "kind" in allowed:
        return
    for path in paths:
        if kind == "photos" and Path(path).suffix.lower() in _SURELY_PHOTOS:
            continue
        try:
            pyramid = open_pyramid(slide_path(path))
        except (SlideError, OSError):
            continue
        is_photo, levels = isinstance(pyramid, PlainImagePyramid), len(pyramid.levels)
        is_slide = levels > 1 or not (is_photo or pyramid.kind in SEARCHED_KINDS)
        pyramid.close()
        if is_photo if kind == "slides" else is_slide:
            found = "a plain picture, as a camera makes them" if is_photo else f"a slide ({levels} levels)"
            raise GeometryError(
                f"the model was trained on {kind}, and '{shown(path)}' is {found}. Take it away, or use a model of "
                "such images; or, if that is meant, allow_changed=['kind']."
            )


def as_table(images: Images, image_dir: str | Path | None, image_column: str) -> tuple[Any, str | Path | None]:
    """The arguments `table` and `image_dir` for a table, a folder, or a list of files or addresses.

    Raises:
        ValueError: if there are none, or addresses that are not all of one server, or none of files.
    """
    if is_address(images):
        images = [str(images)]
    if isinstance(images, (str, Path, pd.DataFrame)):
        return images, image_dir
    names = [str(file) for file in images]
    if not names:
        raise ValueError("there are no images to read. Name at least one file.")
    if any(map(is_address, names)):
        common: str | Path = _common_address(names) if image_dir is None else image_dir
    else:
        names = [str(Path(file).absolute()) for file in names]
        common = os.path.commonpath([Path(file).parent for file in names]) if image_dir is None else image_dir
    return pd.DataFrame({image_column: names}, dtype=object), common


def _common_address(names: Sequence[str]) -> str:
    """The address of the folder that all slides are below.

    Raises:
        ValueError: if there is none, or one of the names is none of a slide on a server.
    """
    path = next((name for name in names if not is_address(name)), None)
    if path is not None:
        raise ValueError(f"'{path}' is a path, and others are addresses. Name one kind at a time.")
    addresses = [Address(name) for name in names]
    is_named = [split_suffix(one.name)[1] or one.is_store or "?" in one.text for one in addresses]
    folder = next((one for one, named in zip(addresses, is_named, strict=True) if not named), None)
    if folder is not None:
        raise ValueError(
            f"'{folder}' is no slide by its name, and a server does not tell which files are in a folder. Name slides "
            "in full, such as https://host/slides/a.tif; or a table of their names, with image_dir='https://...'."
        )
    protocol, folders = addresses[0].protocol, [posixpath.dirname(one.text.partition("?")[0]) for one in addresses]
    common = posixpath.commonpath([one.partition("://")[2] for one in folders])  # from the server on
    if not common or any(one.protocol != protocol for one in addresses):
        raise ValueError(
            f"'{addresses[0]}' and '{addresses[-1]}' have no server or bucket in common. Name those of one at a time."
        )
    return f"{protocol}://{common}"


def _has_split_folders(images: Images) -> bool:
    if not isinstance(images, (str, Path)) or not Path(images).is_dir():
        return False
    return any(part_name(entry.name) for entry in Path(images).iterdir() if entry.is_dir())


def as_tuple(value: Any) -> Any:
    """A list as a tuple, as arguments have it; lists become of them what JSON makes."""
    return tuple(value) if isinstance(value, list) else value


def _resolution(saved: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The resolution, if no other is given."""
    wanted = (
        {}
        if any(changed.get(name) is not None for name in MEASURES)
        else {name: as_tuple(value) for name, value in saved["resolution"].items()}
    )
    override = saved.get("mpp_override")
    if override is not None and "mpp_override" not in changed and {"mpp", "magnification"} & wanted.keys():
        warnings.warn(
            f"the model was trained on slides whose files did not say their true resolution (mpp_override={override}), "
            "and here what files say is taken. Pass mpp_override=, the um per pixel of level 0, if that is wrong here "
            "too; else mpp_override=None.",
            GeometryWarning,
            stacklevel=4,
        )
    return wanted


def _crop(saved: Mapping[str, Any] | None) -> TissueCrop | None:
    """The crop of remembered settings."""
    if saved is None:
        return None
    settings = dict(saved)
    method = _method(settings.pop("method", "find_tissue"))
    if method is None or settings.keys() - {"kind", "margin_px", "mask_mpp"}:
        raise GeometryError(f"the crop {dict(saved)} cannot be made from its description. Pass crop=, as in training.")
    return TissueCrop(method=method, **settings)


def _method(description: str) -> TissueMethod | None:
    """The way to find tissue of a description; None if it is not known by its name."""
    excluded = re.fullmatch(r"TissueWithout\(exclude=\(([a-z', ]+)\), method=(\w+)\)", description)
    method: TissueMethod | None = _METHODS.get(excluded[2] if excluded else description)
    if excluded and method is not None:
        method = TissueWithout(tuple(re.findall(r"[a-z]+", excluded[1])), method)
    return method
