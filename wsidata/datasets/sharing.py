"""Batches in memory that a worker shares with its reader, passed on uncopied.

A worker writes a batch into one of its shared buffers. What travels is the number of the buffer, and the reader gets
tensors that view it. The worker writes to a buffer again once the last view of it is gone: its own, of which a weak
reference tells, and the reader's, which then clears a flag in the buffer. So a batch that is kept, or a slice of it,
stays as it is.

Buffers are anonymous files (`memfd_create`), which the system takes back when the last process that mapped them ends,
and which do not count towards the size of /dev/shm. Where there are none (Windows, macOS), or all are in use because
batches are being kept, batches travel as tensors of other loaders do, through shared memory of their own.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.reduction import DupFd
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from wsidata.datasets.buffers import ABANDONED, FREE, IN_USE, Buffer, Memory, Pool, address, use_pool, view

BY_VALUE_BYTES = 16 * 1024
"""Tensors up to this size, such as labels, travel in the message itself."""

_FLAG_BYTES = 64

_sender: Sender | None = None  # of this process, if it is a worker


# -- in the worker -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sender:
    """A worker, by the numbers of its loader and of itself, and its buffers."""

    reader: int
    worker: int
    pool: Pool[SharedBuffer]


def begin_sending(reader: int, worker: int) -> None:
    """Let this process, a worker of the loader of that number, write its batches to shared buffers."""
    global _sender
    _sender = Sender(reader, worker, Pool(SharedBuffer)) if hasattr(os, "memfd_create") else None
    use_pool(None if _sender is None else _sender.pool)


def sent(value: Any) -> Any:
    """What a worker passes on in place of a tensor of a batch: pickled, it becomes that tensor in the reader."""
    if _sender is None or not isinstance(value, Tensor):
        return value
    buffer = next((buffer for buffer in _sender.pool.buffers if buffer.holds(value)), None)
    if buffer is not None:
        return SentBuffer(_sender, buffer, value)
    return SentValue(value) if value.nbytes <= BY_VALUE_BYTES else value


class SharedBuffer(Buffer):
    """Memory of a worker that a reader maps, too.

    Two batches wait, one is being made, and two or three are in use at a time, with masks twice as many.

    Attributes:
        descriptor: File descriptor; None once the reader has been sent it.
    """

    most: ClassVar[int] = 12
    bytes_each: ClassVar[tuple[float, float]] = BY_VALUE_BYTES + 1, math.inf

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
        self._mapped.flag[0], self._is_sent = IN_USE, True
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
            return IN_USE
        return int(self._mapped.flag[0]) if self._is_sent else FREE

    def close(self) -> None:
        """Close a file that never was sent."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


@dataclass(frozen=True, eq=False)
class SentBuffer:
    """A tensor in a buffer; pickled, which a queue does in a thread of its own, it is the reader's."""

    sender: Sender
    buffer: SharedBuffer
    tensor: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        retired = self.sender.pool.retired
        gone = [retired.popleft() for _ in range(len(retired))]
        start = self.buffer.offset(self.tensor) // self.tensor.element_size()
        place = self.tensor.dtype, tuple(self.tensor.shape), self.tensor.stride(), start
        names = self.sender.reader, self.sender.worker, self.buffer.serial
        return received, (*names, self.buffer.capacity, self.buffer.send(), gone, *place)


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
        self.address = address(self.memory())

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
        if mapped.flag[0] == FREE:
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
    return view(memory, dtype, shape, stride, start)


def _release(mapped: Mapped, key: int) -> None:
    _reader.alive.pop(key, None)
    mapped.flag[0] = FREE


def _abandon_before_fork() -> None:
    """Leave batches to a process that is about to be forked: nobody can tell when both are done with them."""
    for finalizer, mapped in [*_reader.alive.values()]:
        if finalizer.detach():
            mapped.flag[0] = ABANDONED
    _reader.alive.clear()


def _send_nothing() -> None:
    global _sender
    _sender = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_abandon_before_fork, after_in_child=_send_nothing)
