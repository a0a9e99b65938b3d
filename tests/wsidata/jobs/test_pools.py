import os
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing

import pytest

from wsidata.jobs.pools import WAITING, PoolError, outcomes, process_pool, worker_count


def half(number):
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


def end_process(number):
    os._exit(3)


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_each_item_comes_with_its_result_or_error(workers):
    executor = None if workers is None else ThreadPoolExecutor(workers)
    found = dict(outcomes(half, iter(range(30)), executor))
    assert {number: one for number, one in found.items() if not isinstance(one, Exception)} == {
        number: number // 2 for number in range(0, 30, 2)
    }
    assert str(found[7]) == "7 is odd"


def test_items_are_taken_only_as_workers_get_free():
    taken, go = [], threading.Semaphore(0)

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool, closing(outcomes(lambda _: go.acquire(), items(), pool, most=3)) as found:
        go.release()
        next(found)
        assert len(taken) == 3
        go.release(20)
        assert len([*found]) == 19


def test_what_is_not_begun_is_canceled_when_the_caller_leaves():
    begun, stop = [], threading.Event()

    def work(number):
        begun.append(number)
        if number:
            stop.wait(10)

    with ThreadPoolExecutor(1) as pool:
        with closing(outcomes(work, range(50), pool, most=50)) as found:
            next(found)
        stop.set()
    assert len(begun) <= 2


class Silent(Executor):
    """An executor of others, which counts what waits and says nothing of its workers."""

    def __init__(self):
        self.futures = []

    def submit(self, function, /, *arguments, **options):
        self.futures.append(Future())
        if len(self.futures) == WAITING:  # all come in reverse
            for number, future in reversed([*enumerate(self.futures)]):
                future.set_result(number)
        return self.futures[-1]


def test_an_executor_that_does_not_tell_its_size_is_given_a_bounded_number():
    executor = Silent()
    assert worker_count(executor) == WAITING
    with closing(outcomes(str, range(10**9), executor)) as found:
        assert sorted(next(found) for _ in range(WAITING)) == [(number, number) for number in range(WAITING)]
    assert len(executor.futures) == WAITING


@pytest.mark.slow
def test_a_pool_whose_process_was_killed_says_what_to_do():
    with process_pool(1) as pool, pytest.raises(PoolError, match=r"at '5' \(BrokenProcessPool.*lack of memory: pass"):
        [*outcomes(end_process, [5, 6, 7], pool)]


def test_a_canceled_task_is_no_result():
    class Closed(Executor):
        def submit(self, function, /, *arguments, **options):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(PoolError, match=r"while they were at 'slide.svs' \(CancelledError"):
        [*outcomes(len, ["slide.svs"], Closed())]
