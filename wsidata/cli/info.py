"""The command `wsidata info SLIDE...`, which prints levels, resolution and reader of slides."""

from __future__ import annotations

import argparse

from wsidata.cli.arguments import (
    CHANNELS_HELP,
    add_output_arguments,
    add_plane_arguments,
    channel_list,
    check_plot,
    print_json,
    progress_bar,
)

HELP = "levels, resolution and reader of slides"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("slides", nargs="+", metavar="SLIDE", help="a slide")
    parser.add_argument("--channels", type=channel_list, help=CHANNELS_HELP)
    add_plane_arguments(parser)
    parser.add_argument("--plot", metavar="FILE.png", help="plot the resolution of all levels of all slides")
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the facts of every slide; 1 if one of them cannot be read."""
    from wsidata.slides.slide import slide_info

    check_plot(arguments.plot)
    infos = []
    with progress_bar("slides", quiet=arguments.quiet or len(arguments.slides) < 3) as progress:
        for number, path in enumerate(arguments.slides, start=1):
            chosen = {name: getattr(arguments, name) for name in ("channels", "series", "z", "t")}
            infos.append(slide_info(path, **chosen))
            progress(number, len(arguments.slides))
    if arguments.plot:
        from wsidata.evaluation.save import save_figure
        from wsidata.plots import plot_spacing

        save_figure(plot_spacing(infos), arguments.plot, dpi=120)
    if arguments.json:
        print_json([info.to_dict() for info in infos])
    else:
        print("\n\n".join(str(info) for info in infos))
    return int(any(info.error for info in infos))
