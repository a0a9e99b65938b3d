"""Table of layers with their receptive fields, carried rows, and the margins that tiling would lose."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod

from streammodels.core.network import Network
from streammodels.core.row_plan import ResizedRows, RowPlan, SlidingWindow
from streammodels.memory.shapes import ValueShape, boundary_bytes

_MEGABYTE = 1e6


@dataclass(frozen=True)
class LayerGeometry:
    """Row geometry of one node.

    Attributes:
        stride: Image rows from one of its output rows to the next.
        receptive_field: Image rows that one output row depends on.
        lost_top: Output rows that padding makes wrong at the top of a tile cut out of an image.
        lost_bottom: Likewise at the bottom, for a tile whose height is a multiple of every stride.
    """

    stride: int | Fraction = 1
    receptive_field: int = 1
    lost_top: int = 0
    lost_bottom: int = 0


def layer_facts(network: Network, tile_rows: int | None = None) -> list[LayerGeometry]:
    """Row geometry of every node, by exact interval arithmetic (no probing).

    Args:
        network: The network.
        tile_rows: Height of the tile that "lost" is of; None for a multiple of every stride.
    """
    strides = [node.window.stride for node in network.nodes if isinstance(node.window, SlidingWindow)]
    tile_rows = prod(strides) * 4096 if tile_rows is None else tile_rows
    facts: list[LayerGeometry] = []
    rows: list[int] = []
    for node in network.nodes:
        if not node.inputs:
            facts.append(LayerGeometry())
            rows.append(tile_rows)
            continue
        sources = [facts[i] for i in node.inputs]
        rows_in = rows[node.inputs[0]]
        widest = LayerGeometry(
            sources[0].stride,
            max(s.receptive_field for s in sources),
            max(s.lost_top for s in sources),
            max(s.lost_bottom for s in sources),
        )
        facts.append(widest if node.window is None else _through(node.window, widest, rows_in))
        rows.append(rows_in if node.window is None else node.window.total(rows_in))
    return facts


def _through(window: SlidingWindow | ResizedRows, facts: LayerGeometry, rows_in: int) -> LayerGeometry:
    """Row geometry behind a windowed or resized layer whose input has `facts`."""
    if isinstance(window, ResizedRows):
        return _resized(window, facts, rows_in)
    last_good = (rows_in - facts.lost_bottom - window.extent + window.pad_top) // window.stride
    return LayerGeometry(
        facts.stride * window.stride,
        ceil(facts.receptive_field + (window.extent - 1) * facts.stride),
        max(0, ceil((facts.lost_top + window.pad_top) / window.stride)),
        max(0, window.total(rows_in) - 1 - last_good),
    )


def _resized(window: ResizedRows, facts: LayerGeometry, rows_in: int) -> LayerGeometry:
    """Row geometry behind a layer that resizes a map; a row in the middle of it stands for all."""
    total = window.total(rows_in)
    read = window.span(range(total // 2, total // 2 + 1), rows_in)
    lost = next((row for row in range(total) if window.first_needed(row, rows_in, rows_in) >= facts.lost_top), total)
    stride = facts.stride * window.stride(rows_in)
    return LayerGeometry(
        int(stride) if stride.denominator == 1 else stride,
        facts.receptive_field + ceil((len(read) - 1) * facts.stride),
        lost,
        total - window.ready(rows_in - facts.lost_bottom, rows_in),
    )


def layer_table(network: Network, plan: RowPlan, shapes: list[ValueShape], sideways: bool) -> str:
    """The table as text, with a line for every layer that has a carry or joins values.

    Args:
        network: The traced network.
        plan: Its row plan.
        shapes: The shape of every value.
        sideways: Whether strips run along the image's width, so that their rows are its columns.
    """
    facts = layer_facts(network, plan.totals[0] if network.depends_on_size else None)
    title = ("layer", "kind", "stride", "receptive", "rows", "carried", "lost", "carried MB")
    lines: list[tuple[str, ...]] = [title, ("", "", "px", "field px", "out", "rows", "top,bottom", "per strip")]
    for index, node in enumerate(network.nodes):
        if node.transparent or not node.inputs:
            continue
        carried = [_carried_rows(network, plan, index, i) for i in range(len(node.inputs))]
        size = sum(c * shapes[s].row_bytes(1) for c, s in zip(carried, node.inputs, strict=True)) / _MEGABYTE
        fact, rows = facts[index], plan.totals[index]
        numbers = (fact.stride, fact.receptive_field, rows, "+".join(map(str, carried)))
        lines.append((node.path, node.kind, *map(str, numbers), f"{fact.lost_top},{fact.lost_bottom}", f"{size:.2f}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(title))]
    text = ["  ".join(_cell(cell, column, widths) for column, cell in enumerate(line)).rstrip() for line in lines]
    turned = ["Strips run along the width, the longer side: rows are columns of the image here."] if sideways else []
    return "\n".join([*text, *_footer(network, plan, shapes), *turned])


def _carried_rows(network: Network, plan: RowPlan, index: int, position: int) -> int:
    """The most rows of an input that a node carries to the next strip."""
    node = network.nodes[index]
    source = node.inputs[position]
    most = 0
    for strip in range(plan.strips - 1):
        seen, out = plan.ready[source][strip], plan.ready[index][strip]
        rows_in = plan.totals[source]
        most = max(most, seen - (node.window.first_needed(out, seen, rows_in) if node.window else out))
    return most


def _cell(text: str, column: int, widths: list[int]) -> str:
    return text.ljust(widths[column]) if column < 2 else text.rjust(widths[column])


def _footer(network: Network, plan: RowPlan, shapes: list[ValueShape]) -> list[str]:
    image = shapes[0]
    text = [f"{plan.strips} strips of {plan.ready[0][0]} rows of an image of {image.rows} x {image.width} pixels."]
    if plan.strips > 1:
        most = max(boundary_bytes(plan, network, shapes, 1, strip) for strip in range(plan.strips - 1))
        text.append(
            f"Carried from strip to strip: {most / _MEGABYTE:.2f} MB an image; layers that read one value share it."
        )
    return text
