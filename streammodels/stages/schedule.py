"""Sizes of the strips of every stage, and the forecast of a step through all stages."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from streammodels.backprop.checkpointing import Keeping, Schedule
from streammodels.memory.budget import Sizes, fastest_within, parse_bytes
from streammodels.memory.forecast import Forecast, make_forecast
from streammodels.memory.speed import Speed, assumed_speed
from streammodels.memory.summary import layer_table
from streammodels.stages.expected import StageStep

_SHARES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1, 0.05)  # of the budget, for one stage


def stage_sizes(sizes: Sizes, image: tuple[int, int], reads: tuple[int, int], least_pixels: int) -> Sizes:
    """The sizes for a stage whose strips are those of the image, or higher where these have too few pixels.

    Args:
        sizes: The sizes for the image, other than a budget.
        image: Height and width of the image as the strips see it.
        reads: Those of the first map that the stage reads.
        least_pixels: Pixels of that map that a strip has at least.
    """
    own = max(-(-sizes.rows(image[1]) * reads[0] // image[0]), -(-least_pixels // reads[1]))
    return Sizes(strip_rows=own, keeping=sizes.keeping)


def waiting_bytes(steps: Sequence[StageStep]) -> int:
    """The most bytes of maps that wait in a training step, and of their gradients.

    The gradients that wait at one time are those of what one stage reads, and of what it computed for later ones.
    """
    maps = sum(step.bytes_of([*step.stage.waiting]) for step in steps)
    grads = [step.bytes_of([*step.stage.waiting, *step.stage.network.inputs]) for step in steps]
    return maps + max(grads)


def stage_schedules(
    steps: Sequence[StageStep], sizes: Sizes, kernel_pixels: int, device: torch.device, waiting: int
) -> list[Schedule]:
    """The schedules of all stages.

    Args:
        steps: The steps of all stages.
        sizes: The sizes for the image, not none.
        kernel_pixels: See `Network.row_nodes`.
        device: The device that computes.
        waiting: Bytes of the maps that wait in the same memory.

    Raises:
        ValueError: If no schedule fits.
    """
    speed = assumed_speed(device.type)
    if sizes.memory is not None:
        return _within(steps, parse_bytes(sizes.memory), sizes.keeping, speed, waiting, [None] * len(steps))
    first, largest = steps[0].memory, []
    for step in steps:
        memory = step.memory
        image, reads = (first.height, first.width), (memory.height, memory.width)
        own = stage_sizes(sizes, image, reads, kernel_pixels // memory.batch)
        largest.append(without_graphs(step.orientation.schedule(memory, own, device), step is steps[-1]))
    if sizes.strip_rows is not None:
        return largest
    budget, most = waiting + total_bytes(steps, largest), [schedule.strip_rows for schedule in largest]
    with suppress(ValueError):
        return _within(steps, budget, sizes.keeping, speed, waiting, most)
    return largest


def _within(
    steps: Sequence[StageStep],
    budget: int,
    keeping: Keeping | None,
    speed: Speed,
    waiting: int,
    most_rows: Sequence[int | None],
) -> list[Schedule]:
    """The schedules of all stages within a budget, with strips of at most so many rows.

    What is kept of all stages waits at the end of the forward pass, beside the strips of the last stage.
    """
    if waiting >= budget:
        raise ValueError(
            f"memory of {budget / 1e6:.4g} MB is too small: maps of {waiting / 1e6:.4g} MB wait for statistics of the "
            "whole image. Raise memory=, or pass spill_dir= to have them wait in files."
        )
    least: ValueError | None = None
    for share in _SHARES:
        own = max(1, int(share * (budget - waiting)))
        try:
            schedules = [
                without_graphs(fastest_within(step.memory, own, keeping, speed, most), step is steps[-1])
                for step, most in zip(steps, most_rows, strict=True)
            ]
        except ValueError as error:
            least = error
            break
        if total_bytes(steps, schedules) <= budget - waiting:
            return schedules
    raise ValueError(
        f"memory of {budget / 1e6:.4g} MB is too small for {len(steps)} stages, between which maps of "
        f"{waiting / 1e6:.4g} MB wait, and what is kept of each for the backward pass. Raise memory=, or use smaller "
        "images."
    ) from least


def without_graphs(schedule: Schedule, is_last: bool) -> Schedule:
    """The schedule of a stage, whose graphs are not kept while later stages run."""
    return schedule if is_last else replace(schedule, keeping=replace(schedule.keeping, graphs=0))


def total_bytes(steps: Sequence[StageStep], schedules: Sequence[Schedule]) -> int:
    """Estimated peak bytes of a step on the device that computes."""
    pairs = [*zip(steps, schedules, strict=True)]
    kept = [step.memory.kept(schedule) for step, schedule in pairs]
    totals = [step.memory.total(schedule) for step, schedule in pairs]
    return sum(kept) + max(total - own for total, own in zip(totals, kept, strict=True))


def stages_forecast(
    steps: Sequence[StageStep], schedules: Sequence[Schedule], waiting: int, on_device: int
) -> Forecast:
    """The forecast of a step through all stages, for which `waiting` bytes wait, `on_device` of them on the device."""
    parts = [
        make_forecast(step.memory, schedule, step.orientation.sideways)
        for step, schedule in zip(steps, schedules, strict=True)
    ]
    return replace(
        parts[0],
        memory_bytes=total_bytes(steps, schedules) + on_device,
        forward_operations=sum(part.forward_operations for part in parts),
        training_operations=sum(part.training_operations for part in parts),
        waiting_bytes=waiting,
        stages=len(steps),
    )


def stages_table(steps: Sequence[StageStep], schedules: Sequence[Schedule]) -> str:
    """The table of layers of every stage, as text, with the maps that wait behind it."""
    text = []
    for step, schedule in zip(steps, schedules, strict=True):
        network, memory = step.orientation.network, step.memory
        plan = step.orientation.plan(memory, schedule.strip_rows)
        waits = [f"{network.nodes[i].path} ({step.bytes_of([i]) / 1e6:.2f} MB)" for i in step.stage.waiting]
        text.append(f"Stage {step.stage.number + 1} of {len(steps)}:")
        text.append(layer_table(network, plan, memory.shapes, step.orientation.sideways))
        text += [f"Waiting for later stages: {', '.join(waits)}.", ""] if waits else []
    return "\n".join(text)
