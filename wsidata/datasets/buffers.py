"""Memory that samples are decoded into, of their batch where there is one, and used again.

New memory has to be cleared by the system, page by page, which takes a tenth of the time to decode a slide (a third, if
it is shared). So a few buffers are used in turn. Which are free follows from weak references to what was lent: a sample
that is kept, or a view of it, keeps its buffer. Workers lend memory that they share with their reader; see `sharing`.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.utils.data import default_collate

from wsidata.transforms.to_tensor import DType

Memory = NDArray[np.uint8]
"""One-dimensional, and the base of all its views, so that its end is theirs."""

Kind = TypeVar("Kind", bound="Buffer")

PAGE_BYTES = 4096
FREE, IN_USE, ABANDONED = 0, 1, 2
"""States of a buffer. An abandoned one is never free: nobody can tell when it is."""

_batches: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()  # by address
_slots: ContextVar[Slots | None] = ContextVar("_slots", default=None)
_shared_pool: Pool[Any] | None = None  # of a worker


# -- samples and batches -----------------------------------------------------------------------------------------------


def new_pixels(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Memory for the pixels of one sample, to be written whole.

    For a loader it is that of the batch, which is then neither collated nor copied on its way from a worker. It is used
    again when the last view of it is gone.

    Args:
        shape: (height, width, channels).
        dtype: Type of the pixels.

    Returns:
        An uninitialized array.
    """
    slots = _slots.get()
    place = None if slots is None else slots.take(tuple(shape), np.dtype(dtype))
    return _array(_own_memory, shape, np.dtype(dtype)) if place is None else place


def is_bytes(image: Any) -> bool:
    """Whether an image is an (H, W, C) array of uint8."""
    return isinstance(image, np.ndarray) and (image.ndim, image.dtype) == (3, np.uint8)


def placed(pixels: NDArray[np.uint8], dtype: DType) -> Tensor:
    """(H, W, C) pixels as a (C, H, W) tensor in memory of `new_pixels`; see `to_tensor`."""
    place = new_pixels(pixels.shape, np.uint8 if dtype == "uint8" else np.float32)
    np.copyto(place, pixels)
    image = torch.from_numpy(place).permute(2, 0, 1)
    return image if dtype == "uint8" else image.div_(255)


class Slots:
    """Places of the samples of one batch, in one piece of memory.

    Attributes:
        number: The sample that is being made.
    """

    def __init__(self, samples: int) -> None:
        self.number = 0
        self._samples = samples
        self._pixels: NDArray[Any] | None = None
        self._taken: set[int] = set()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """The place of the current sample; None if it has had it, or the sample is of another size or type."""
        if self._pixels is None:
            self._pixels = _array(_batch_memory, (self._samples, *shape), dtype)
        if self.number in self._taken or (self._pixels.shape[1:], self._pixels.dtype) != (shape, dtype):
            return None
        self._taken.add(self.number)
        place: NDArray[Any] = self._pixels[self.number]
        return place


def _array(allocate: Callable[[int], Memory], shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    nbytes = math.prod(shape) * dtype.itemsize
    return allocate(nbytes)[:nbytes].view(dtype).reshape(shape)


def _batch_memory(nbytes: int) -> Memory:
    memory = None if _shared_pool is None else _shared_pool.memory(nbytes)
    memory = _own_memory(nbytes) if memory is None else memory
    _batches[address(memory)] = memory
    return memory


def _own_memory(nbytes: int) -> Memory:
    """Memory that is not shared, from this process's few buffers if it is of their size."""
    memory = _own_pool.memory(nbytes)
    return np.empty(nbytes, np.uint8) if memory is None else memory


def address(memory: Memory) -> int:
    """Where memory begins."""
    return int(memory.__array_interface__["data"][0])


def use_pool(pool: Pool[Any] | None) -> None:
    """Take the memory of batches from a pool of shared buffers."""
    global _shared_pool
    _shared_pool = pool


@contextmanager
def batch_slots(samples: int) -> Iterator[Slots]:
    """Let `new_pixels` place samples one behind the other; set `number` before each is made."""
    slots = Slots(samples)
    token = _slots.set(slots)
    try:
        yield slots
    finally:
        _slots.reset(token)


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as a batch: a view where they lie one behind the other in memory of `new_pixels`."""
    first = tensors[0]
    shape, nbytes = (len(tensors), *first.shape), first.nbytes
    memory = _batches.get(first.data_ptr())
    if (
        memory is not None
        and len(tensors) * nbytes <= memory.nbytes
        and all(
            one.is_contiguous() and one.dtype == first.dtype and one.data_ptr() == first.data_ptr() + number * nbytes
            for number, one in enumerate(tensors)
        )
    ):
        return view(memory, first.dtype, shape)
    if _shared_pool is not None and len({one.dtype for one in tensors}) == 1:
        memory = _shared_pool.memory(len(tensors) * nbytes)
        if memory is not None:
            return torch.stack(list(tensors), out=view(memory, first.dtype, shape))
    batch: Tensor = default_collate(list(tensors))
    return batch


def view(
    memory: Memory, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int] | None = None, start: int = 0
) -> Tensor:
    """A tensor on memory: contiguous, or of a stride and start in elements."""
    flat = torch.from_numpy(memory).view(dtype)
    return flat[: math.prod(shape)].view(*shape) if stride is None else flat.as_strided(shape, stride, start)


# -- buffers -----------------------------------------------------------------------------------------------------------


class Buffer:
    """Memory of this process, which holds one sample or batch at a time.

    Attributes:
        most: Buffers of this kind in a pool.
        bytes_each: Least and most bytes of one. Less comes as fast from the heap; more is not kept in vain.
        serial: Its number, which no other buffer of its pool has.
        capacity: Bytes.
    """

    most: ClassVar[int] = 3
    bytes_each: ClassVar[tuple[float, float]] = 2**20, 2**28

    def __init__(self, serial: int, nbytes: int) -> None:
        self.serial = serial
        self.capacity = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        self._lent: Any = lambda: None
        self._map()

    def _map(self) -> None:
        # As NumPy's, which the system has to clear for every sample anew.
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        self._mapping = mmap.mmap(-1, self.capacity, **private)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):
                self._mapping.madvise(mmap.MADV_HUGEPAGE)

    def _memory(self) -> Memory:
        """All of it, as an array of its own each time."""
        return np.frombuffer(self._mapping, np.uint8, self.capacity)

    def lend(self) -> Memory:
        """Its memory; it counts as in use for as long as that or a view of it lives."""
        memory = self._memory()
        self._lent = weakref.ref(memory)
        return memory

    @property
    def state(self) -> int:
        """Whether it is free or in use."""
        return FREE if self._lent() is None else IN_USE

    def close(self) -> None:
        """Give up what a reader never got."""


class Pool(Generic[Kind]):
    """The buffers of a process, for samples of much the same size. Safe to use from several threads.

    Args:
        kind: Class of the buffers.

    Attributes:
        buffers: None was more than twice as large as needed when it was lent last.
        retired: Numbers of buffers that were given up.
    """

    def __init__(self, kind: type[Kind]) -> None:
        self.buffers: list[Kind] = []
        self.retired: deque[int] = deque()
        self._kind, self._serials, self._lock = kind, count(), Lock()

    def memory(self, nbytes: int) -> Memory | None:
        """Memory of a buffer that nobody uses; None if all are in use, or none should be of this size."""
        if not self._kind.bytes_each[0] <= nbytes <= self._kind.bytes_each[1]:
            return None
        with self._lock:
            free = [buffer for buffer in self.buffers if buffer.state == FREE]
            fitting = [buffer for buffer in free if nbytes <= buffer.capacity <= 2 * max(nbytes, PAGE_BYTES)]
            if fitting:
                return min(fitting, key=lambda buffer: buffer.capacity).lend()
            for buffer in [*self.buffers]:
                if buffer in free or buffer.state == ABANDONED:  # of another size
                    self._retire(buffer)
            if len(self.buffers) >= self._kind.most:
                return None
            try:
                self.buffers.append(self._kind(next(self._serials), nbytes))
            except OSError:  # too many open files: what follows says so, if it needs another one
                return None
            return self.buffers[-1].lend()

    def _retire(self, buffer: Kind) -> None:
        buffer.close()
        self.buffers.remove(buffer)
        self.retired.append(buffer.serial)


_own_pool = Pool(Buffer)


def _begin_anew() -> None:
    """In a process that was just forked: it shares no buffers, and the lock may be held by a thread it lacks."""
    global _own_pool
    use_pool(None)
    _own_pool = Pool(Buffer)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
