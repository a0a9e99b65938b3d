"""Messages about arguments are said in flags, and quoted names stay."""

import argparse

from wsidata.utils.flags import flags_of, say_in_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-size")
    parser.add_argument("--image-dir")


def test_arguments_that_are_flags_are_named_so() -> None:
    message = "image_size= or image_size=4, image_dir and mask_dir; 'image_dir', x.image_dir and lazy=True stay."
    assert say_in_flags(message, flags_of(add_arguments)) == (
        "--image-size or --image-size=4, --image-dir and mask_dir; 'image_dir', x.image_dir and lazy=True stay."
    )
