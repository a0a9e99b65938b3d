"""Rows that change hands: whoever takes them is the only one to hold them, and frees them when it is done.

A function's argument is held by its caller, and by the caller's caller, until they return. For the rows of a strip of a
large image that is as much memory as a layer's output, through the whole backward pass of the strip.
"""

from __future__ import annotations

from torch import Tensor


class Handover:
    """A tensor that can be taken once.

    Args:
        rows: The tensor; the caller had better keep no other reference.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows: Tensor | None = rows

    def take(self) -> Tensor:
        """The tensor, which is forgotten here."""
        rows, self._rows = self._rows, None
        assert rows is not None, "the rows were taken before"
        return rows


def taken(handover: Handover | None) -> Tensor | None:
    """The tensor handed over, if any is."""
    return None if handover is None else handover.take()
