"""Which strips are computed, and what is kept: from a height, a tile size, or whatever is fastest within a budget."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streammodels.backprop.checkpointing import Choice, Keeping
from streammodels.memory.estimate import StepMemory

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_ROWS_LOST = 1  # a strip takes the time of about so many further rows: carries joined, weights read once more
_TOO_LARGE = 1.1  # strips that leave the caches take so much more time
_MOST_STRIPS = 4096
_MOST_PIXELS = {"cpu": 2**19}  # taller strips leave a CPU's caches: see docs/benchmarks.md
_MOST_PIXELS_ELSEWHERE = 2**22  # enough for the kernels of a GPU to fill it; not measured


def parse_bytes(memory: str | int) -> int:
    """``"8GB"``, ``"500 MiB"`` or a number of bytes, as bytes.

    Raises:
        ValueError: If it is not understood or not positive.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", str(memory).upper())
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise ValueError(f"memory={memory!r} is not understood. Give bytes, or text such as '8GB' or '500MiB'.")
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True)
class Sizes:
    """What the user asked for: one of the first three.

    Attributes:
        tile_size: So many squared pixels of each image in flight.
        strip_rows: Height of the strips.
        memory: Budget of a training step, as text or bytes.
        keeping: What is kept; None to choose.
    """

    tile_size: int | None = None
    strip_rows: int | None = None
    memory: str | int | None = None
    keeping: Keeping | None = None

    def __post_init__(self) -> None:
        sizes = {"tile_size": self.tile_size, "strip_rows": self.strip_rows, "memory": self.memory}
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one of tile_size=, strip_rows= and memory=; got {', '.join(given) or 'none'}")
        for name, value in (("tile_size", self.tile_size), ("strip_rows", self.strip_rows)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} has to be a whole number of at least 1, got {value!r}")
        if self.memory is not None:
            parse_bytes(self.memory)

    def __str__(self) -> str:
        given = {"tile_size": self.tile_size, "strip_rows": self.strip_rows, "memory": self.memory}
        return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)

    def choose(self, memory: StepMemory, device_type: str) -> Choice:
        """What that is for images of one size.

        Args:
            memory: Estimates for the network and the images.
            device_type: Where the strips are computed, "cpu" or "cuda".
        """
        if self.memory is not None:
            most = _MOST_PIXELS.get(device_type, _MOST_PIXELS_ELSEWHERE)
            return fastest_within(memory, parse_bytes(self.memory), self.keeping, most)
        rows = self.strip_rows or max(1, round((self.tile_size or 1) ** 2 / memory.width))
        rows = min(rows, memory.height)
        return Choice(rows, self.keeping or default_keeping(memory, rows))


def default_keeping(memory: StepMemory, strip_rows: int) -> Keeping:
    """What is kept when only the height of the strips is given.

    All carries; the last strip's graph, which costs nothing; and the rows of frozen layers if they are few. Few is: no
    more than the activations of one strip. So the memory at most doubles.
    """
    if memory.engine.shortcut(list(memory.needs_grad)) is None:
        return Keeping(graphs=1)
    return Keeping(graphs=1, frozen=memory.frozen <= memory.in_strip(strip_rows))


def fastest_within(
    memory: StepMemory, budget_bytes: int, keeping: Keeping | None = None, most_pixels: int = 2**19
) -> Choice:
    """What is estimated to be fastest of all that fits a budget.

    Args:
        memory: Of the network and image.
        budget_bytes: The budget.
        keeping: What is kept, if that is not to be chosen.
        most_pixels: Strips of more pixels are slower; what memory is left is better spent on keeping graphs.

    Raises:
        ValueError: If not even the least that works fits; the message says how much that is.
    """
    best: tuple[float, Choice] | None = None
    least: tuple[float, Choice] | None = None
    for strip_rows in _heights(memory.height):
        carried = memory.carried(strip_rows)
        for choice in _choices(memory, strip_rows, carried, budget_bytes, keeping):
            needed, time = memory.total(choice, carried), _time(memory, choice, most_pixels)
            if least is None or needed < least[0]:
                least = (needed, choice)
            if needed <= budget_bytes and (best is None or time < best[0]):
                best = (time, choice)
    if best is not None:
        return best[1]
    assert least is not None
    images, size = memory.batch * memory.images, f"{memory.height} x {memory.width}"
    raise ValueError(
        f"memory of {budget_bytes / 1e6:.4g} MB is too small for {images} image(s) of {size} pixels: strips of "
        f"{least[1].strip_rows} rows need least, about {least[0] / 1e6:.4g} MB. Raise memory=, or use smaller images."
    )


def _heights(height: int) -> list[int]:
    """Strip heights worth a try: the image in 1, 2, 3, 4, 6, 8, 12 ... equal strips."""
    counts = {round(base * 2**power) for base in (1, 1.5) for power in range(13)}
    return sorted({-(-height // count) for count in counts if count <= min(height, _MOST_STRIPS)}, reverse=True)


def _choices(
    memory: StepMemory, strip_rows: int, carried: float, budget: int, keeping: Keeping | None
) -> Iterator[Choice]:
    """For strips of one height: as many graphs as fit, or fewer carries than boundaries."""
    if keeping is not None:
        yield Choice(strip_rows, keeping)
        return
    strips = memory.strips(strip_rows)
    for frozen in (True, False) if memory.frozen else (True,):
        last = Keeping(graphs=1, frozen=frozen)
        one, two = (memory.total(Choice(strip_rows, replace(last, graphs=n)), carried) for n in (1, 2))
        more = (budget - one) // (two - one) if budget > one and two > one else 0
        yield Choice(strip_rows, replace(last, graphs=min(strips, 1 + more)))
        yield Choice(strip_rows, replace(last, graphs=strips))  # the last strip may be lower
        every = max(2, round(strips**0.5))
        if strips > every:
            yield Choice(strip_rows, replace(last, every=every))


def _time(memory: StepMemory, choice: Choice, most_pixels: int) -> float:
    """Estimated time of a step, in forward passes of the plain network."""
    strips, keeping = memory.strips(choice.strip_rows), choice.keeping
    rows = memory.height / strips
    frozen = 0.0 if keeping.frozen or not memory.frozen else 0.5  # a guess: how much of the network is frozen
    large = _TOO_LARGE if memory.batch * memory.width * choice.strip_rows > most_pixels else 1.0
    return (3 + keeping.passes_again(strips) + frozen) * (1 + _ROWS_LOST / rows) * large
