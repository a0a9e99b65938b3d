"""Measurements in blocks that do not depend on each other, each with a time limit, written down as they are made.

A block yields records, plain dicts. The file is written anew after each, so that what was measured is there whatever
happens afterwards. A block that fails, or takes too long, is recorded as such, and the next one runs.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

Record = dict[str, Any]


class OutOfTime(BaseException):
    """A block has used up its time; no error, so that nothing in the block catches it."""


@dataclass(frozen=True)
class Setting:
    """Where and how large to measure.

    Attributes:
        device: The device that computes.
        tiny: Whether images are tiny, to see that everything runs.
        folder: For files that a block makes, such as traces.
    """

    device: torch.device
    tiny: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU, whose memory and kernels can be measured."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until all that was asked of the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Block:
    """A function that yields records, and the seconds it may take."""

    run: Callable[[Setting], Iterator[Record]]
    limit_s: float


def run_blocks(
    blocks: Mapping[str, Block], setting: Setting, path: Path, machine: Record, limit_s: float
) -> dict[str, Record]:
    """Run blocks in their order, and write what comes of them to a JSON file.

    Args:
        blocks: The blocks, by name.
        setting: Passed to each.
        path: The file; its folder is made.
        machine: What is known of the machine, for the file.
        limit_s: Seconds that all may take together; those that no time is left for are recorded as such.

    Returns:
        By block its "status" ("ok", "failed", "out of time" or "skipped"), "seconds", "records", and "error" if any.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Record] = {}
    end = time.monotonic() + limit_s
    for name, block in blocks.items():
        result: Record = {"status": "running", "seconds": 0.0, "records": []}
        results[name] = result
        begun = time.monotonic()

        def write(result: Record = result, begun: float = begun) -> None:
            result["seconds"] = round(time.monotonic() - begun, 2)
            _write(path, {"machine": machine, "blocks": results})

        write()
        try:
            with time_limit(min(block.limit_s, end - begun)):
                for record in block.run(setting):
                    result["records"].append(record)
                    write()
            result["status"] = "ok"
        except OutOfTime:
            result["status"] = "out of time"
        except ImportError as error:  # a package that this machine lacks
            result |= {"status": "skipped", "error": str(error)}
        except Exception as error:
            lines = traceback.format_exc().splitlines()
            result |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": lines[-12:]}
        write()
        if setting.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
        print(f"{name}: {result['status']}, {result['seconds']:.1f} s {result.get('error', '')}", flush=True)
    return results


def _write(path: Path, content: Record) -> None:
    """Replace the file at once, so that there is always a whole one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(new, path)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` after so many seconds; only in the main thread, where signals arrive."""
    if seconds <= 0:
        raise OutOfTime
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
