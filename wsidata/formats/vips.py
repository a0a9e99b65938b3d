"""libvips, set up once for slides.

libvips remembers its last 100 operations, and a remembered "load" keeps its file open after the image is gone: a folder
of slides then ends in "too many open files". The cache is switched off for the process when this module is imported;
it saves nothing here, because no pipeline of ours asks for the same operation twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyvips

from wsidata.errors import UnreadableImageError

pyvips.cache_set_max(0)


@contextmanager
def naming_errors(path: Path | str) -> Iterator[None]:
    """Turn libvips' errors into ones that name the file.

    libvips works when pixels are asked for, not when a pipeline is built, and its messages say "premature end" and not
    of what. Wrap the place where the pixels of one file are fetched.

    Args:
        path: The file whose pixels are fetched inside the block.

    Raises:
        UnreadableImageError: in place of `pyvips.Error`.
    """
    try:
        yield
    except pyvips.Error as error:
        detail = " ".join(str(error).split())
        raise UnreadableImageError(
            f"'{path}' could not be decoded: {detail}. Copy it again from its source."
        ) from error


def thread_count() -> int:
    """Threads that libvips works on, for work beside it: VIPS_CONCURRENCY, or one per processor."""
    stated = os.environ.get("VIPS_CONCURRENCY", "")
    return int(stated) if stated.isdigit() and int(stated) > 0 else os.cpu_count() or 1
