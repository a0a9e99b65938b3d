"""Worker processes of a loader, which end with their reader and record what they were reading."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.sharing import begin_sending
from wsidata.utils.processes import end_with_parent

_UNUSED, _IDLE = -2, -1
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}


class WorkerError(RuntimeError):
    """A worker process ended before its time; the message names the file that it was reading, and what to do."""


def reading_log(workers: int) -> Tensor:
    """The row that each worker reads, (workers,) int64 in shared memory."""
    log = torch.full((workers,), _UNUSED, dtype=torch.int64)
    log.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
    return log


def begin_worker(log: Tensor, reader: int, also: Callable[[int], None] | None, worker: int) -> None:
    """The first that a worker does.

    Args:
        log: See `reading_log`.
        reader: Number of the loader; see `sharing.begin_reading`.
        also: Another function that workers begin with, such as Lightning's, which seeds them.
        worker: Number of the worker.
    """
    end_with_parent()
    cv2.setNumThreads(1)  # as torch does: else each worker has as many threads as there are processors
    begin_sending(reader, worker)
    info: Any = get_worker_info()
    if isinstance(info.dataset, EpochDataset):
        info.dataset.reading = log[worker : worker + 1]
        info.dataset.reading.fill_(_IDLE)
    if also is not None:
        also(worker)


def describe_stuck(log: Tensor, dataset: EpochDataset, seconds: float) -> str:
    """What the workers of a loader read that gave no batch for too long, and what to do.

    Args:
        log: See `reading_log`.
        dataset: What they read.
        seconds: The time.
    """
    rows = dict.fromkeys(int(row) for row in log if row >= 0)
    where = ", ".join(dataset.describe_row(row) for row in rows) or "nothing"
    return (
        f"no batch came for {seconds:g} s, while workers were reading {where}. Their disk or mount may hang (see "
        "`dmesg`, `mount`), which no process can interrupt by itself: check it, and start again. If it is only slow, "
        "raise read_timeout_s=, or copy slides to a local disk ahead of use (stage_dir=)."
    )


def describe_ended(processes: Sequence[Any], log: Tensor, dataset: EpochDataset) -> str:
    """What became of the workers that have ended, and what to do; "" if all are alive.

    Args:
        processes: The workers' `multiprocessing.Process`es.
        log: See `reading_log`.
        dataset: What they read.
    """
    ended = [number for number, process in enumerate(processes) if not process.is_alive()]
    if not ended:
        return ""
    worker = next((number for number in ended if log[number] >= 0), ended[0])  # one that was reading tells most
    code, row = processes[worker].exitcode, int(log[worker])
    if row == _UNUSED:
        return f"worker process {worker} ended with exit code {code} before it read anything. {never_began()}"
    where = dataset.describe_row(row) if row >= 0 else "nothing (it waited, or passed a batch on)"
    return f"worker process {worker} {_how(code)} while it was reading {where}. {_remedy(code, row)}"


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    verb = "crashed" if -code in _CRASHES else "was killed"
    return f"{verb} by signal {-code} ({names.get(-code, 'unknown')})"


def _remedy(code: int | None, row: int) -> str:
    if code is not None and -code in _CRASHES:
        file = "the file may be damaged in a way that its decoder does not notice; " if row >= 0 else ""
        return f"Read it with num_workers=0 to see where: {file}take it out of the table if it crashes there too."
    return (
        "Most often the system ran out of memory and killed it (see `dmesg`, or the job's memory limit): use fewer "
        "workers (num_workers=), smaller images or batches, or lazy=True for slides. If it always ends at this file, "
        "read it with num_workers=0 to see why."
    )


def never_began() -> str:
    """Why workers may end while they start: a script that starts them where they import it, or a failing import."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    advice = (
        'Workers import the script that starts them: put what it runs below `if __name__ == "__main__":`, or pass '
        "num_workers=0."
    )
    try:
        if script is not None and "__name__" not in Path(script).read_text(encoding="utf-8"):
            return f"'{Path(script).name}' has no main guard. {advice}"
    except (OSError, UnicodeDecodeError):  # the advice does without
        pass
    return f"The traceback above, if there is one, is its own. {advice}"
