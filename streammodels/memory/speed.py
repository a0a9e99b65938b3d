"""Relative time of strips, by the number of their pixels, as assumed for a device."""

from __future__ import annotations

from collections.abc import Callable

Speed = Callable[[int], float]
"""Time for each pixel in strips of some pixels, of all images of a batch; 1 for the fastest."""

_BEYOND_CACHE = 1.1  # factor of time for strips that do not fit the caches


def fastest_up_to(most_pixels: int) -> Speed:
    """The speed where strips of more pixels are slower, so that memory is better spent on keeping graphs."""
    return lambda pixels: _BEYOND_CACHE if pixels > most_pixels else 1.0


ON_CPU = fastest_up_to(2**19)  # larger strips do not fit its caches, see docs/benchmarks.md
ELSEWHERE = fastest_up_to(2**22)  # enough to fill a GPU; not measured


def assumed_speed(device_type: str) -> Speed:
    """The speed on a type of device, "cpu" or "cuda"."""
    return ON_CPU if device_type == "cpu" else ELSEWHERE
