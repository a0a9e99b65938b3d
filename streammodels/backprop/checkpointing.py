"""What of the forward pass is kept for the backward pass: memory against time, from plain training to O(width).

A strip is computed a second time in the backward pass, from its rows and the carries that entered it. So the least that
has to be kept is some carries; the most is everything. With n strips, F the operations of one forward pass:

    carries at every boundary            every=1, graphs=0     4 F     memory: one strip + n carries
    carries at every k-th boundary       every=k, graphs=0     5 F     memory: one strip + n/k + k carries
    the graphs of the last m strips      every=1, graphs=m     4 F - m/n F, for m = n 3 F: plain training
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keeping:
    """What is kept.

    Attributes:
        every: Carries are kept at every so many strips; those between are computed again, group by group.
        graphs: So many of the last strips keep their graph and are not computed a second time. One costs no memory: the
            backward pass would begin by computing it again.
        on_host: Kept carries wait in host memory. Only for computation on another device.
        frozen: Layers in front of everything that is trained are not computed a second time: the rows they hand to
            trained layers are kept. Otherwise they are computed again.
    """

    every: int = 1
    graphs: int = 0
    on_host: bool = False
    frozen: bool = True

    def __post_init__(self) -> None:
        if self.every < 1 or self.graphs < 0:
            raise ValueError(f"every has to be at least 1 and graphs at least 0, got {self.every} and {self.graphs}")

    def recomputed(self, strips: int) -> float:
        """The share of `strips` strips that have no graph."""
        return 1 - min(strips, self.graphs) / strips

    def passes_again(self, strips: int) -> float:
        """Forward passes computed again: those strips for their graphs and, in groups, once more for their carries."""
        return self.recomputed(strips) * (2 - 1 / self.every)


@dataclass(frozen=True)
class Visit:
    """A strip that the backward pass comes to.

    Attributes:
        strip: Its number.
        backward: Whether gradients are computed; else only the carries that leave it, once more.
        reads: Whether its rows of the image are needed.
    """

    strip: int
    backward: bool
    reads: bool


def visits(strips: int, every: int, graphs: int) -> list[Visit]:
    """The strips in the order of the backward pass.

    Args:
        strips: Number of strips.
        every: Carries are there at every so many strips.
        graphs: So many of the last strips have their graph.

    Returns:
        Group by group from the last: forwards without gradients up to the last strip whose carries are wanted, then
        backwards through all strips of the group.
    """
    result: list[Visit] = []
    for start in reversed(range(0, strips, every)):
        stop = min(start + every, strips)
        recomputed = range(start, min(stop, strips - graphs))
        result += [Visit(strip, backward=False, reads=True) for strip in recomputed[:-1]]
        result += [Visit(strip, backward=True, reads=strip < strips - graphs) for strip in reversed(range(start, stop))]
    return result


@dataclass(frozen=True)
class Choice:
    """How an image is computed: the height of its strips, and what is kept."""

    strip_rows: int
    keeping: Keeping
