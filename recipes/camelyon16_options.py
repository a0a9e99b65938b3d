"""The command line of `camelyon16.py`: what can be chosen, with defaults for real slides and for the demo."""

import argparse
from pathlib import Path

REAL = {
    "mpp": 8.0,
    "image_size": 4096,
    "tile_size": 2880,
    "weights": "DEFAULT",
    "epochs": 20,
    "learning_rate": 1e-4,
    "batch_size": 1,
}
DEMO = {
    "mpp": 2.0,
    "image_size": 256,
    "tile_size": 128,
    "weights": "none",
    "epochs": 5,
    "learning_rate": 5e-4,
    "batch_size": 4,
}


def parse_arguments(description: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is not given has other defaults for real slides than for the demo."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="folder with images/ and evaluation/reference.csv (columns image and class or type)")
    add(
        "--hub",
        metavar="REPO",
        help="train on slides that were published: owner/name on the Hub, or an exported folder",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--mpp", type=float, help=f"spacing to read at, um per pixel ({REAL['mpp']})")
    size.add_argument("--level", type=int, help="pyramid level to read, instead of --mpp")
    add(
        "--image-size",
        type=int,
        help=f"crop or pad slides to this side, pixels; 0 for whole slides ({REAL['image_size']})",
    )
    add("--tile-size", type=int, help=f"memory budget: side of a square of pixels in flight ({REAL['tile_size']})")
    add("--memory", help="budget of a training step, such as 8GB, instead of --tile-size")
    add("--lazy", action="store_true", help="never hold a slide whole: decode its rows when the network asks for them")
    add(
        "--crop", choices=("tissue", "pack"), help="read the tissue's bounding box, or its pieces packed close together"
    )
    add("--model", default="resnet18", help="resnet9 to resnet152, wide and ResNeXt variants (%(default)s)")
    add("--pooling", default="avg", help="avg, max, gem, lse or attention (%(default)s)")
    add("--weights", help="DEFAULT for ImageNet's, a torchvision name, a file, or none for random (DEFAULT)")
    add("--train-streaming-layers", action="store_true", help="train the trunk too, not only the classifier")
    add(
        "--unfreeze-at", type=int, metavar="EPOCH", help="train the classifier alone until then, the trunk from then on"
    )
    add("--epochs", type=int, help=f"({REAL['epochs']})")
    add("--learning-rate", type=float, help=f"({REAL['learning_rate']})")
    add("--batch-size", type=int, help=f"slides a step and process ({REAL['batch_size']}; with --hub as published)")
    add("--num-workers", type=int, default=2, help="processes that read slides (%(default)s)")
    add("--precision", default="32-true", help="as in Lightning, such as bf16-mixed (%(default)s)")
    add("--devices", default="auto", help="as in Lightning (%(default)s)")
    add("--seed", type=int, default=42, help="of the split and of everything random (%(default)s)")
    add("--out", type=Path, help="folder for the results (runs/camelyon16/<time>)")
    given = parser.parse_known_args(arguments)[0]
    if given.hub is not None:
        fixed = {"--data": given.data, "--mpp": given.mpp, "--level": given.level, "--crop": given.crop}
        useless = [name for name, value in (fixed | {"--image-size": given.image_size}).items() if value is not None]
        if useless:
            parser.error(f"--hub trains on what was published, which {', '.join(useless)} would not change")
        parser.set_defaults(**{**REAL, "mpp": None, "image_size": None, "batch_size": None})  # as published
    else:
        parser.set_defaults(**(DEMO | {"train_streaming_layers": True} if given.data is None else REAL))
    options = parser.parse_args(arguments)
    if options.unfreeze_at is not None and not 0 < options.unfreeze_at < options.epochs:
        parser.error(f"--unfreeze-at {options.unfreeze_at} must lie between 0 and --epochs {options.epochs}")
    return options
