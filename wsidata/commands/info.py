"""`wsidata info SLIDE...`: what a slide is, which levels and spacing it has, who reads it, and what is odd about it."""

from __future__ import annotations

import argparse

from wsidata.commands.options import add_output_arguments, print_json, progress_bar

HELP = "levels, spacing and reader of slides"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("slides", nargs="+", metavar="SLIDE", help="a slide")
    parser.add_argument("--channels", help="numbers or names of channels, with commas, for slides of many channels")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the spacing of all levels of all slides")
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the facts of every slide; 1 if one of them cannot be read."""
    from wsidata.slide_info import slide_info

    names = None if arguments.channels is None else arguments.channels.split(",")
    channels = None if names is None else [int(name) if name.isdecimal() else name for name in names]
    infos = []
    with progress_bar("slides", quiet=arguments.quiet or len(arguments.slides) < 3) as progress:
        for number, path in enumerate(arguments.slides, start=1):
            infos.append(slide_info(path, channels=channels))
            progress(number, len(arguments.slides))
    if arguments.plot:
        from wsidata.plots import plot_spacing

        plot_spacing(infos).savefig(arguments.plot, dpi=120)
    if arguments.json:
        print_json([info.to_dict() for info in infos])
    else:
        print("\n\n".join(str(info) for info in infos))
    return int(any(info.error for info in infos))
