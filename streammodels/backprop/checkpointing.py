"""Activation checkpointing, what is kept for the backward pass and what is recomputed.

The backward pass recomputes a strip from its rows and the carries that entered it, so some carries have to be kept; at
most everything is. `Keeping` chooses, and `backward_order` is the order of the strips that follows from it. For n
strips, and F the operations of one forward pass, a training step takes

    carries of every strip               every=1, graphs=0     4 F            memory: one strip + n carries
    carries of every k-th strip          every=k, graphs=0     5 F            memory: one strip + n/k + k carries
    graphs of the last m strips          every=1, graphs=m     (4 - m/n) F    m = n is plain training, 3 F
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keeping:
    """What the forward pass keeps for the backward pass.

    Attributes:
        every: Carries are kept of every so many strips; those between are recomputed, group by group.
        graphs: Number of last strips whose graph is kept, so that they are not recomputed. One costs no memory, since
            the backward pass would start by recomputing it.
        on_host: Whether kept carries are moved to host memory. Only for computation on another device.
        frozen: Whether the rows that trained layers read from the frozen layers in front of everything trained are
            kept. Otherwise these layers are recomputed too.
    """

    every: int = 1
    graphs: int = 0
    on_host: bool = False
    frozen: bool = True

    def __post_init__(self) -> None:
        if self.every < 1 or self.graphs < 0:
            raise ValueError(f"every has to be at least 1 and graphs at least 0, got {self.every} and {self.graphs}")

    def recomputed(self, strips: int) -> float:
        """The share of `strips` strips whose graph is not kept."""
        return 1 - min(strips, self.graphs) / strips

    def recomputed_passes(self, strips: int) -> float:
        """Forward passes recomputed, for the graphs of these strips and for the carries within groups."""
        return self.recomputed(strips) * (2 - 1 / self.every)

    passes_again = recomputed_passes


@dataclass(frozen=True)
class Schedule:
    """How an image is computed, in strips of what height, and what is kept."""

    strip_rows: int
    keeping: Keeping


@dataclass(frozen=True)
class BackwardStep:
    """A step of the backward pass, in which one strip is computed.

    Attributes:
        strip: Number of the strip.
        backward: Whether its gradients are computed; otherwise only the carries that leave it are recomputed.
        reads: Whether its rows of the image are read.
    """

    strip: int
    backward: bool
    reads: bool


def backward_order(strips: int, every: int, graphs: int) -> list[BackwardStep]:
    """The steps of the backward pass.

    Args:
        strips: Number of strips.
        every: Carries are kept of every so many strips.
        graphs: Number of last strips whose graph is kept.

    Returns:
        Group by group from the last, forwards without gradients up to the last strip that needs carries, then backwards
        through all strips of the group.
    """
    result: list[BackwardStep] = []
    for start in reversed(range(0, strips, every)):
        stop = min(start + every, strips)
        recomputed = range(start, min(stop, strips - graphs))
        result += [BackwardStep(strip, backward=False, reads=True) for strip in recomputed[:-1]]
        result += [
            BackwardStep(strip, backward=True, reads=strip < strips - graphs) for strip in reversed(range(start, stop))
        ]
    return result
