"""Markdown tables of the streaming benchmark's records, as shown in docs/benchmarks.md."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

Record = dict[str, Any]
Runs = dict[tuple[int, str], list[Record]]
"""Records of one model by image side and variant."""

GRADIENT_TOLERANCE = {"float32": 5e-3, "float64": 1e-10}
"""Largest relative error of a layer's gradient at which two variants count as the same computation. In float32, sums in
another order move activations by 1e-6 or so, which turns that share of the ReLUs on or off: a relative error of its
square root, 1e-3, in the gradient. Float64 shows whether a variant is exact."""

HEADER = (
    "| model | image | variant | runs | step, s (min-max) | CPU, s | time / plain | peak above baseline, GB "
    "| memory / plain | set-up, s | gradient error |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def read_records(path: Path) -> list[Record]:
    """All records of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def markdown(records: Iterable[Record]) -> str:
    """The environment, a table of medians with their ratios to plain training, and what was skipped or failed.

    Where plain training did not fit at a size, its time and memory are taken from the largest size at which it ran,
    times the ratio of pixels (each of its layers costs in proportion to them); such ratios carry a `~`.
    """
    records = list(records)
    models: dict[str, Runs] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["kind"] == "run":
            models[record["model"]][record["side_px"], record["variant"]].append(record)
    lines = [*_environment_lines(records), "", HEADER]
    for model, runs in models.items():
        lines += [_row(model, *key, of_variant, runs) for key, of_variant in sorted_by_size(runs)]
    left_out = {
        f"- {record['model']}, {record['side_px']} px, {record['variant']}, {record['kind']}: {record['reason']}"
        for record in records
        if record["kind"] in ("skipped", "failed")
    }
    return "\n".join([*lines, *([""] if left_out else []), *sorted(left_out)])


def sorted_by_size(runs: Runs) -> list[tuple[tuple[int, str], list[Record]]]:
    """The groups by image size; within a size in the order they ran (sorting is stable)."""
    return sorted(runs.items(), key=lambda item: item[0][0])


def wrong_gradients(records: Iterable[Record]) -> list[str]:
    """One line for each run whose gradients differ from its reference, so that its time is meaningless."""
    return [
        f"{record['model']}, {record['side_px']} px, {record['variant']}: gradients differ from "
        f"{record['reference']}'s by {record['gradient_error']:.1e} (relative), more than "
        f"{GRADIENT_TOLERANCE[record['dtype']]:.0e}"
        for record in records
        if record["kind"] == "run"
        and record["gradient_error"] is not None
        and not record["gradient_error"] <= GRADIENT_TOLERANCE[record["dtype"]]
    ]


def _environment_lines(records: list[Record]) -> list[str]:
    environment = next((record for record in records if record["kind"] == "environment"), None)
    first_run = next((record for record in records if record["kind"] == "run"), None)
    if environment is None or first_run is None:
        return ["No run finished."]
    loads = [record["load_before"] for record in records if record["kind"] == "run"]
    return [
        f"Training step, batch 1, {first_run['dtype']}, BatchNorm frozen, all convolutions trained; "
        f"{first_run['threads']} thread(s), torch {first_run['torch']} ({first_run['cpu_capability']}).",
        f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_gb']:.0f} GB, "
        f"{environment['libc']} ({environment['malloc']}). {environment['date']}; load average before the runs "
        f"{min(loads):.1f} to {max(loads):.1f}.",
    ]


def _row(model: str, side_px: int, variant: str, of_variant: list[Record], runs: Runs) -> str:
    seconds = [record["step_s"] for record in of_variant]
    errors = [record["gradient_error"] for record in of_variant if record["gradient_error"] is not None]
    reference = of_variant[-1]["reference"]
    cells = [
        model,
        f"{side_px}²",
        variant,
        str(len(of_variant)),
        f"{median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})",
        f"{_median(of_variant, 'cpu_s'):.1f}",
        _ratio_to_plain(side_px, of_variant, runs, "step_s"),
        f"{_median(of_variant, 'peak_above_baseline_bytes') / 1e9:.2f}",
        _ratio_to_plain(side_px, of_variant, runs, "peak_above_baseline_bytes"),
        f"{_median(of_variant, 'build_s'):.1f}",
        f"{max(errors):.0e} to {reference}" if errors else "reference",
    ]
    return "| " + " | ".join(cells) + " |"


def _median(records: list[Record], field: str) -> float:
    return float(median(record[field] for record in records))


def _ratio_to_plain(side_px: int, of_variant: list[Record], runs: Runs, field: str) -> str:
    sides = [side for side, variant in runs if variant == "plain"]
    if not sides:
        return "-"
    from_px = side_px if side_px in sides else max(sides)
    plain = _median(runs[from_px, "plain"], field) * (side_px / from_px) ** 2
    return f"{'' if from_px == side_px else '~'}{_median(of_variant, field) / plain:.2f}"
