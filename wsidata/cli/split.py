"""The command `wsidata split TABLE`, which saves a split and prints its class balance and leakage."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsidata.cli.arguments import (
    add_output_arguments,
    add_split_arguments,
    add_table_arguments,
    check_plot,
    print_json,
    progress_bar,
    refuse_inputs,
    table_options,
)
from wsidata.utils.messages import name_some

if TYPE_CHECKING:
    import pandas as pd

HELP = "split a table of slides into train, val and test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_table_arguments(parser)
    parser.add_argument("-o", "--output", default="split.csv", help="CSV to write (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that hold something else")
    add_split_arguments(parser)
    parser.add_argument("--folds", type=int, help="write this many files, one per fold: split_fold0.csv, ...")
    parser.add_argument("--repeats", type=int, default=1, help="draw this many splits: split_repeat0.csv, ...")
    parser.add_argument("--no-stratify", action="store_true", help="ignore labels")
    parser.add_argument(
        "--small-classes", choices=("raise", "train"), default="raise", help="raise an error, or train only"
    )
    parser.add_argument("--val-prefix", help="prefix of the names of validation slides")
    parser.add_argument("--leaks", choices=("off", "warn", "error"), default="warn", help="what to do about leaks")
    parser.add_argument("--plot", metavar="FILE.png", help="plot the class balance")
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the split or splits; return 1 if slides leak and that is an error."""
    from wsidata.evaluation.save import save_figure
    from wsidata.plots import plot_split
    from wsidata.splits.split_file import save_splits
    from wsidata.splits.split_table import split_table
    from wsidata.tables.label_table import by_case, read_table

    check_plot(arguments.plot)
    for path, _ in _files(arguments):
        refuse_inputs(path, [arguments.table])
    labels = read_table(arguments.table, **table_options(arguments), split_column=arguments.split_column)
    answers: list[dict[str, Any]] = []
    leaking = False
    shared = {**vars(arguments), "stratify": not arguments.no_stratify, "test_ids": None, "val_ids": None}
    splits = [(path, split_table(labels, None, {**shared, **options}).frame) for path, options in _files(arguments)]
    if not arguments.overwrite:
        _refuse_to_replace(splits)
    for path, slides in splits:
        report = _leaks(slides, arguments)
        leaking = leaking or bool(report)
        digest, frame = save_splits(slides, path), by_case(slides)
        counts = {part: rows["label_name"].value_counts().to_dict() for part, rows in frame.groupby("split")}
        leaks = None if report is None else [asdict(leak) for leak in report.leaks]
        answers.append({"file": str(path), "digest": digest, "counts": counts, "leaks": leaks})
        if not arguments.json:
            print(f"{path}  sha256:{digest[:16]}\n{_table(frame, labels.class_names)}")
        if report is not None and (report or not arguments.json):
            print(report, file=sys.stderr if report else sys.stdout)
    if arguments.plot:
        save_figure(plot_split(frame, labels.class_names), arguments.plot, dpi=120)
    if arguments.json:
        print_json(answers)
    return int(leaking and arguments.leaks == "error")


def _files(arguments: argparse.Namespace) -> list[tuple[Path, dict[str, Any]]]:
    """Every file to write, and the arguments that tell its split from the others."""
    output = Path(arguments.output)
    files: list[tuple[Path, dict[str, Any]]] = []
    for repeat in range(arguments.repeats):
        name = output.stem + (f"_repeat{repeat}" if arguments.repeats > 1 else "")
        if arguments.folds is None:
            files.append((output.with_name(name + output.suffix), {"repeat": repeat, "k_fold": None}))
        for fold in range(arguments.folds or 0):
            path = output.with_name(f"{name}_fold{fold}{output.suffix}")
            files.append((path, {"repeat": repeat, "k_fold": (fold, arguments.folds)}))
    return files


def _refuse_to_replace(splits: list[tuple[Path, pd.DataFrame]]) -> None:
    """Raise if a file exists and holds anything but its split."""
    from wsidata.splits.split_file import holds_split

    others = [str(path) for path, frame in splits if path.exists() and not holds_split(path, frame)]
    if others:
        raise FileExistsError(
            f"{name_some(others)} exists and holds another split, or none. Nothing was written: name another file with "
            "--output, or pass --overwrite."
        )


def _leaks(frame: pd.DataFrame, arguments: argparse.Namespace) -> Any:
    if arguments.leaks == "off":
        return None
    from wsidata.splits.leaks import check_leaks

    with progress_bar("looking for leaks", quiet=arguments.quiet) as progress:
        return check_leaks(frame, progress=progress)


def _table(frame: pd.DataFrame, class_names: tuple[str, ...]) -> str:
    """Slides of each class in each split, as text."""
    import pandas as pd

    if not set(class_names) & set(frame["label_name"]):  # numbers, or several labels each
        return frame["split"].value_counts().rename_axis(index="split").rename("images").to_string()
    counts = pd.crosstab(frame["label_name"], frame["split"]).reindex(
        index=list(class_names), columns=[part for part in ("train", "val", "test") if part in set(frame["split"])]
    )
    counts = counts.fillna(0).astype(int)
    counts.loc["all"] = counts.sum()
    return counts.rename_axis(index="class", columns=None).to_string()
