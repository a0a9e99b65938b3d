"""Memory that samples are decoded into, passed from worker to reader uncopied and used again.

A worker has a pool of shared buffers. A batch is written into one of them; what travels is the number of the buffer,
and the reader gets tensors that view it. The worker writes to a buffer again once the last view of it is gone: its own,
of which a weak reference tells, and the reader's, which then clears a flag in the buffer. So a batch that is kept, or a
slice of it, stays as it is.

Buffers are anonymous files (`memfd_create`), which the system takes back when the last process that mapped them ends,
and which do not count towards the size of /dev/shm. Where there are none (Windows, macOS), or all are in use because
batches are being kept, batches travel as tensors of other loaders do, through shared memory of their own.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.reduction import DupFd
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.utils.data import default_collate

MAX_BUFFERS = 12
"""Buffers of a worker. Two batches wait, one is being made, and two or three are in use at a time, with masks twice."""

OWN_BUFFERS = 3
OWN_BYTES = 2**20, 2**28
"""Least and most bytes of a buffer that is not shared. Less comes as fast from the heap; more is not kept in vain."""

BY_VALUE_BYTES = 16 * 1024
"""Tensors up to this size, such as labels, travel in the message itself."""

Memory = NDArray[np.uint8]
"""One-dimensional, and the base of all its views, so that its end is theirs."""

Kind = TypeVar("Kind", bound="Buffer")

_PAGE_BYTES = 4096
_FLAG_BYTES = 64
_FREE, _IN_USE, _ABANDONED = 0, 1, 2

_own: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()  # by address
_slots: ContextVar[Slots | None] = ContextVar("_slots", default=None)
_pool: Pool[SharedBuffer] | None = None  # of this process, if it is a worker
_lock = Lock()


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
    memory = None if _pool is None else _pool.memory(nbytes)
    memory = _own_memory(nbytes) if memory is None else memory
    _own[_address(memory)] = memory
    return memory


def _own_memory(nbytes: int) -> Memory:
    """Memory that is not shared, from this process's few buffers if it is of their size."""
    memory = None
    if OWN_BYTES[0] <= nbytes <= OWN_BYTES[1]:
        with _lock:
            memory = _own_pool.memory(nbytes)
    return np.empty(nbytes, np.uint8) if memory is None else memory


def _address(memory: Memory) -> int:
    return int(memory.__array_interface__["data"][0])


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
    memory = _own.get(first.data_ptr())
    if (
        memory is not None
        and len(tensors) * nbytes <= memory.nbytes
        and all(
            one.is_contiguous() and one.dtype == first.dtype and one.data_ptr() == first.data_ptr() + number * nbytes
            for number, one in enumerate(tensors)
        )
    ):
        return _view(memory, first.dtype, shape)
    if _pool is not None and len(tensors) * nbytes > BY_VALUE_BYTES and len({one.dtype for one in tensors}) == 1:
        memory = _pool.memory(len(tensors) * nbytes)
        if memory is not None:
            return torch.stack(list(tensors), out=_view(memory, first.dtype, shape))
    batch: Tensor = default_collate(list(tensors))
    return batch


def _view(
    memory: Memory, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int] | None = None, start: int = 0
) -> Tensor:
    """A tensor on memory: contiguous, or of a stride and start in elements."""
    flat = torch.from_numpy(memory).view(dtype)
    return flat[: math.prod(shape)].view(*shape) if stride is None else flat.as_strided(shape, stride, start)


# -- in the worker -----------------------------------------------------------------------------------------------------


def begin_pool(reader: int, worker: int) -> None:
    """Let this process, a worker of the loader of that number, write its samples to shared buffers."""
    global _pool
    _pool = Pool(SharedBuffer, MAX_BUFFERS, (reader, worker)) if hasattr(os, "memfd_create") else None


def _no_pool() -> None:
    global _pool, _lock
    _pool = None
    _lock = Lock()


def sent(value: Any) -> Any:
    """What a worker passes on in place of a tensor of a batch: pickled, it becomes that tensor in the reader."""
    if _pool is None or not isinstance(value, Tensor):
        return value
    buffer = next((buffer for buffer in _pool.buffers if buffer.holds(value)), None)
    if buffer is not None:
        return SentBuffer(_pool, buffer, value)
    return SentValue(value) if value.nbytes <= BY_VALUE_BYTES else value


class Buffer:
    """Memory of this process, which holds one sample or batch at a time.

    Attributes:
        serial: Its number, which no other buffer of its pool has.
        capacity: Bytes.
    """

    def __init__(self, serial: int, nbytes: int) -> None:
        self.serial = serial
        self.capacity = -(-nbytes // _PAGE_BYTES) * _PAGE_BYTES
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
        return _FREE if self._lent() is None else _IN_USE

    def close(self) -> None:
        """Give up what a reader never got."""


class SharedBuffer(Buffer):
    """Memory of a worker that a reader maps, too.

    Attributes:
        descriptor: File descriptor; None once the reader has been sent it.
    """

    def _map(self) -> None:
        self.descriptor: int | None = os.memfd_create("wsidata")
        try:
            os.ftruncate(self.descriptor, self.capacity + _FLAG_BYTES)
            self._mapped = Mapped(self.descriptor, self.capacity)
        except OSError:
            os.close(self.descriptor)
            raise
        self._is_sent = False

    def _memory(self) -> Memory:
        return self._mapped.memory()

    def lend(self) -> Memory:
        """Its memory; it counts as in use for as long as that or a view of it lives, here or in the reader."""
        self._is_sent = False
        return super().lend()

    def send(self) -> Any:
        """Leave it to the reader until that clears the flag; returns what passes the file on, if it is new there."""
        self._mapped.flag[0], self._is_sent = _IN_USE, True
        if self.descriptor is None:
            return None
        passed, descriptor, self.descriptor = DupFd(self.descriptor), self.descriptor, None
        os.close(descriptor)
        return passed

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in what is lent now."""
        memory = self._lent()
        return memory is not None and 0 <= self.offset(tensor) < self.capacity

    def offset(self, tensor: Tensor) -> int:
        """Bytes from the start of the buffer to a tensor."""
        return tensor.data_ptr() - self._mapped.address

    @property
    def state(self) -> int:
        """Whether it is free, in use here or there, or abandoned by a reader that cannot tell when it is done."""
        if self._lent() is not None:
            return _IN_USE
        return int(self._mapped.flag[0]) if self._is_sent else _FREE

    def close(self) -> None:
        """Close a file that never was sent."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Pool(Generic[Kind]):
    """The buffers of a process.

    Attributes:
        name: Number of the loader, and of the worker; of no meaning where buffers are not shared.
        buffers: At most as many as given; none is more than twice as large as it was needed last.
        retired: Numbers of buffers that are given up here, and not yet in the reader.
    """

    def __init__(self, kind: type[Kind], most: int, name: tuple[int, int] = (0, 0)) -> None:
        self.name = name
        self.buffers: list[Kind] = []
        self._kind, self._most = kind, most
        self.retired: deque[int] = deque()
        self._serials = count()

    def memory(self, nbytes: int) -> Memory | None:
        """Memory of a buffer that nobody uses; None if all are in use."""
        free = [buffer for buffer in self.buffers if buffer.state == _FREE]
        fitting = [buffer for buffer in free if nbytes <= buffer.capacity <= 2 * max(nbytes, _PAGE_BYTES)]
        if fitting:
            return min(fitting, key=lambda buffer: buffer.capacity).lend()
        for buffer in [*self.buffers]:
            if buffer in free or buffer.state == _ABANDONED:  # of another size
                self._retire(buffer)
        if len(self.buffers) >= self._most:
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


_own_pool = Pool(Buffer, OWN_BUFFERS)


@dataclass(frozen=True, eq=False)
class SentBuffer:
    """A tensor in a buffer; pickled, which a queue does in a thread of its own, it is the reader's."""

    pool: Pool[SharedBuffer]
    buffer: SharedBuffer
    tensor: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        retired = [self.pool.retired.popleft() for _ in range(len(self.pool.retired))]
        start = self.buffer.offset(self.tensor) // self.tensor.element_size()
        view = self.tensor.dtype, tuple(self.tensor.shape), self.tensor.stride(), start
        return received, (*self.pool.name, self.buffer.serial, self.buffer.capacity, self.buffer.send(), retired, *view)


@dataclass(frozen=True, eq=False)
class SentValue:
    """A small tensor, which is pickled with its values."""

    tensor: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.from_numpy, (self.tensor.contiguous().numpy(),)


# -- in the reader -----------------------------------------------------------------------------------------------------


class Mapped:
    """A buffer in the address space of this process."""

    def __init__(self, descriptor: int, capacity: int) -> None:
        self.capacity = capacity
        self.mapping = mmap.mmap(descriptor, capacity + _FLAG_BYTES)
        self.flag = np.frombuffer(self.mapping, np.uint8, 1, capacity)
        self.address = _address(self.memory())

    def memory(self) -> Memory:
        """The buffer, as an array of its own each time."""
        return np.frombuffer(self.mapping, np.uint8, self.capacity)


@dataclass
class _Reader:
    """What this process has mapped of its loaders' workers, and which batches of these are alive."""

    mapped: dict[int, dict[tuple[int, int], Mapped]] = field(default_factory=dict)
    alive: dict[int, tuple[weakref.finalize[Any, Any], Mapped]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)


_reader = _Reader()


def begin_reading() -> int:
    """A number for a loader whose workers are about to start."""
    number = next(_reader.numbers)
    _reader.mapped[number] = {}
    return number


def end_reading(number: int) -> None:
    """Give up the buffers of a loader whose workers have ended; batches that are alive keep theirs."""
    _reader.mapped.pop(number, None)


def trim(number: int) -> None:
    """Give the memory of unused buffers back to the system while all workers of a loader wait for the next epoch."""
    for mapped in _reader.mapped.get(number, {}).values():
        if mapped.flag[0] == _FREE and sys.platform == "linux":
            with suppress(OSError):
                mapped.mapping.madvise(mmap.MADV_REMOVE)


def received(
    number: int,
    worker: int,
    serial: int,
    capacity: int,
    passed: Any,
    retired: Sequence[int],
    dtype: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    start: int,
) -> Tensor:
    """The tensor that a worker sent as a `SentBuffer`; its buffer is free when the last view of it is gone."""
    kept = _reader.mapped.get(number, {})
    for one in retired:
        kept.pop((worker, one), None)
    if passed is not None:
        descriptor = passed.detach()
        try:
            kept[worker, serial] = Mapped(descriptor, capacity)
        finally:
            os.close(descriptor)
    mapped = kept[worker, serial]
    memory = mapped.memory()
    finalizer = weakref.finalize(memory, _release, mapped, id(memory))
    finalizer.atexit = False
    _reader.alive[id(memory)] = finalizer, mapped
    return _view(memory, dtype, shape, stride, start)


def _release(mapped: Mapped, key: int) -> None:
    _reader.alive.pop(key, None)
    mapped.flag[0] = _FREE


def _abandon_before_fork() -> None:
    """Leave batches to a process that is about to be forked: nobody can tell when both are done with them."""
    for finalizer, mapped in [*_reader.alive.values()]:
        if finalizer.detach():
            mapped.flag[0] = _ABANDONED
    _reader.alive.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_abandon_before_fork, after_in_child=_no_pool)
