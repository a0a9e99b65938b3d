"""Relative time of strips, measured on strips of several heights on the device that computes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from itertools import pairwise
from math import log2
from time import perf_counter

import torch

from streammodels.backprop.autograd import detach_as_leaves, flat_tensors
from streammodels.backprop.bptt import ImagePass
from streammodels.backprop.checkpointing import Keeping, Schedule
from streammodels.backprop.rng_state import RngState
from streammodels.core.image_rows import TensorRows
from streammodels.core.strip_reader import InputReader, StripReader
from streammodels.core.tensors.memory_format import format_of_weights
from streammodels.memory.estimate import StepMemory
from streammodels.memory.speed import Speed, assumed_speed

_LEAST_PIXELS, _MOST_PIXELS = 2**18, 2**25  # of strips that are timed
_STRIPS = 4  # of the image that is timed
_RUNS = 3  # the first of which chooses algorithms
_NOTICED = 1.03  # factors of time below are noise

_known: dict[Hashable, Speed] = {}


def measured_speed(memory: StepMemory, budget_bytes: int, device: torch.device) -> Speed:
    """The speed of strips of a network, measured once per process, type of device, and type of numbers.

    Strips of a blank image as wide as the given one are computed forward and, if anything is trained, backward; twice
    as high each time, until higher ones are no faster or do not fit the budget. Random numbers of the network are drawn
    from copies of the generators.

    Args:
        memory: Estimates for the network and the images.
        budget_bytes: Memory that may be used.
        device: The device that computes.

    Returns:
        The speed; that which is assumed for the device, if less than two heights could be timed.
    """
    network = memory.engine.network
    if network.depends_on_size:
        return assumed_speed(device.type)
    floating = next((t.dtype for t in flat_tensors(memory.tensors) if t.is_floating_point()), torch.get_default_dtype())
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    key = (network.key, name, floating, cast, any(memory.needs_grad))
    if key not in _known:
        times = _times(memory, budget_bytes, device, floating)
        if len(times) < 2:
            return assumed_speed(device.type)
        _known[key] = interpolated(times)
    return _known[key]


def interpolated(times: dict[int, float]) -> Speed:
    """The speed, given the time for each pixel in strips of some numbers of pixels.

    Smaller strips are taken to need the time of the smallest, larger ones the time for each pixel of the largest.
    """
    least = min(times.values())
    slower = {pixels: 1.0 if time < _NOTICED * least else time / least for pixels, time in sorted(times.items())}
    smallest, largest = min(slower), max(slower)

    def speed(pixels: int) -> float:
        if pixels <= smallest:
            return slower[smallest] * smallest / pixels
        for (low, at_low), (high, at_high) in pairwise(slower.items()):
            if pixels <= high:
                part = log2(pixels / low) / log2(high / low)
                return at_low + part * (at_high - at_low)
        return slower[largest]

    return speed


def _times(memory: StepMemory, budget_bytes: int, device: torch.device, floating: torch.dtype) -> dict[int, float]:
    """Seconds for each pixel, by pixels of a strip."""
    times: dict[int, float] = {}
    rows, row_pixels, before = memory.stride, memory.batch * memory.width, 0.0
    while rows * row_pixels < _LEAST_PIXELS:
        rows *= 2
    while (pixels := rows * row_pixels) <= _MOST_PIXELS:
        further = tuple(replace(o, height=-(-o.height * _STRIPS * rows // memory.height)) for o in memory.further)
        image = replace(memory, height=_STRIPS * rows, images=1, further=further)
        try:
            if image.total(Schedule(rows, Keeping())) > budget_bytes:
                break
            times[pixels] = _seconds(image, rows, device, floating) / (_STRIPS * pixels)
        except (RuntimeError, ValueError):  # such as memory that others have taken: what was timed before suffices
            break
        if len(times) > 1 and times[pixels] * _NOTICED > before:
            break
        before = times[pixels]
        rows *= 2
    if device.type == "cuda":
        torch.cuda.empty_cache()  # blocks of these sizes would be in the way of others
    return times


def _seconds(memory: StepMemory, rows: int, device: torch.device, floating: torch.dtype) -> float:
    """Time of a step on a blank image in strips of `rows` rows."""
    network = memory.engine.network
    shapes = [(memory.shapes[0].channels, memory.height, memory.width, floating)]
    shapes += [(one.channels, one.height, one.width, one.dtype or floating) for one in memory.further]
    blank = [
        torch.ones(1, 1, 1, 1, dtype=dtype, device=device).expand(memory.batch, channels, height, width)
        for channels, height, width, dtype in shapes
    ]
    plan, times = memory.plan(rows), []
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        for _ in range(_RUNS):
            leaves = detach_as_leaves(memory.tensors)
            trained = any(leaf.requires_grad for leaf in flat_tensors(leaves))
            sources = [TensorRows(one, "a blank image", one.is_floating_point()) for one in blank]
            read, layout = zip(network.inputs, sources, strict=True), format_of_weights(flat_tensors(leaves))
            reader = InputReader({i: StripReader(own, device, floating, layout) for i, own in read}, device)
            state, keeping = RngState.capture(network, device), Keeping() if trained else None
            image_pass = ImagePass(memory.engine, plan, reader, state, leaves, frozenset(), keeping)
            start = _now(device)
            values = image_pass.forward()
            if trained:
                image_pass.backward([torch.ones_like(v) if v.is_floating_point() else None for v in values])
            times.append(_now(device) - start)
    return min(times[1:])


def _now(device: torch.device) -> float:
    """The time when the device has computed all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
