"""Choice of strip height and checkpointing for a memory budget."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log2

import torch

from streammodels.backprop.checkpointing import Keeping, Schedule
from streammodels.memory.estimate import StepMemory
from streammodels.memory.speed import ON_CPU, Speed

DEFAULT_TILE_SIZE = 2880
_FREE_PART = 0.75  # the rest is for the optimizer, the kernels' own memory, and gaps between blocks
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_STRIP_OVERHEAD_ROWS = 1  # time of a strip besides its rows (joining carries, reading weights again), in rows
_UNEVEN = 1.02  # factor of time for strips in which layers get rows of many different numbers, a guess
_SHORT = 16  # strips of fewer rows are slower than any others: they are tried if none of those fit
_MOST_STRIPS = 4096


def parse_bytes(memory: str | int) -> int:
    """The number of bytes in ``"8GB"``, ``"500 MiB"`` or a number of bytes.

    Raises:
        ValueError: If it cannot be parsed, or is not positive.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", str(memory).upper())
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise ValueError(f"memory={memory!r} is not understood. Give bytes, or text such as '8GB' or '500MiB'.")
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True)
class Sizes:
    """The sizes passed to `stream`, one of the first three or none, which stands for what a device has: see `on`.

    Attributes:
        tile_size: Strips have at most ``tile_size**2`` pixels of each image, and a step no more memory than with such.
        strip_rows: Height of the strips.
        memory: Budget of a training step, as text or bytes.
        keeping: What is kept; None to choose it.
    """

    tile_size: int | None = None
    strip_rows: int | None = None
    memory: str | int | None = None
    keeping: Keeping | None = None

    def __post_init__(self) -> None:
        if len(self._given) > 1:
            raise ValueError(f"give one of tile_size=, strip_rows= and memory=; got {', '.join(self._given)}")
        for name, value in (("tile_size", self.tile_size), ("strip_rows", self.strip_rows)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} has to be a whole number of at least 1, got {value!r}")
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.keeping is not None and not isinstance(self.keeping, Keeping):
            raise ValueError(f"keeping has to be a streammodels.Keeping, or None, got {self.keeping!r}")

    @property
    def _given(self) -> dict[str, str | int]:
        sizes = {"tile_size": self.tile_size, "strip_rows": self.strip_rows, "memory": self.memory}
        return {name: value for name, value in sizes.items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._given.items()) or "memory that is free"

    def on(self, device: torch.device) -> Sizes:
        """These sizes or, if none was passed, a part of what is free on a CUDA device, and a default on others."""
        if self._given:
            return self
        if device.type == "cuda":
            return replace(self, memory=_part_of_free(device))
        return replace(self, tile_size=DEFAULT_TILE_SIZE)

    def rows(self, width: int) -> int:
        """Height of the strips of images of a width, at most; not for a budget in bytes."""
        return self.strip_rows or max(1, round((self.tile_size or 1) ** 2 / width))

    def largest(self, memory: StepMemory) -> Schedule:
        """The schedule with the highest strips; not for a budget in bytes."""
        rows = min(self.rows(memory.width), memory.height)
        return Schedule(rows, self.keeping or default_keeping(memory, rows))

    def schedule(self, memory: StepMemory, speed: Speed) -> Schedule:
        """The schedule for images of one size.

        Args:
            memory: Estimates for the network and the images.
            speed: Relative time of strips, by their pixels.
        """
        if self.strip_rows is not None:
            return self.largest(memory)
        most_rows = None if self.memory is not None else self.largest(memory).strip_rows
        return fastest_within(memory, self.budget(memory), self.keeping, speed, most_rows)

    def budget(self, memory: StepMemory) -> int:
        """Bytes that a step may take."""
        return memory.total(self.largest(memory)) if self.memory is None else parse_bytes(self.memory)


def _part_of_free(device: torch.device) -> int:
    """Bytes of a CUDA device that a step may take, in coarse steps, so that runs alike choose alike."""
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    step = max(1, total // 32)
    return max(1, int(_FREE_PART * free) // step) * step


def default_keeping(memory: StepMemory, strip_rows: int) -> Keeping:
    """What is kept if only the height of the strips is given.

    All carries, the last strip's graph, which costs nothing, and the rows of the frozen prefix if they take no more
    memory than one strip, so that memory at most doubles.
    """
    frozen = memory.prefix is None or memory.prefix_bytes <= memory.in_strip(strip_rows)
    return Keeping(graphs=1, frozen=frozen)


def fastest_within(
    memory: StepMemory,
    budget_bytes: int,
    keeping: Keeping | None = None,
    speed: Speed = ON_CPU,
    most_rows: int | None = None,
) -> Schedule:
    """The fastest schedule that fits a budget, as estimated.

    Args:
        memory: Estimates for the network and the images.
        budget_bytes: The budget.
        keeping: What is kept; None to choose it.
        speed: Relative time of strips, by their pixels.
        most_rows: Height of the highest strips; None for the image.

    Raises:
        ValueError: If no schedule fits; the message says how much memory is needed.
    """
    best: tuple[float, Schedule] | None = None
    least: tuple[float, Schedule] | None = None
    most = min(most_rows or memory.height, memory.height)
    for heights in (candidate_heights(memory, most), equal_heights(memory.height, most)):
        for strip_rows in heights:
            if strip_rows < _SHORT and best is not None:
                break
            carried = memory.carried(strip_rows)
            for schedule in _schedules(memory, strip_rows, carried, budget_bytes, keeping):
                needed, time = memory.total(schedule, carried), _time(memory, schedule, speed)
                if least is None or needed < least[0]:
                    least = (needed, schedule)
                if needed <= budget_bytes and (best is None or time < best[0]):
                    best = (time, schedule)
        if best is not None:
            break
    if best is not None:
        return best[1]
    assert least is not None
    images, size = memory.batch * memory.images, f"{memory.height} x {memory.width}"
    raise ValueError(
        f"memory of {budget_bytes / 1e6:.4g} MB is too small for {images} image(s) of {size} pixels: strips of "
        f"{least[1].strip_rows} rows need least, about {least[0] / 1e6:.4g} MB. Raise memory=, or use smaller images."
    )


def candidate_heights(memory: StepMemory, most: int) -> list[int]:
    """Candidate strip heights of at most `most` rows, from the highest.

    They are powers of two times the stride of the deepest map, or one and a half times that, whatever the height of the
    image; so images of all heights have strips of the same shapes, but for the last of each.
    """
    stride, least = memory.stride, -(-memory.height // _MOST_STRIPS)
    heights = {stride * base * 2**power // 2 for base in (2, 3) for power in range(32)}
    heights |= {stride // 2**power for power in range(1, 32)} - {0}
    return sorted({most, *(rows for rows in heights if least <= rows <= most)}, reverse=True)


def equal_heights(height: int, most: int) -> list[int]:
    """Strip heights between those, for the image in 1, 2, 3, 4, 6, 8, 12 ... equal strips, where no other fits."""
    counts = {round(base * 2**power) for base in (1, 1.5) for power in range(13)}
    equal = {-(-height // count) for count in counts if count <= min(height, _MOST_STRIPS)}
    return sorted((rows for rows in equal if rows <= most), reverse=True)


def _schedules(
    memory: StepMemory, strip_rows: int, carried: float, budget: int, keeping: Keeping | None
) -> Iterator[Schedule]:
    """Candidate schedules for strips of one height, with as many graphs as fit or with carries of every k-th strip."""
    if keeping is not None:
        yield Schedule(strip_rows, keeping)
        return
    strips = memory.strips(strip_rows)
    if not any(memory.needs_grad):  # nothing is kept
        yield Schedule(strip_rows, Keeping(graphs=strips))
        return
    for frozen in (True, False) if memory.prefix_bytes else (True,):
        last = Keeping(graphs=1, frozen=frozen)
        one, two = (memory.total(Schedule(strip_rows, replace(last, graphs=n)), carried) for n in (1, 2))
        more = (budget - one) // (two - one) if budget > one and two > one else 0
        yield Schedule(strip_rows, replace(last, graphs=min(strips, 1 + more)))
        yield Schedule(strip_rows, replace(last, graphs=strips))  # the last strip may be lower
        every = max(2, round(strips**0.5))
        if strips > every:
            yield Schedule(strip_rows, replace(last, every=every))


def _time(memory: StepMemory, schedule: Schedule, speed: Speed) -> float:
    """Estimated time of a step, in forward passes of the plain network."""
    strips, keeping = memory.strips(schedule.strip_rows), schedule.keeping
    rows = memory.height / strips
    frozen = 0.0 if keeping.frozen or not memory.prefix_bytes else 0.5  # a guess at how much of the network is frozen
    passes = 3 + keeping.recomputed_passes(strips) + frozen
    even = strips == 1 or log2(schedule.strip_rows / memory.stride).is_integer()
    slower = (1 + _STRIP_OVERHEAD_ROWS / rows) * (1.0 if even else _UNEVEN)
    return passes * slower * speed(memory.batch * memory.width * schedule.strip_rows)
