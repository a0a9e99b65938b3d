from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import numpy as np
import pytest

from wsidata.utils.cache import BlockCache


def kilobyte(value):
    return np.full(1000, value, np.uint8)


def test_block_is_made_once_and_the_oldest_is_forgotten():
    cache, made = BlockCache(max_bytes=3000), []

    def get(key):
        def make():
            made.append(key)
            return kilobyte(key)

        assert (cache.get(key, make) == key).all()

    for key in (1, 2, 3, 1, 4, 1, 3, 2):
        get(key)
        assert cache.nbytes <= 3000
    assert made == [1, 2, 3, 4, 2]


def test_two_blocks_are_kept_even_if_they_are_too_large():
    cache = BlockCache(max_bytes=10)
    for key in (1, 2, 3):
        cache.get(key, lambda key=key: kilobyte(key))
    assert cache.nbytes == 2000
    cache.clear()
    assert cache.nbytes == 0


def test_threads_that_ask_for_the_same_block_wait_for_one_of_them():
    cache, barrier, made = BlockCache(10**6), Barrier(4), []

    def make():
        made.append(1)
        return kilobyte(7)

    def ask(_):
        barrier.wait(10)
        return cache.get("a", make)

    with ThreadPoolExecutor(4) as threads:
        blocks = list(threads.map(ask, range(4)))
    assert len(made) == 1
    assert all(block is blocks[0] for block in blocks)


def test_different_blocks_are_made_side_by_side():
    cache, first_began, second_done = BlockCache(10**6), Event(), Event()

    def slow():
        first_began.set()
        assert second_done.wait(10)
        return kilobyte(1)

    with ThreadPoolExecutor(1) as threads:
        pending = threads.submit(cache.get, 1, slow)
        assert first_began.wait(10)
        cache.get(2, lambda: kilobyte(2))
        second_done.set()
        assert (pending.result(10) == 1).all()


def test_failure_goes_to_the_one_who_asks_and_is_not_remembered():
    cache = BlockCache(10**6)

    def fail():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get(1, fail)
    assert (cache.get(1, lambda: kilobyte(5)) == 5).all()
