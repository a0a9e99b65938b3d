"""Carries kept in host memory, on their way back to the device one visit before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import torch

from streammodels.core.engine import Carries
from streammodels.core.tensors.copies import Arrival, CopyStream


class ReturningCarries:
    """The kept carries of a backward pass.

    Args:
        kept: By strip, the carries that enter it.
        order: The strips for which they are taken, in order.
        device: The device that computes.
        copies: What copied them to host memory; None if they are taken as they are, or copied when they are taken.
    """

    def __init__(
        self, kept: Mapping[int, Carries], order: Iterable[int], device: torch.device, copies: CopyStream | None
    ) -> None:
        self._kept = kept
        self._order = deque(order)
        self._device = device
        self._copies = copies
        self._coming: Arrival | None = None

    def take(self) -> Carries:
        """The carries that enter the next strip in order, on the device. Those of the one behind are then coming."""
        kept = self._kept[self._order.popleft()]
        if self._copies is None:
            return {index: carry.to(self._device) for index, carry in kept.items()}
        coming = self._coming or self._copies.to_device(*kept.values())
        self._coming = self._copies.to_device(*self._kept[self._order[0]].values()) if self._order else None
        return dict(zip(kept, self._copies.take(coming), strict=True))
