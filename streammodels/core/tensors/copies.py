"""Copies between host memory and a GPU that run beside the computation, in a stream of their own.

A copy runs beside kernels if it is in another stream than they are, and its host memory is pinned. Streams are not
ordered among each other, so that four things are said of every copy:

* the stream that computes waits for the event behind a copy before it reads what arrived;
* a copy from the GPU waits for what the stream that computes was given before it;
* memory of the GPU that one stream allocated and another one reads is recorded for that one, so that it is not
  allocated again before the other has read it (`Tensor.record_stream`);
* the host waits for the event behind a copy before it writes or reads the pinned memory.

`CopyStream` says the first three, `Uploads` and `Downloads` the last.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import torch
from torch import Tensor

from streammodels.core.tensors.memory_format import in_memory


class Arrival(NamedTuple):
    """Tensors on the GPU that copies are writing, and the event behind these."""

    tensors: list[Tensor]
    done: torch.cuda.Event


class CopyStream:
    """A stream of copies. All that is specific to CUDA is here.

    Args:
        device: The GPU that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def pinned(self, size: int) -> Tensor:
        """Pinned bytes. Torch gives them to nobody else before the copies from and to them have ended."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def to_device(self, *pinned: Tensor) -> Arrival:
        """Begin to copy pinned memory, which is not to be written before the event; may be called in any thread."""
        with torch.cuda.stream(self._stream):
            tensors = [torch.empty_like(one, device=self.device).copy_(one, non_blocking=True) for one in pinned]
            return Arrival(tensors, self._stream.record_event())

    def take(self, arrival: Arrival) -> list[Tensor]:
        """What arrives, for the stream that computes in this thread, which waits for it; the host does not."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(arrival.done)
        for tensor in arrival.tensors:
            tensor.record_stream(computing)
        return arrival.tensors

    def to_host(self, tensor: Tensor, pinned: Tensor) -> torch.cuda.Event:
        """Begin to copy what the stream that computes in this thread makes.

        The tensor is not to be written afterwards. The pinned memory is not to be read by the host before the event;
        later copies of this stream may.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            pinned.copy_(tensor, non_blocking=True)
            done: torch.cuda.Event = self._stream.record_event()
        tensor.record_stream(self._stream)
        return done

    def wait(self) -> None:
        """Let the host wait for all copies that began, so that anybody may read what they wrote."""
        self._stream.record_event().synchronize()


def copy_stream(device: torch.device) -> CopyStream | None:
    """A stream for copies to and from a device; None if it has none, or is the host."""
    return CopyStream(device) if device.type == "cuda" else None


class _PinnedBuffers:
    """Two buffers that are used in turn, and grow."""

    def __init__(self, copies: CopyStream) -> None:
        self._copies = copies
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]

    def place(self, turn: int, like: Tensor) -> Tensor:
        """Memory for a tensor, in the buffer of a turn, which is not in use any more."""
        size = like.numel() * like.element_size()
        if len(self._buffers[turn]) < size:
            self._buffers[turn] = self._copies.pinned(size)
        return in_memory(self._buffers[turn][:size], like)


class Uploads:
    """Tensors on their way from any host memory to the GPU, through two pinned buffers. For one thread that sends."""

    def __init__(self, copies: CopyStream) -> None:
        self._copies = copies
        self._buffers = _PinnedBuffers(copies)
        self._done: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def send(self, tensor: Tensor) -> Arrival:
        """Copy a tensor, whose memory may be written again when this returns. Waits for the copy before the last."""
        turn, self._turn = self._turn, 1 - self._turn
        if (before := self._done[turn]) is not None:
            before.synchronize()
        arrival = self._copies.to_device(self._buffers.place(turn, tensor).copy_(tensor))
        self._done[turn] = arrival.done
        return arrival

    def bring(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor for the stream that computes in this thread, which waits for it; the host does not."""
        return self._copies.take(self.send(tensor))[0]


class Downloads:
    """Tensors on their way from the GPU to any host memory, through two pinned buffers, which a thread empties."""

    def __init__(self, copies: CopyStream) -> None:
        self._copies = copies
        self._buffers = _PinnedBuffers(copies)
        self._written: list[Future[None] | None] = [None, None]
        self._turn = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="downloads")

    def send(self, tensor: Tensor, place: Tensor) -> None:
        """Copy a tensor, which is not to be written again, to `place`, which is not to be read before the end."""
        turn, self._turn = self._turn, 1 - self._turn
        if (before := self._written[turn]) is not None:
            before.result()
        pinned = self._buffers.place(turn, tensor)
        done = self._copies.to_host(tensor, pinned)
        self._written[turn] = self._thread.submit(self._write, done, pinned, place)

    @staticmethod
    @torch.no_grad()
    def _write(done: torch.cuda.Event, pinned: Tensor, place: Tensor) -> None:
        done.synchronize()
        place.copy_(pinned)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Wait until all is written."""
        self._thread.shutdown()
        for written in self._written:
            if written is not None and error is None:
                written.result()


def bring(tensor: Tensor, device: torch.device, uploads: Uploads | None) -> Tensor:
    """A tensor on the device that computes, by `uploads` if it is in host memory."""
    return tensor.to(device) if uploads is None or tensor.device.type != "cpu" else uploads.bring(tensor)


def write(tensor: Tensor, place: Tensor, downloads: Downloads | None) -> None:
    """Copy a tensor, which is not to be written again, to a place on its device, or by `downloads` in host memory."""
    if downloads is None or place.device.type != "cpu":
        place.copy_(tensor)
    else:
        downloads.send(tensor, place)
