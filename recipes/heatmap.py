"""Heat maps of a trained network over a slide, as pictures and as pyramids for slide viewers.

python recipes/heatmap.py --checkpoint runs/.../best.ckpt --slide tumor_001.tif --mpp 8 --output heatmaps
python recipes/heatmap.py --checkpoint best.ckpt --slide tumor_001.tif --mpp 2 --output heat --class tumor --saliency

Writes the class activation map, and with --saliency the gradient of the class score, as an overlay (PNG) and as a
pyramid (TIFF). The slide is read strip by strip and is never whole in memory.
"""

import argparse
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from streammodels import Heatmap, StreamingResNet, write_overlay, write_pyramid
from wsidata import Slide

PICTURE_PX = 1600
SALIENCY_SIDE = 8192


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="of a StreamingResNet, as a Trainer writes it")
    add("--slide", type=Path, required=True, help="the slide")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--mpp", type=float, help="resolution to read at, um per pixel, as in training")
    size.add_argument("--level", type=int, help="pyramid level to read, instead of --mpp")
    add("--output", type=Path, required=True, help="folder for the files")
    add("--class", dest="class_name", help="name or number of the class to explain (the one with the highest score)")
    add("--saliency", action="store_true", help="also the gradient of the score, slower than a training step")
    add("--stride", type=int, help=f"side of its blocks of pixels (least that gives up to {SALIENCY_SIDE} a side)")
    add("--reduce", choices=("max", "mean"), default="max", help="of the absolute values in a block (%(default)s)")
    add("--tile-size", type=int, help="memory budget: side of a square of pixels in flight (as in training)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--mpp-override", type=float, help="resolution of level 0, for a slide without one")
    return parser.parse_args(arguments)


def load_model(path: Path, tile_size: int | None) -> tuple[StreamingResNet, list[str]]:
    """The network, and the names of its classes, or their numbers if the checkpoint has no names."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        settings = {**content["hyper_parameters"], "weights": None}
    except (OSError, KeyError, UnpicklingError) as error:
        raise SystemExit(f"error: '{path}' could not be read as a checkpoint of a Trainer ({error}).") from error
    if tile_size is not None:
        settings["tile_size"] = tile_size
    model = StreamingResNet(**settings)
    model.load_state_dict(content["state_dict"])
    found = [part["class_names"] for part in content.values() if isinstance(part, dict) and part.get("class_names")]
    outputs = len(model.get_parameter("fc.bias"))
    named = bool(found) and isinstance(found[0], list) and len(found[0]) == outputs
    return model.eval(), [str(name) for name in (found[0] if named else range(outputs))]


def find_class(requested: str | None, names: list[str]) -> int | None:
    """Number of the requested class, given by name or number."""
    if requested is None:
        return None
    if requested in names:
        return names.index(requested)
    if requested.isdecimal() and int(requested) < len(names):
        return int(requested)
    raise SystemExit(f"error: --class {requested} is none of {', '.join(names)}, nor a number below {len(names)}.")


def main(arguments: list[str] | None = None) -> None:
    """Read, explain, write."""
    options = parse_arguments(arguments)
    resolution = {"mpp": options.mpp} if options.level is None else {"level": options.level}
    model, names = load_model(options.checkpoint, options.tile_size)
    requested = find_class(options.class_name, names)
    with Slide(options.slide, mpp_override=options.mpp_override) as slide:
        if slide.mpp is None:
            raise SystemExit(f"error: '{slide.path.name}' has no resolution (um/px): pass it with --mpp-override.")
        (mpp_x, mpp_y), (down_x, down_y) = slide.mpp, slide.downsample_at(**resolution)
        image, picture = slide.lazy(**resolution), slide.numpy(max_side=PICTURE_PX)
    print(f"{options.slide.name}: {image.shape[2]} x {image.shape[1]} pixels of {mpp_x * down_x:.4g} um.")
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
