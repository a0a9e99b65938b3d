"""Measurements of images of several heights, each in a fresh process, for benchmarks of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any


def measure_each(
    options: Namespace,
    header: str,
    measure: Callable[[Namespace, int], dict[str, Any]],
    row: Callable[[dict[str, Any]], str],
) -> None:
    """Measure each height, and print the table as it grows; in a fresh process, which has `options.one`, that height.

    Args:
        options: With `heights`, `threads`, `out` and `one`.
        header: Header of the table.
        measure: Returns the figures of one height.
        row: Returns their line in the table.
    """
    if options.one:
        print(json.dumps(measure(options, options.one)))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MALLOC_ARENA_MAX": "1"}
    print(header, flush=True)
    with options.out.open("a") as out:
        for height in options.heights:
            command = [sys.executable, *sys.argv, "--one", str(height)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout.strip(), file=out, flush=True)
            print(row(json.loads(done.stdout)), flush=True)
