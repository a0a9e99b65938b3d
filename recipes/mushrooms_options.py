"""The command line of `mushrooms.py`: what can be chosen, with defaults for real photos and for the demo."""

import argparse
from pathlib import Path

REAL = {"image_size": 224, "weights": "DEFAULT", "model": "resnet18", "epochs": 60, "learning_rate": 3e-4}
VAL_FRACTION = 0.25
DEMO = {"image_size": 64, "weights": "none", "model": "resnet9", "epochs": 25, "learning_rate": 1e-3}


def parse_arguments(description: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is not given has other defaults for real photos than for the demo."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--data", type=Path, help="folder of photos, in a folder per class or with --labels (default: synthetic ones)")
    add("--labels", type=Path, help="table of the photos, with the columns image and label")
    add("--names", type=Path, help="table of the labels' names, with the columns label and name")
    add("--hub", metavar="REPO_OR_FOLDER", help="instead of --data: a published data set, with the split it has")
    add("--image-size", type=int, help=f"side of the square the network sees, pixels ({REAL['image_size']})")
    add("--stream", action="store_true", help="whole photos at full resolution instead, streamed one after the other")
    add("--tile-size", type=int, default=1024, help="with --stream: side of a square of pixels in flight (%(default)s)")
    add("--val-fraction", type=float, help=f"share to validate on, stratified ({VAL_FRACTION})")
    add("--test-fraction", type=float, default=0.0, help="share to test on, which chooses no epoch (%(default)s)")
    add("--k-fold", type=int, metavar="K", help="train K times, each on all but one of K parts: mean and spread")
    add("--num-workers", type=int, default=2, help="processes that read photos (%(default)s)")
    _add_training(parser.add_argument_group("training"))
    add = parser.add_argument
    add("--seed", type=int, default=42, help="of the split and of everything random (%(default)s)")
    add("--out", type=Path, help="folder for the results (runs/mushrooms/<time>)")
    early = parser.parse_known_args(arguments)[0]
    parser.set_defaults(**(DEMO if early.data is None and early.hub is None else REAL))
    if early.model == "resnet9":
        parser.set_defaults(weights="none")  # nobody has published any
    options = parser.parse_args(arguments)
    for problem in _problems(options):
        parser.error(problem)
    return options


def _add_training(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--model", help=f"resnet9 to resnet152, wide and ResNeXt variants ({REAL['model']})")
    add("--weights", help="DEFAULT for ImageNet's, a torchvision name, a file, or none for random (DEFAULT)")
    add("--epochs", type=int, help=f"({REAL['epochs']})")
    add("--batch-size", type=int, default=32, help="photos a step (%(default)s)")
    add("--learning-rate", type=float, help=f"({REAL['learning_rate']})")
    add("--find-learning-rate", action="store_true", help="look for it with Lightning's learning rate finder first")
    add("--one-cycle", action="store_true", help="let it rise to --learning-rate and fall, over all epochs")
    add("--class-weights", choices=("loss", "sampling", "off"), default="loss",
        help="make small classes count as much as large ones: in the loss, or by drawing them more often")  # fmt: skip
    add("--patience", type=int, default=20, help="stop after as many epochs without gain in validation loss; 0: never")
    add("--precision", default="32-true", help="as in Lightning, such as bf16-mixed (%(default)s)")
    add("--accelerator", default="auto", help="as in Lightning (%(default)s)")


def _problems(options: argparse.Namespace) -> list[str]:
    """What does not go together, with the remedy."""
    problems = []
    if options.hub and (options.data or options.labels or options.names):
        problems.append("--hub brings photos, labels and names: leave out --data, --labels and --names")
    if options.hub and options.k_fold:
        problems.append("--hub has a split of its own, which --k-fold would replace: use one of them")
    if options.hub and options.test_fraction:
        problems.append("--hub has a split of its own, of which --test-fraction would be no part: leave it out")
    if options.labels and not options.data:
        problems.append("--labels needs --data, the folder of the photos")
    if options.names and not options.labels:
        problems.append("--names needs --labels: class folders are named already")
    if options.k_fold is not None and options.k_fold < 2:
        problems.append(f"--k-fold {options.k_fold} must be at least 2")
    if options.model == "resnet9" and options.weights == "DEFAULT":
        problems.append("--model resnet9 has no pretrained weights: pass --weights none, or a file")
    return problems
