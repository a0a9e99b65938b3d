"""Executors that spread work over threads, processes or machines, and what becomes of each item.

Any `concurrent.futures.Executor` will do: a thread pool, `process_pool`, or Dask's `client.get_executor(pure=False)`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from wsidata.utils.messages import name_some
from wsidata.utils.processes import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 256
"""Most items submitted at a time to an executor that does not say how many workers it has."""


class PoolError(ChildProcessError):
    """The workers of an executor ended before their work was done."""


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of processes in which libvips works, forked from a fork server instead of this process.

    As everywhere with such processes, a script must keep its own start under `if __name__ == "__main__":`.
    """
    return ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=end_with_parent)


def refuse_forks(executor: Executor | None, error: type[Exception] = ValueError) -> None:
    """Reject a process pool that forks: libvips waits forever there for threads that were not copied.

    Args:
        executor: What was passed.
        error: Class of the error.
    """
    context = getattr(executor, "_mp_context", None)  # ProcessPoolExecutor does not say it in public
    if isinstance(executor, ProcessPoolExecutor) and context is not None and context.get_start_method() == "fork":
        raise error(
            "this ProcessPoolExecutor forks, and libvips hangs in forked processes. Pass "
            "wsidata.stats.compute.process_pool(workers), or ProcessPoolExecutor(workers, "
            "mp_context=multiprocessing.get_context('forkserver'))."
        )


def worker_count(executor: Executor | None) -> int:
    """Number of workers; 1 without an executor, `WAITING` for one that does not say."""
    return 1 if executor is None else int(getattr(executor, "_max_workers", WAITING))


def outcomes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    executor: Executor | None,
    *,
    most: int | None = None,
    name: Callable[[Item], str] = str,
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """Each item with what the function returned or raised, in the order of completion.

    Close it (`contextlib.closing`) where an error may leave it early: what is not begun is then canceled.

    Args:
        function: For processes it must be one that pickle can send, with all that it holds.
        items: Taken one by one, as workers get free.
        executor: None: calls the function here, in order.
        most: Items submitted at a time. None: two for each worker.
        name: What an item is called in messages.

    Raises:
        PoolError: naming what it worked on, if the executor ended.
    """
    if executor is None:
        for item in items:
            yield item, _tried(function, item)
        return
    most = most or min(WAITING, 2 * worker_count(executor))
    waiting: dict[Future[Result | Exception], Item] = {}
    queue = iter(items)
    try:
        while True:
            for item in islice(queue, most - len(waiting)):
                waiting[executor.submit(_tried, function, item)] = item
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                failure = future.exception()
                if isinstance(failure, BrokenExecutor):
                    raise failure
                item = waiting.pop(future)
                if isinstance(failure, Exception):
                    yield item, failure
                else:
                    yield item, future.result()
    except (BrokenExecutor, CancelledError) as error:
        names = [name(one) for one in islice(waiting.values(), worker_count(executor))]
        raise PoolError(
            f"the executor's workers ended while they were at {name_some(names)} "
            f"({type(error).__name__}: {error}). Usually the system killed one for lack of memory: pass an executor "
            "with fewer workers, or ask for more memory. If it ends at the same files again, try these alone without "
            "an executor: one of them may be damaged in a way that crashes its decoder."
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def _tried(function: Callable[[Item], Result], item: Item) -> Result | Exception:
    """What a function returns, or raises: executors make a noise about exceptions, which are ours to report."""
    try:
        return function(item)
    except Exception as error:  # of any decoder; the caller names the file
        return error
