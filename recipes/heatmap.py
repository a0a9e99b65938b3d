"""Heat maps of a trained network over a slide, as pictures and as pyramids for slide viewers.

python recipes/heatmap.py --checkpoint runs/.../best.ckpt --slide tumor_001.tif --output heatmaps
python recipes/heatmap.py --checkpoint best.ckpt --slide tumor_001.tif --output heat --class tumor --saliency

Writes the class activation map, and with --saliency the gradient of the class score, as an overlay (PNG) and as a
pyramid (TIFF). The slide is read as in training, which the checkpoint remembers, strip by strip; it is never whole in
memory.
"""

import argparse
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streammodels import Heatmap, StreamingResNet, write_overlay, write_pyramid
from wsidata import LazyImage, Slide, TissueCrop
from wsidata.datamodules.checkpoint import memory_in
from wsidata.datamodules.geometry import GeometryError, check_geometry
from wsidata.formats.resolution import MEASURES
from wsidata.slides.tissue.mask import COLOR_METHODS
from wsidata.transforms import default_eval_transform

METHODS = {method.__name__: method for method in COLOR_METHODS}
CHANGEABLE = ("resolution", "crop", "image_size", "eval_transform")
PICTURE_PX = 1600
SALIENCY_SIDE = 8192


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="of a StreamingResNet, as a Trainer writes it")
    add("--slide", type=Path, required=True, help="the slide")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--mpp", type=float, help="resolution to read at, um per pixel (as in training)")
    size.add_argument("--level", type=int, help="pyramid level to read, instead of --mpp")
    add("--allow-changed", nargs="+", choices=CHANGEABLE, default=[], metavar="SETTING",
        help="what may differ from training: resolution, as given; crop and image_size: the whole slide, uncropped; "
        "eval_transform: none")  # fmt: skip
    add("--output", type=Path, required=True, help="folder for the files")
    add("--class", dest="class_name", help="name or number of the class to explain (the one with the highest score)")
    add("--saliency", action="store_true", help="also the gradient of the score, slower than a training step")
    add("--stride", type=int, help=f"side of its blocks of pixels (least that gives up to {SALIENCY_SIDE} a side)")
    add("--reduce", choices=("max", "mean"), default="max", help="of the absolute values in a block (%(default)s)")
    add("--tile-size", type=int, help="memory budget: side of a square of pixels in flight (as in training)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--mpp-override", type=float, help="resolution of level 0, for a slide without one")
    return parser.parse_args(arguments)


def load_model(path: Path, tile_size: int | None) -> tuple[StreamingResNet, list[str], dict[str, Any]]:
    """The network, the names of its classes (numbers if the checkpoint has no names), and how its images were read."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        settings = {**content["hyper_parameters"], "weights": None}
    except (OSError, KeyError, UnpicklingError) as error:
        raise SystemExit(f"error: '{path}' could not be read as a checkpoint of a Trainer ({error}).") from error
    if tile_size is not None:
        settings["tile_size"] = tile_size
    model = StreamingResNet(**settings)
    model.load_state_dict(content["state_dict"])
    memory = memory_in(content) or {}
    outputs, names = len(model.get_parameter("fc.bias")), memory.get("class_names", [])
    named = names if len(names) == outputs else range(outputs)
    return model.eval(), [str(name) for name in named], memory.get("geometry") or {}


def read_as_trained(slide: Path, trained: dict[str, Any], options: argparse.Namespace) -> tuple[Slide, dict[str, Any]]:
    """The slide, opened as in training, and the arguments of its `lazy`; exits where options say something else.

    Args:
        slide: The file.
        trained: The geometry of the checkpoint; empty if it has none.
        options: The command line.
    """
    given = {name: value for name in ("mpp", "level") if (value := getattr(options, name)) is not None}
    if not trained:
        if not given:
            raise SystemExit("error: the checkpoint does not remember a resolution: pass --mpp or --level.")
        print(f"The checkpoint does not remember how its slides were read: make sure that it was at {given}.")
    here = {**trained, "kind": "slides", "resolution": given or trained.get("resolution")}
    crop, size = trained.get("crop"), trained.get("image_size")
    if crop is not None and (crop["method"] not in METHODS or "crop" in options.allow_changed):
        here["crop"] = crop = None
    if trained.get("eval_transform") is not None:  # a text, from which no transform can be made
        here["eval_transform"] = None
    if "image_size" in options.allow_changed:
        size = None
    try:
        check_geometry(trained, here, options.allow_changed, resuming=False)
    except GeometryError as error:
        raise SystemExit(f"error: {error} Here: --allow-changed.") from error
    opened = Slide(
        slide, mpp_override=options.mpp_override, channels=trained.get("channels"),
        scale_to_8bit=trained.get("scale_to_8bit"), apply_icc=trained.get("apply_icc", False),
    )  # fmt: skip
    transform = None if size is None or trained["eval_transform"] else default_eval_transform(tuple(size))
    return opened, {
        "crop": None if crop is None else TissueCrop(**{**crop, "method": METHODS[crop["method"]]}),
        "transform": transform, "dtype": trained.get("dtype", "uint8"), **here["resolution"],
    }  # fmt: skip


def find_class(requested: str | None, names: list[str]) -> int | None:
    """Number of the requested class, given by name or number."""
    if requested is None:
        return None
    if requested in names:
        return names.index(requested)
    if requested.isdecimal() and int(requested) < len(names):
        return int(requested)
    raise SystemExit(f"error: --class {requested} is none of {', '.join(names)}, nor a number below {len(names)}.")


def picture_of(image: LazyImage) -> NDArray[np.uint8]:
    """The image at a size to look at, (height, width, 3); of other channels than RGB the first, in gray."""
    pixels = image.thumbnail(PICTURE_PX).permute(1, 2, 0).numpy()
    pixels = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)


def main(arguments: list[str] | None = None) -> None:
    """Read, explain, write."""
    options = parse_arguments(arguments)
    model, names, trained = load_model(options.checkpoint, options.tile_size)
    requested = find_class(options.class_name, names)
    opened, how = read_as_trained(options.slide, trained, options)
    with opened as slide:
        if slide.mpp is None:
            raise SystemExit(f"error: '{slide.path.name}' has no resolution (um/px): pass it with --mpp-override.")
        resolution = {name: how[name] for name in MEASURES if name in how}
        (mpp_x, mpp_y), (down_x, down_y) = slide.mpp, slide.downsample_at(**resolution)
        image = slide.lazy(**how)
        whole = image.shape[1:] == slide.size_at(**resolution)[::-1]
    picture = picture_of(image)
    print(f"{options.slide.name}: {image.shape[2]} x {image.shape[1]} pixels of {mpp_x * down_x:.4g} um.")
    if not whole:
        print("They are cropped or padded as in training, and so are the maps: they do not lie over the whole slide.")
    model.to(options.device)

    def write(found: Heatmap, kind: str) -> None:
        number = int(found.class_index[0])
        stem = f"{options.slide.stem}_{names[number]}_{kind}"
        title = f"{options.slide.name}: {names[number]} (score {float(found.scores[0, number]):.3g})"
        png = options.output / f"{stem}.png"
        write_overlay(found, png, picture, title=title, class_name=names[number])
        tiff = write_pyramid(found, options.output / f"{stem}.tif", (mpp_x * down_x, mpp_y * down_y))
        print(f"{found.method} of class {names[number]}: {png}, {tiff}")

    found = model.class_activation_map(image, requested)
    scores = ", ".join(f"{name} {float(score):.3g}" for name, score in zip(names, found.scores[0], strict=True))
    print(f"Scores: {scores}.")
    write(found, "cam")
    if options.saliency:
        stride = options.stride or max(1, -(-max(image.shape[1:]) // SALIENCY_SIDE))
        write(model.saliency(image, int(found.class_index[0]), stride=stride, reduce=options.reduce), "saliency")


if __name__ == "__main__":
    main()
