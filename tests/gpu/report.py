"""The section of docs/benchmarks.md about a GPU, made of the JSON file of `check.py`.

    python tests/gpu/report.py build/gpu/check.json
    python tests/gpu/report.py build/gpu/check.json --page docs/benchmarks.md

What stands between the two markers of the page is replaced. Figures of a CPU, or of tiny images, are not taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
START, END = "<!-- gpu: written by tests/gpu/report.py -->", "<!-- gpu: end -->"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def tables(content: Record) -> str:
    """What the blocks found, as Markdown."""
    blocks: dict[str, Record] = content["blocks"]
    parts = []
    steps = [record for block in blocks.values() for record in block["records"] if "variant" in record]
    profiles = [record for record in steps if "kernels" in record]
    for columns, records in ((STEPS, [record for record in steps if "kernels" not in record]), (PROFILES, profiles)):
        parts += [_table(columns, records)] if records else []
    for name, columns in (("exact", EXACT), ("precision", PRECISION), ("end to end", END_TO_END)):
        if records := [r for r in blocks.get(name, {}).get("records", []) if "scales" not in r]:
            parts.append(_table(columns, records))
    checks = []
    for name in ("parallel", "random networks", "waits"):
        block = blocks.get(name)
        if block and block["records"]:
            checks.append(f"- {name}: {_sentence(name, block['records'])}")
    bad = [f"- **{name}: {b['status']}**. {b.get('error', '')}" for name, b in blocks.items() if b["status"] != "ok"]
    return "\n\n".join([*parts, *(["\n".join(checks + bad)] if checks or bad else [])])


def _sentence(name: str, records: Sequence[Record]) -> str:
    """What a block of many records found."""
    if name == "waits":
        if not all(record["checked"] for record in records):
            return "not checked, which takes a GPU."
        waiting = [record["network"] for record in records if "waits" in record]
        return f"{len(records)} networks, of which {', '.join(waiting) or 'none'} made the host wait within the loop."
    far = max(record["distance"] for record in records)
    number = sum(record.get("networks", 1) for record in records)
    return f"{number} compared in float64, largest relative distance {far:.1e}."


Column = tuple[str, Callable[[Record], Any]]


def _number(key: str, form: str, unit: float = 1.0) -> Callable[[Record], str]:
    """The cell for a number, empty where there is none."""
    return lambda record: "" if record.get(key) is None else format(float(record[key]) / unit, form)


def _table(columns: Sequence[Column], records: Sequence[Record]) -> str:
    """A table with a row for each record, without the columns that are empty."""
    cells = [[str(cell(record)) for _, cell in columns] for record in records]
    used = [place for place in range(len(columns)) if any(row[place] for row in cells)]
    rows = [[columns[place][0] for place in used], ["---"] * len(used)]
    rows += [[row[place] for place in used] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


STEPS: list[Column] = [
    ("network", lambda record: record["model"]),
    ("image", lambda record: f"{record['side']:,} x {record['side']:,}"),
    ("variant", lambda record: record["variant"] + (f": {record['error']}" if "error" in record else "")),
    ("strips", lambda r: f"{r['strips']} of {r['strip_rows']}" if r.get("strip_rows") else ""),
    ("forward passes recomputed", _number("recomputed", ".2f")),
    ("step, s", _number("step_s", ".3f")),
    ("/ plain", _number("over_plain", ".2f")),
    ("peak, GB", _number("peak_bytes", ".2f", 1e9)),
    ("forecast, GB", _number("forecast_bytes", ".2f", 1e9)),
    ("reserved, GB", _number("reserved_bytes", ".2f", 1e9)),
    ("gradient's distance", _number("gradient_distance", ".1e")),
    ("TFLOP/s", _number("tflop_per_s", ".0f")),
]
PROFILES: list[Column] = [
    ("profile", lambda r: f"{r['model']}, {r['side']:,} x {r['side']:,}, {r['variant']}"),
    ("strips", _number("strips", ".0f")),
    ("step, s", _number("step_s", ".3f")),
    ("GPU busy", _number("busy", ".0%")),
    ("kernels a strip", lambda r: f"{r['kernels'] / r['strips']:.0f}"),
]
EXACT: list[Column] = [
    ("ResNet-18, float64", lambda record: record["case"]),
    ("largest relative distance", _number("distance", ".1e")),
]
PRECISION: list[Column] = [
    ("precision", lambda record: f"{record['precision']}, {record['steps']} steps"),
    ("plain, from float32", _number("plain_weights", ".1e")),
    ("streamed, from float32", _number("streamed_weights", ".1e")),
]
END_TO_END: list[Column] = [
    ("slides", lambda r: f"{r['slides']} of {r['side']:,} x {r['side']:,} px, {r['workers']} workers, {r['read']}"),
    ("s a slide", _number("slide_s", ".2f")),
    ("in steps", _number("in_steps", ".0%")),
    ("GPU busy", _number("busy", ".0%")),
]


def section(content: Record) -> str:
    """The section, without its heading."""
    machine = content["machine"]
    memory = f", {machine['memory_bytes'] / 1e9:.0f} GB" if "memory_bytes" in machine else ""
    tiny = ", tiny images, to see that it runs" if machine["tiny"] else ""
    conditions = (
        f"`tests/gpu/check.py` on one {machine['device']}{memory}{tiny}; PyTorch {machine['torch']}, "
        f"CUDA {machine.get('cuda', '-')}, cuDNN {machine.get('cudnn', '-')}, {machine['date']}. bf16 autocast, "
        "channels last, batch 1, frozen batch normalization, rows made on the device. Peak memory is that above the "
        "network and its image."
    )
    return f"{conditions}\n\n{tables(content)}"


def write(content: Record, page: Path) -> None:
    """Replace what stands between the markers of a page.

    Raises:
        ValueError: If the page lacks a marker.
    """
    text = page.read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page} has no lines '{START}' and '{END}'. Add them where the section is to stand.")
    page.write_text(f"{before}{START}\n\n{section(content)}\n\n{END}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="what check.py wrote")
    parser.add_argument("--page", type=Path, default=PAGE, help="(docs/benchmarks.md)")
    options = parser.parse_args(arguments)
    content = json.loads(options.json.read_text())
    if options.page.resolve() == PAGE and (content["machine"]["kind"] != "cuda" or content["machine"]["tiny"]):
        print(
            "These are no figures of a GPU. For a look at them, give a copy of the page with --page.", file=sys.stderr
        )
        return 1
    write(content, options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
