"""Heat maps of many slides and photos, written as the files that were requested."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from slidestream.heatmaps.lesions import (
    LESION_FILES,
    LesionScores,
    ScoredSlide,
    SlideOutlines,
    Unannotated,
    read_groups,
    read_outlines,
    score_slide,
    write_lesion_scores,
)
from slidestream.heatmaps.names import KINDS, existing_files, safe_name, unique_names
from slidestream.heatmaps.read import OpenedImage, open_image
from slidestream.heatmaps.sheet import write_sheet
from slidestream.trained import Trained
from streammodels import (
    Heatmap,
    ImageReadError,
    Placement,
    hottest_places,
    hottest_regions,
    place,
    write_color_pyramid,
    write_geojson,
    write_overlay,
    write_pyramid,
)
from streammodels.explain.regions import Place, check_quantile
from wsidata.datamodules.geometry import GeometryError, check_allowed

CROP_PX = 256
"""Side of the crops of the hottest places, in pixels of the explained image; of small images a third of theirs."""

_SALIENCY_SIDE = 4096
_UNREADABLE = (OSError, ValueError, LookupError, ImageReadError)

Existing = Literal["error", "replace", "skip"]


_NUMBERS = ("regression", "ordinal", "survival")
"""Tasks whose maps are of numbers, and not of the logits of classes."""


@dataclass(frozen=True)
class HeatmapOptions:
    """What is drawn.

    Attributes:
        class_name: Name or number of the class to explain; None for the one with the highest score.
        probability: Values are probabilities instead of logits.
        saliency: Also the gradient of the class logit.
        stride: Side in pixels of the blocks over which it is reduced; None: the least that gives at most 4096 a side.
        reduce: "max" or "mean" of the absolute values in a block.
        regions: How many of the hottest places are shown at full resolution.
        geojson: Write the hottest regions as GeoJSON.
        quantile: Fraction of the map below the threshold of these regions.
        threshold: The threshold itself, instead.
        picture_only: Write one file an image, NAME.png.
        existing: Files that exist are an "error" before anything is drawn, are "replace"d, or (with `picture_only`)
            their images "skip"ped.
        allow_changed: What may differ from training; see `open_image`.
        reading: Further arguments of `open_image`, such as `{"mpp_override": 0.5}`.
        annotations: Folder of annotations, of which those of a slide are drawn over it, and, with `class_name`, the map
            is scored against them; see `write_lesion_scores`.
        outline_classes: Classes of outlines that are lesions. Empty: all, without exclusions.
        unannotated: What a slide without annotations is: an "error", "normal" (without lesions), or normal if it is
            among these names.
        groups: Table of the patient of each slide, by whom intervals of scores are drawn; see `read_groups`.
    """

    class_name: str | None = None
    probability: bool = False
    saliency: bool = False
    stride: int | None = None
    reduce: Literal["max", "mean"] = "max"
    regions: int = 0
    geojson: bool = False
    quantile: float = 0.98
    threshold: float | None = None
    picture_only: bool = False
    existing: Existing = "error"
    allow_changed: Sequence[str] = ()
    reading: dict[str, Any] = field(default_factory=dict)
    annotations: str | Path | None = None
    outline_classes: Sequence[str] = ()
    unannotated: Unannotated = "error"
    groups: str | Path | None = None


@dataclass(frozen=True)
class DrawnImage:
    """What became of an image.

    Attributes:
        path: The image.
        files: The files that were written.
        error: Why there are none, or "".
        note: What could not be written, or "".
        class_name: The explained class.
        score: Its probability, or its value in a regression.
        scored: Its map beside the outlines of the slide, if there are annotations and a class was requested.
    """

    path: Path
    files: tuple[Path, ...] = ()
    error: str = ""
    note: str = ""
    class_name: str = ""
    score: float = float("nan")
    scored: ScoredSlide | None = None


def draw_heatmaps(
    trained: Trained,
    paths: Sequence[str | Path],
    out: str | Path,
    options: HeatmapOptions | None = None,
    *,
    names: Sequence[str] | None = None,
    done: Callable[[DrawnImage], None] | None = None,
) -> list[DrawnImage]:
    """Draw heat maps of a trained network over images.

    An image that cannot be read, or whose map is not finite, does not stop the others.

    Args:
        trained: The network, on its device.
        paths: Slides or photos, as it was trained on.
        out: Folder for the files; it is made.
        options: What to draw; None for the map of the predicted class.
        names: Names of the images in those of the files; None for their own.
        done: Called after each image.

    Returns:
        What became of each image, in order.

    Raises:
        GeometryError: if images would be read otherwise than in training.
        ValueError: if the class is unknown, the network gives no such map, or there are no annotations of a slide.
        FileExistsError: if files would be replaced.
        OSError: if files cannot be written.
    """
    options, out = options or HeatmapOptions(), Path(out)
    number = find_class(options.class_name, trained.explained)
    _check_model(trained, options)
    named = unique_names(paths if names is None else [f"{safe_name(one)}.png" for one in names])
    classes = trained.explained if number is None else trained.explained[number : number + 1]
    _check_folder(out, [] if options.existing != "error" else _in_the_way(out, named, classes, options))
    outlined: list[SlideOutlines | None] = [None] * len(paths)
    if options.annotations is not None:
        slides = [Path(path) for path in paths]
        outlined = [*read_outlines(slides, options.annotations, options.outline_classes, options.unannotated)]
    if options.groups is not None:
        read_groups(options.groups, [Path(path) for path in paths])  # errors before anything is drawn
    results = []
    for path, name, outlines in zip(map(Path, paths), named, outlined, strict=True):
        if options.existing == "skip" and (out / f"{name}.png").exists():
            drawn = DrawnImage(path, (out / f"{name}.png",))
        else:
            drawn = _draw_one(trained, path, out, name, number, options, outlines)
        results.append(drawn)
        if done is not None:
            done(drawn)
    return results


def score_drawn(
    drawn: Sequence[DrawnImage], out: str | Path, options: HeatmapOptions, *, seed: int = 0
) -> LesionScores | None:
    """Score what `draw_heatmaps` drew against the outlines of `options.annotations`; see `write_lesion_scores`.

    Dice is that of `options.threshold`, or of a probability of 0.5.

    Args:
        drawn: What it returned. Images that could not be drawn are left out.
        out: Folder for the files.
        options: Those that it was called with.
        seed: Of the bootstrap.

    Returns:
        The scores; None if nothing can be scored: without annotations, a class, or a map that lies on its slide.
    """
    scored = [(one.path, one.scored) for one in drawn if one.scored is not None]
    if not scored:
        return None
    names = unique_names([path for path, _ in scored])
    threshold = 0.5 if options.threshold is None and options.probability else options.threshold
    slides = dict(zip(names, (one for _, one in scored), strict=True))
    groups = None if options.groups is None else read_groups(options.groups, [path for path, _ in scored])
    return write_lesion_scores(slides, out, threshold=threshold, groups=groups, seed=seed)


def find_class(requested: str | None, names: Sequence[str]) -> int | None:
    """Number of a class given by name or number.

    Raises:
        ValueError: if there is none, listing those there are.
    """
    if requested is None:
        return None
    if requested in names:
        return list(names).index(requested)
    if requested.isdecimal() and int(requested) < len(names):
        return int(requested)
    raise ValueError(f"class '{requested}' is none of {', '.join(names)}, nor a number below {len(names)}.")


@dataclass(frozen=True)
class _Explained:
    """All that is read of an image."""

    found: list[Heatmap]
    picture: NDArray[np.uint8]
    placement: Placement | None
    places: list[Place]
    crops: list[NDArray[np.uint8]]
    crop_px: int
    outlines: SlideOutlines | None
    scored: ScoredSlide | None


def _draw_one(
    trained: Trained,
    path: Path,
    out: Path,
    name: str,
    number: int | None,
    options: HeatmapOptions,
    outlines: SlideOutlines | None,
) -> DrawnImage:
    try:
        with open_image(trained, path, allow_changed=options.allow_changed, **options.reading) as opened:
            explained = _explain(trained, opened, number, options, outlines)
    except _UNREADABLE as error:
        if isinstance(error, GeometryError) and str(path) not in str(error):
            raise  # it is the same for every image
        return DrawnImage(path, error=_reason(error, path))
    try:
        return _write(trained, path, out, name, explained, options)
    except OSError as error:
        if error.filename is not None:
            raise
        note = f"{error.strerror}. The maps of images before are kept. Make room, and start again"
        raise OSError(error.errno, note, str(out)) from error


def _reason(error: BaseException, path: Path) -> str:
    """What is wrong with an image, in a line, from the message of a check of many."""
    lines = [line.strip() for line in str(error).splitlines()]
    of_image = [line for line in lines if line.startswith("- ")]
    text = of_image[0].removeprefix("- ").removeprefix(f"{path.absolute()}: ") if of_image else " ".join(lines)
    return re.sub(r"^\w+Error: ", "", text) or type(error).__name__


def _explain(
    trained: Trained, opened: OpenedImage, number: int | None, options: HeatmapOptions, outlines: SlideOutlines | None
) -> _Explained:
    """The maps, and the pixels of the hottest places."""
    model: Any = trained.model
    found = [model.class_activation_map(opened.image, number, probability=options.probability)]
    if options.saliency:
        sides = found[0].image_size
        stride = options.stride or max(1, -(-max(sides) // _SALIENCY_SIDE))
        explained = int(found[0].class_index[0])
        found.append(model.saliency(opened.image, explained, stride=stride, reduce=options.reduce))
    if trained.task in _NUMBERS:
        found = [replace(one, unit="value") for one in found]
    placement = opened.placement
    maps = [place(one, placement) for one in found]  # all are finite
    places: list[Place] = []
    crop_px = min(CROP_PX, max(1, min(found[0].image_size) // 3))
    if options.regions and placement is not None:
        places = hottest_places(maps[0], options.regions, _crop_lv0(placement, crop_px))
    crops = [opened.crop(one.x_lv0, one.y_lv0, crop_px) for one in places]
    scored = None
    if outlines is not None and number is not None and placement is not None:
        (across, down), grid = placement.downsample, found[0].grid
        scored = score_slide(maps[0], (grid.x.stride * across, grid.y.stride * down), outlines)
    return _Explained(found, opened.picture, placement, places, crops, crop_px, outlines, scored)


def _write(
    trained: Trained, path: Path, out: Path, name: str, explained: _Explained, options: HeatmapOptions
) -> DrawnImage:
    first, placement = explained.found[0], explained.placement
    number = int(first.class_index[0])
    class_name = trained.explained[number]
    score = float(_predictions(trained, first.scores)[0, number])
    shown = f"value {score:.3g}" if trained.task in _NUMBERS else f"probability {score:.3f}"
    title = f"{path.name}: {class_name}, {shown}"
    boxes = [] if placement is None else [_box(one, placement, explained.crop_px) for one in explained.places]
    rings = [] if explained.outlines is None or placement is None else explained.outlines.rings
    files = []
    for heatmap in explained.found:
        stem = out / (name if options.picture_only else f"{name}_{safe_name(class_name)}_{KINDS[heatmap.method]}")
        numbered = boxes if heatmap is first else []
        files.append(
            write_overlay(
                heatmap, stem.with_name(f"{stem.name}.png"), explained.picture, title=title, class_name=class_name,
                placement=placement, boxes=numbered, outlines=rings,
            )
        )  # fmt: skip
        if options.picture_only:
            break
        if placement is not None:
            files += _write_for_viewers(heatmap, stem, class_name, placement, numbered, options)
    if explained.crops and placement is not None and not options.picture_only:
        sheet = f"{name}_{safe_name(class_name)}_{KINDS[first.method]}_regions.png"
        mpp = None if placement.mpp is None else placement.mpp[0] * placement.downsample[0]
        files.append(
            write_sheet(
                out / sheet, explained.crops, explained.places, title=title, value_name=_value_name(first), mpp=mpp
            )
        )  # fmt: skip
    note = "" if placement is not None else (
        "the transform of evaluation turns or bends the image, so that its map cannot be laid over the slide: only the "
        "picture of what the network saw was drawn"
    )  # fmt: skip
    return DrawnImage(path, tuple(files), note=note, class_name=class_name, score=score, scored=explained.scored)


def _write_for_viewers(
    heatmap: Heatmap, stem: Path, class_name: str, placement: Placement, boxes: list[Any], options: HeatmapOptions
) -> list[Path]:
    """The pyramids, and the hottest regions."""
    how: dict[str, Any] = {"placement": placement, "class_name": class_name}
    files = [
        write_pyramid(heatmap, stem.with_name(f"{stem.name}.tif"), **how),
        write_color_pyramid(heatmap, stem.with_name(f"{stem.name}_colors.tif"), **how),
    ]
    if options.geojson:
        regions = hottest_regions(place(heatmap, placement), quantile=options.quantile, threshold=options.threshold)
        files.append(
            write_geojson(
                stem.with_name(f"{stem.name}.geojson"), regions, class_name=class_name,
                value_name=_value_name(heatmap), boxes=boxes,
            )
        )  # fmt: skip
    return files


def _crop_lv0(placement: Placement, crop_px: int) -> tuple[float, float]:
    """Width and height of a crop in pixels of level 0."""
    return crop_px * placement.downsample[0], crop_px * placement.downsample[1]


def _box(one: Place, placement: Placement, crop_px: int) -> tuple[float, float, float, float]:
    """The rectangle of a crop."""
    width, height = _crop_lv0(placement, crop_px)
    return one.x_lv0 - width / 2, one.y_lv0 - height / 2, width, height


def _value_name(heatmap: Heatmap) -> str:
    names = {"gradient": "gradient", "attention": "attention", "Grad-CAM": "Grad-CAM"}
    return names.get(heatmap.method, heatmap.unit)


def _predictions(trained: Trained, scores: torch.Tensor) -> torch.Tensor:
    task: Any = trained.model.task
    if trained.task in _NUMBERS:
        return scores.detach().cpu()
    predicted: torch.Tensor = task.predictions(scores.detach().cpu())
    return predicted


def _check_model(trained: Trained, options: HeatmapOptions) -> None:
    """Errors that would be the same for every image."""
    check_allowed(options.allow_changed)
    check_quantile(options.quantile)
    if not trained.geometry and not {"mpp", "level"} & options.reading.keys():
        raise ValueError(
            f"'{trained.checkpoint}' does not remember how its images were read. Pass the resolution of its training, "
            "mpp= or level=."
        )
    model: Any = trained.model
    if not hasattr(model, "class_activation_map"):
        raise ValueError(
            f"'{trained.checkpoint}' holds a {type(model).__name__}, and heat maps are drawn of a StreamingClassifier "
            "such as StreamingResNet. For another network use streammodels.class_activation_map."
        )
    if options.probability:
        channels = trained.geometry.get("channels") or "rgb"
        bands = 3 if channels == "rgb" else len(channels)
        blank = torch.zeros(1, bands, 64, 64, dtype=torch.uint8, device=model.device)
        model.class_activation_map(blank, 0, probability=True)


def _in_the_way(out: Path, named: list[str], classes: Sequence[str], options: HeatmapOptions) -> list[Path]:
    if options.picture_only:
        return [file for name in named if (file := out / f"{name}.png").exists()]
    scores = [] if options.annotations is None else [file for one in LESION_FILES if (file := out / one).exists()]
    return [*existing_files(out, named, classes), *scores]


def _check_folder(out: Path, in_the_way: list[Path]) -> None:
    """Errors of writing, before anything is computed."""
    if in_the_way:
        more = f" and {len(in_the_way) - 1} more" if len(in_the_way) > 1 else ""
        raise FileExistsError(f"'{in_the_way[0]}'{more} would be replaced. Pass --overwrite, or another folder.")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"'{out}' is a file. Name a folder for the heat maps.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = f"nothing can be written to '{out}' ({error.strerror}). Name another folder, or get permission."
        raise type(error)(reason) from error
