"""Copies beside the computation are waited for, in the right order, by those that read or write again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streammodels import Keeping, stream
from streammodels.backprop import autograd, bptt
from streammodels.backprop.returning import ReturningCarries
from streammodels.core import strip_reader
from streammodels.core.tensors import copies
from streammodels.core.tensors.copies import Arrival, CopyStream, Downloads, Uploads


class LateCopies(CopyStream):
    """A stream whose copies are made as late as waits allow, so that one that is not waited for gives garbage."""

    made = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.queue: deque[tuple[object, Callable[[], object]]] = deque()
        self.lock = threading.RLock()

    def pinned(self, size: int) -> Tensor:
        return torch.full((size,), 251, dtype=torch.uint8)

    def to_device(self, *pinned: Tensor) -> Arrival:
        tensors = [torch.empty_like(one).fill_(99) for one in pinned]
        copies = [lambda to=to, one=one: to.copy_(one) for to, one in zip(tensors, pinned, strict=True)]
        return Arrival(tensors, self._begin(*copies))  # type: ignore[arg-type]  # stands for an event

    def take(self, arrival: Arrival) -> list[Tensor]:
        arrival.done.synchronize()
        return arrival.tensors

    def to_host(self, tensor: Tensor, pinned: Tensor) -> Any:
        return self._begin(lambda: pinned.copy_(tensor))

    def wait(self) -> None:
        self._begin().synchronize()

    def _begin(self, *copies: Callable[[], object]) -> LateEvent:
        event = LateEvent(self)
        with self.lock:
            self.queue.extend([(None, one) for one in copies] + [(event, lambda: None)])
            LateCopies.made += len(copies)
        return event


class LateEvent:
    """An event of such a stream."""

    def __init__(self, stream: LateCopies) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        with self.stream.lock, torch.no_grad():
            while any(event is self for event, _ in self.stream.queue):
                self.stream.queue.popleft()[1]()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[LateCopies]]:
    """The processor copies as a GPU does, but late."""
    for module in (strip_reader, bptt, autograd):
        monkeypatch.setattr(module, "copy_stream", LateCopies)
    LateCopies.made = 0
    yield LateCopies
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("downloads")]


class Lazy:
    """An image that decodes into the same memory every time."""

    dtype, memory = torch.float64, torch.empty(0)

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.shape = pixels, pixels.shape

    def rows(self, start: int, stop: int) -> Tensor:
        if len(self.memory) == 0:
            self.memory = torch.empty_like(self.pixels)
        self.memory[:, : stop - start] = self.pixels[:, start:stop]
        return self.memory[:, : stop - start]


class Excited(nn.Module):
    """A block with squeeze-and-excitation, in front of which a map waits in host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        rows = self.conv(image).relu_()
        return rows * torch.sigmoid(self.squeeze(rows.mean((2, 3), keepdim=True)))


def network() -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 3, 3)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("keeping", [Keeping(), Keeping(on_host=True), Keeping(every=3, graphs=2, on_host=True)])
def test_late_copies_change_nothing(keeping: Keeping, late: type[LateCopies]) -> None:
    module, pixels = network(), torch.randn(3, 41, 20, dtype=torch.float64)
    expected = torch.autograd.grad(module(pixels[None]).square().sum(), list(module.parameters()))
    trunk = stream(module, strip_rows=6, keeping=keeping)
    with torch.autograd.graph.saved_tensors_hooks(Tensor.clone, lambda tensor: tensor):  # which read what is kept
        result = trunk(Lazy(pixels))
    found = torch.autograd.grad(result.square().sum(), list(module.parameters()), retain_graph=True)
    again = torch.autograd.grad(result.square().sum(), list(module.parameters()))
    assert late.made >= 21  # strips read in three passes
    for one, twice, right in zip(found, again, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(twice, right, rtol=1e-11, atol=1e-13)


def test_late_copies_of_gradients_and_of_maps_that_wait(late: type[LateCopies]) -> None:
    module = nn.Sequential(Excited(), nn.Conv2d(4, 2, 3)).double()
    image = torch.randn(1, 3, 30, 17, dtype=torch.float64, requires_grad=True)
    inputs = [image, *module.parameters()]
    expected = torch.autograd.grad(module(image).square().sum(), inputs)
    trunk = stream(module, strip_rows=7, global_statistics="host")
    found = torch.autograd.grad(trunk(image).square().sum(), inputs)
    assert late.made >= 15  # of maps, of their gradients, and of that of the image
    for one, right in zip(found, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-11, atol=1e-13)


class EarlyCopies(LateCopies):
    """A stream whose copies are made at once."""

    def to_host(self, tensor: Tensor, pinned: Tensor) -> Any:
        event = super().to_host(tensor, pinned)
        event.synchronize()
        return event


@pytest.mark.parametrize("kind", [LateCopies, EarlyCopies])
def test_two_buffers_carry_any_number_of_tensors(kind: type[LateCopies], monkeypatch: pytest.MonkeyPatch) -> None:
    stream, wrote = kind(torch.device("cpu")), Downloads._write

    def write_slowly(*arguments: Any) -> None:
        time.sleep(0.005)
        wrote(*arguments)

    monkeypatch.setattr(Downloads, "_write", staticmethod(write_slowly))
    sent, uploads = [], Uploads(stream)
    tensors = [torch.randn(1, 2, rows, 3).to(memory_format=torch.channels_last) for rows in (2, 5, 1, 5, 4)]
    for tensor in tensors:
        memory = tensor.clone()
        sent.append(uploads.send(memory))
        memory.fill_(7)  # which may be written again
    assert all(torch.equal(stream.take(one)[0], tensor) for one, tensor in zip(sent, tensors, strict=True))
    places = [torch.empty(1, 2, rows, 3) for rows in (2, 5, 1, 5, 4)]
    with Downloads(stream) as downloads:
        for tensor, place in zip(tensors, places, strict=True):
            downloads.send(tensor, place)
    assert all(torch.equal(place, tensor) for place, tensor in zip(places, tensors, strict=True))
    with (
        pytest.raises(RuntimeError, match="must match the size"),
        Downloads(stream) as downloads,
    ):  # errors of the thread
        downloads.send(tensors[0], torch.empty(1, 2, 9, 9))


def test_carries_are_sent_one_visit_ahead() -> None:
    stream = LateCopies(torch.device("cpu"))
    kept = {strip: {1: torch.full((1, 1, 1, 2), strip), 4: torch.full((1, 1, 2, 2), -strip)} for strip in range(3)}
    before = LateCopies.made
    returning = ReturningCarries(kept, [2, 1, 0], stream.device, stream)
    for taken, strip in enumerate((2, 1, 0)):
        carries = returning.take()
        assert LateCopies.made - before == 2 * min(3, taken + 2)
        assert all(torch.equal(carries[node], kept[strip][node]) for node in (1, 4))


def test_streams_of_cuda_wait_for_each_other_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, of: str) -> None:
            self.of = of

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = name if isinstance(name, str) else "copies"

        def record_event(self) -> Event:
            log.append(f"event on {self.name}")
            return Event(self.name)

        def wait_event(self, event: Event) -> None:
            log.append(f"{self.name} waits for event on {event.of}")

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} waits for {other.name}")

        def synchronize(self) -> None:
            log.append(f"host waits for {self.name}")

    @contextmanager
    def entered(one: Stream) -> Iterator[None]:
        log.append(f"enter {one.name}")
        yield
        log.append("leave")

    class Logged(Tensor):
        def record_stream(self, stream: Any) -> None:
            log.append(f"memory used on {stream.name}")

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.__name__ in ("empty_like", "copy_"):
                log.append(function.__name__)
            return super().__torch_function__(function, types, args, kwargs or {})

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computing"))
    one = CopyStream(torch.device("cpu"))
    arrival = one.to_device(torch.ones(2).as_subclass(Logged))
    assert log == ["enter copies", "empty_like", "copy_", "event on copies", "leave"]
    log.clear()
    assert one.take(arrival) == arrival.tensors
    assert log == ["computing waits for event on copies", "memory used on computing"]
    log.clear()
    one.to_host(torch.ones(2).as_subclass(Logged), torch.zeros(2))
    in_stream = ["enter copies", "copy_", "event on copies", "leave"]
    assert log == ["copies waits for computing", *in_stream, "memory used on copies"]
    assert copies.copy_stream(torch.device("cpu")) is None
