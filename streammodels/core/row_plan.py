"""Row plan, the rows that each layer reads, emits and carries in each strip.

An image of H rows passes through the network in strips. A convolution or pooling layer with effective kernel height e,
stride s and padding p emits output row j as soon as it has input row ``j*s - p + e - 1``, so after r of H input rows it
has emitted

    ready(r) = max(0, floor((r + p - e) / s) + 1)        while r < H
    ready(H) = all output rows                           the bottom padding exists only at the end

and the first input row it still needs is ``ready * s - p``. The rows from there to r are its *carry*: they are put in
front of the rows of the next strip, so that no row of any layer is computed twice.

Layers that enlarge a map have rules of their own (`ResizedRows`).

The table of rows emitted and kept, for every node and strip, is computed once per image height (`plan_rows`). It takes
microseconds and needs no probing of the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

Pair = tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate"]


@dataclass(frozen=True)
class SlidingWindow:
    """Kernel, stride and padding of a convolution or pooling layer along one axis, described for rows.

    Attributes:
        extent: Input rows that one output row reads, ``dilation * (kernel - 1) + 1``.
        stride: Input rows from one output row to the next.
        pad_top: Rows of padding above the image; if negative, rows that are cut off.
        pad_bottom: Rows of padding below the image, likewise.
        mode: Content of the padding rows. For pooling, "zeros" means the neutral value of the pool.
        ceil_mode: Whether a last window that starts inside the image but ends beyond the padding counts (pooling only).
    """

    extent: int
    stride: int = 1
    pad_top: int = 0
    pad_bottom: int = 0
    mode: PaddingMode = "zeros"
    ceil_mode: bool = False

    def total(self, rows_in: int) -> int:
        """Number of output rows for `rows_in` input rows; zero or less if there are too few."""
        if self.mode == "reflect" and max(self.pad_top, self.pad_bottom) >= rows_in:
            return 0  # as in torch: there are not enough rows to mirror
        span = rows_in + self.pad_top + self.pad_bottom - self.extent
        if not self.ceil_mode:
            return span // self.stride + 1
        out = -(-span // self.stride) + 1
        # As in torch: the last window has to start inside the image or the top padding.
        return out - 1 if (out - 1) * self.stride >= rows_in + self.pad_top else out

    def ready(self, rows_seen: int, rows_in: int) -> int:
        """Number of output rows that the first `rows_seen` of `rows_in` input rows suffice for."""
        if rows_seen >= rows_in:
            return self.total(rows_in)
        if rows_seen < 1:
            return 0  # rows that read padding alone wait too: without input the width is unknown
        if self.mode == "reflect" and rows_seen <= self.pad_top:
            return 0  # the top padding mirrors rows 1 .. pad_top
        ready = max(0, (rows_seen + self.pad_top - self.extent) // self.stride + 1)
        return ready if self.pad_bottom >= 0 else min(ready, max(0, self.total(rows_in)))

    def first_needed(self, rows_out: int, rows_seen: int, rows_in: int = 0) -> int:
        """First input row still needed after `rows_out` output rows; at most `rows_seen`."""
        needed = rows_out * self.stride - self.pad_top
        if self.mode == "reflect":
            needed = min(needed, rows_seen - self.pad_bottom)  # the bottom padding mirrors the rows above the last
        return min(max(0, needed), rows_seen)

    def input_rows(self, rows_out: range, rows_in: int) -> InputRows:
        """The input rows, and the padding around them, that the output rows `rows_out` read."""
        first = rows_out.start * self.stride - self.pad_top
        stop = (rows_out.stop - 1) * self.stride - self.pad_top + self.extent
        low, high = min(max(first, 0), rows_in), min(max(stop, 0), rows_in)
        return InputRows(low, high, min(max(0, -first), stop - first), min(max(0, stop - rows_in), stop - first))

    def mirrored_rows(self, rows_out: range, rows_in: int) -> list[int]:
        """For "reflect" and "replicate", the index of the input row that each row read is a copy of."""
        first = rows_out.start * self.stride - self.pad_top
        stop = (rows_out.stop - 1) * self.stride - self.pad_top + self.extent
        last = rows_in - 1
        if self.mode == "replicate":
            return [min(max(row, 0), last) for row in range(first, stop)]
        return [last - abs(last - abs(row)) for row in range(first, stop)]


class ResizedRows(ABC):
    """The geometry along one axis of a layer that resizes a map, described for rows."""

    @abstractmethod
    def total(self, rows_in: int) -> int:
        """Number of output rows for `rows_in` input rows; zero or less if there are too few."""

    @abstractmethod
    def ready(self, rows_seen: int, rows_in: int) -> int:
        """Number of output rows that the first `rows_seen` of `rows_in` input rows suffice for."""

    @abstractmethod
    def first_needed(self, rows_out: int, rows_seen: int, rows_in: int) -> int:
        """First input row still needed after `rows_out` output rows; at most `rows_seen`."""

    @abstractmethod
    def span(self, rows_out: range, rows_in: int) -> range:
        """The input rows that the output rows `rows_out` read."""

    @abstractmethod
    def stride(self, rows_in: int) -> Fraction:
        """Input rows from one output row to the next."""

    @abstractmethod
    def offset(self, rows_in: int) -> float:
        """Where the center of output row 0 lies, in input rows from the center of row 0."""


@dataclass(frozen=True)
class InputRows:
    """Input rows ``start .. stop-1``, with `top` rows of padding above and `bottom` below."""

    start: int
    stop: int
    top: int
    bottom: int


@dataclass(frozen=True)
class RowNode:
    """Row geometry of one node of the network.

    Attributes:
        inputs: Indices of the nodes it reads; empty for an input, such as the image.
        window: Its vertical geometry; None if output row j reads input row j only.
        transparent: True for a deterministic pointwise node. Its carry is kept at its input instead, so that it can
            work in place on the joined rows.
        quantum: The node emits a multiple of this many rows, and waits for them; 1 is no waiting.
    """

    inputs: tuple[int, ...]
    window: SlidingWindow | ResizedRows | None = None
    transparent: bool = False
    quantum: int = 1


Place = tuple[int, int]
"""Where rows are among those that a node holds, as their start and number."""


@dataclass(frozen=True, slots=True)
class RowStep:
    """What one node does in one strip, which is the same in most strips.

    Attributes:
        emitted: Number of rows that it emits.
        keep: How many of the last rows that its readers see are carried to the next strip.
        reads: The rows that it reads of each input; None for all that the input holds.
        top: Rows of padding above the rows that it reads.
        bottom: Likewise below.
        mirrored: For padding that mirrors or repeats rows, the places of the rows read and padded.
    """

    emitted: int
    keep: int
    reads: tuple[Place | None, ...] = ()
    top: int = 0
    bottom: int = 0
    mirrored: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RowPlan:
    """Rows that each node emits and keeps in each strip, numbered as in the node's own output.

    Attributes:
        nodes: The row geometry of every node.
        strips: Number of strips.
        totals: Rows of every node over the whole image.
        ready: ``ready[node][strip]``, rows emitted up to and including the strip.
        keep: ``keep[node][strip]``, first row of the node still needed after the strip.
    """

    nodes: tuple[RowNode, ...]
    strips: int
    totals: tuple[int, ...]
    ready: tuple[tuple[int, ...], ...]
    keep: tuple[tuple[int, ...], ...]
    _steps: dict[int, tuple[RowStep, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _read: dict[Hashable, tuple[bool, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _alike: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def new(self, node: int, strip: int) -> range:
        """Rows that the node emits in the strip."""
        return range(self.ready[node][strip - 1] if strip else 0, self.ready[node][strip])

    def held(self, node: int, strip: int) -> range:
        """Rows of the node that its readers see in the strip, those carried in, then the new ones."""
        return range(self.keep[node][strip - 1] if strip else 0, self.ready[node][strip])

    def carried(self, node: int, strip: int) -> range:
        """Rows of the node carried to the next strip."""
        return range(self.keep[node][strip], self.ready[node][strip])

    def steps(self, strip: int) -> tuple[RowStep, ...]:
        """What every node does in a strip, found once: passes ask for it again and again."""
        if strip not in self._steps:
            found = tuple(self._step(index, strip) for index in range(len(self.nodes)))
            self._steps[strip] = self._alike.setdefault(found, found)
        return self._steps[strip]

    def read(self, strip: int, boundary: tuple[int, ...], left_out: frozenset[int]) -> tuple[bool, ...]:
        """For every node whether its rows are read in a strip; a transparent node that is not read has nothing to do.

        Args:
            strip: Number of the strip.
            boundary: Nodes whose new rows leave the network.
            left_out: Nodes that are not computed.
        """
        key = (strip, boundary, left_out)
        if key not in self._read:
            read = [index in boundary and len(self.new(index, strip)) > 0 for index in range(len(self.nodes))]
            for index in reversed(range(len(self.nodes))):
                node = self.nodes[index]
                runs = read[index] if node.transparent else len(self.new(index, strip)) > 0
                for source in node.inputs if runs and index not in left_out else ():
                    read[source] = True
            found = tuple(read)
            self._read[key] = self._alike.setdefault(found, found)
        return self._read[key]

    def _step(self, index: int, strip: int) -> RowStep:
        """See `steps`."""
        node, new, keep = self.nodes[index], self.new(index, strip), len(self.carried(index, strip))
        source = node.inputs[0] if node.inputs else index
        held, rows_in = self.held(source, strip), self.totals[source]
        if node.transparent:
            seen = self.held(index, strip)
            inside = held.start <= seen.start <= seen.stop <= held.stop  # not so if it is not read
            return RowStep(len(new), keep, (_place(seen, held),) if inside else ())
        if not node.inputs or not len(new):
            return RowStep(len(new), keep)
        if node.window is None:
            return RowStep(len(new), keep, tuple(_place(new, self.held(one, strip)) for one in node.inputs))
        if not isinstance(node.window, SlidingWindow):
            return RowStep(len(new), keep, (_place(node.window.span(new, rows_in), held),))
        rows = node.window.input_rows(new, rows_in)
        if node.window.mode != "zeros" and (rows.top or rows.bottom):
            mirrored = tuple(row - held.start for row in node.window.mirrored_rows(new, rows_in))
            return RowStep(len(new), keep, (None,), mirrored=mirrored)
        place = _place(range(rows.start, rows.stop), held)
        return RowStep(len(new), keep, (place,), rows.top, rows.bottom)


def _place(rows: range, held: range) -> Place | None:
    """Where rows are among those that a node holds; None for all of them."""
    assert held.start <= rows.start <= rows.stop <= held.stop
    return None if rows == held else (rows.start - held.start, len(rows))


class RowsError(ValueError):
    """An image height for which a node has no output; `node` is its index."""

    def __init__(self, node: int, reason: str) -> None:
        self.node = node
        self.reason = reason
        super().__init__(reason)


def plan_rows(nodes: Sequence[RowNode], rows: int, strip_rows: int, further: Sequence[int] = ()) -> RowPlan:
    """The row plan of an image of `rows` rows in strips of `strip_rows`.

    Args:
        nodes: The network in topological order; node 0 is the image.
        rows: Image height in pixels, at least 1.
        strip_rows: Rows of every strip but the last, at least 1.
        further: Heights of the further inputs, in the order of their nodes; that of the image where missing. Their rows
            arrive in proportion to those of the image.

    Raises:
        RowsError: If the image is too small for a node, or a node joins maps of different heights.
    """
    strips = -(-rows // strip_rows)
    ready: list[list[int]] = []
    totals: list[int] = []
    heights = iter((rows, *further))
    for index, node in enumerate(nodes):
        if not node.inputs:
            height = next(heights, rows)
            totals.append(height)
            ready.append([-(-min((strip + 1) * strip_rows, rows) * height // rows) for strip in range(strips)])
            continue
        source = node.inputs[0]
        total = totals[source] if node.window is None else node.window.total(totals[source])
        if total < 1:
            raise RowsError(index, f"an image of {rows} rows is too small: {totals[source]} rows reach this layer")
        if len({totals[i] for i in node.inputs}) > 1:
            raise RowsError(index, f"maps of {' and '.join(str(totals[i]) for i in node.inputs)} rows meet")
        totals.append(total)
        ready.append([_emitted(node, [ready[i][s] for i in node.inputs], totals[source], total) for s in range(strips)])
    keep = [[0] * strips for _ in nodes]
    readers = users_of([node.inputs for node in nodes])
    for index in reversed(range(len(nodes))):
        for strip in range(strips):
            first = ready[index][strip]
            for reader in readers[index]:
                first = min(first, _first_needed(nodes[reader], ready, keep, reader, index, strip, totals[index]))
            keep[index][strip] = first if strip < strips - 1 else ready[index][strip]
    return RowPlan(tuple(nodes), strips, tuple(totals), tuple(map(tuple, ready)), tuple(map(tuple, keep)))


def users_of(inputs: Sequence[Sequence[int]]) -> list[list[int]]:
    """For every node the nodes that read it, given the `inputs` of every node."""
    readers: list[list[int]] = [[] for _ in inputs]
    for index, sources in enumerate(inputs):
        for source in sources:
            readers[source].append(index)
    return readers


def _emitted(node: RowNode, seen: list[int], rows_in: int, total: int) -> int:
    """Rows emitted by a node whose inputs have emitted `seen` rows."""
    rows = min(seen)
    out = rows if node.window is None else node.window.ready(rows, rows_in)
    return out if rows >= rows_in else min(out // node.quantum * node.quantum, total)


def _first_needed(
    node: RowNode,
    ready: list[list[int]],
    keep: list[list[int]],
    reader: int,
    source: int,
    strip: int,
    rows_in: int,
) -> int:
    """First row of `source` that `reader` still needs after `strip`."""
    if node.window is not None:
        return node.window.first_needed(ready[reader][strip], ready[source][strip], rows_in)
    return keep[reader][strip] if node.transparent else ready[reader][strip]
