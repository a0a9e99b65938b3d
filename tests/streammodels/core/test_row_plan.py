"""The row plan against an independent oracle, NaNs propagated through torch's own layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from streammodels import stream
from streammodels.core.row_plan import RowNode, RowsError, SlidingWindow, plan_rows

CASES = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def windows(draw: st.DrawFn) -> tuple[nn.Module, SlidingWindow]:
    """A layer of torch, and the window that ought to describe it."""
    kernel, stride = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        dilation, padding = draw(st.integers(1, 3)), draw(st.integers(0, 6))
        mode = draw(st.sampled_from(["zeros", "reflect", "replicate"]))
        layer = nn.Conv2d(1, 1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), padding_mode=mode).double()
        return layer, SlidingWindow(dilation * (kernel - 1) + 1, stride, padding, padding, mode)
    padding, ceil_mode = draw(st.integers(0, kernel // 2)), draw(st.booleans())
    pool = nn.AvgPool2d((kernel, 1), (stride, 1), (padding, 0), ceil_mode)
    return pool, SlidingWindow(kernel, stride, padding, padding, "zeros", ceil_mode)


def finite_rows(layer: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(image).isfinite().all(dim=3).all(dim=1)[0]


@pytest.mark.slow
@CASES
@given(case=windows(), rows=st.integers(1, 40))
def test_total_rows_are_torchs(case: tuple[nn.Module, SlidingWindow], rows: int) -> None:
    layer, window = case
    try:
        expected = layer(torch.zeros(1, 1, rows, 1, dtype=torch.float64)).shape[2]
    except RuntimeError:
        assert window.total(rows) < 1
        return
    assert window.total(rows) == expected


@CASES
@given(case=windows(), rows=st.integers(1, 40), data=st.data())
def test_ready_rows_are_those_that_unseen_rows_do_not_touch(
    case: tuple[nn.Module, SlidingWindow], rows: int, data: st.DataObject
) -> None:
    layer, window = case
    assume(window.total(rows) >= 1 and (window.mode != "reflect" or window.pad_top < rows))
    seen = data.draw(st.integers(1, rows), label="seen")
    image = torch.zeros(1, 1, rows, 1, dtype=torch.float64)
    image[:, :, seen:] = torch.nan
    finite = finite_rows(layer, image)
    ready = window.ready(seen, rows)
    assert finite[:ready].all()
    # As many as possible: the next row touches an unseen one (unless it lies in padding, or a dilated kernel skips it).
    dense = not isinstance(layer, nn.Conv2d) or layer.dilation[0] == 1
    if dense and ready < len(finite) and ready * window.stride - window.pad_top < rows:
        assert not finite[ready]


@CASES
@given(case=windows(), rows=st.integers(1, 40), data=st.data())
def test_rows_before_the_first_needed_one_are_needed_no_more(
    case: tuple[nn.Module, SlidingWindow], rows: int, data: st.DataObject
) -> None:
    layer, window = case
    assume(window.total(rows) >= 1 and (window.mode != "reflect" or window.pad_top < rows))
    seen = data.draw(st.integers(1, rows), label="seen")
    done = window.ready(seen, rows)
    first = window.first_needed(done, seen)
    assert 0 <= first <= seen
    image = torch.zeros(1, 1, rows, 1, dtype=torch.float64)
    image[:, :, :first] = torch.nan
    assert finite_rows(layer, image)[done:].all()
    if first < seen and seen < rows and window.mode != "reflect" and done < window.total(rows) and window.stride == 1:
        image[:, :, first] = torch.nan  # and not a row more is carried
        assert not finite_rows(layer, image)[done:].all()


def trunk() -> nn.Sequential:
    class Block(nn.Module):
        def __init__(self, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 1, 3, stride, 1), nn.ReLU(), nn.Conv2d(1, 1, 3, 1, 1))
            self.shortcut = nn.Conv2d(1, 1, 1, stride)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.shortcut(x)

    return nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1), Block(1), Block(2), nn.AvgPool2d(3, 2))


@pytest.mark.parametrize("strip_rows", [1, 5, 16, 33])
@pytest.mark.parametrize("height", [33, 64, 101])
def test_plan_of_a_network_agrees_with_nans(height: int, strip_rows: int) -> None:
    network = trunk().double().requires_grad_(False)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)
    # A maximum pool hides NaN nowhere and ReLU passes it on, so a touched row is never finite.
    plan = stream(network, strip_rows=strip_rows).plan(height, 30)
    for strip in range(plan.strips - 1):
        image = torch.ones(1, 1, height, 30, dtype=torch.float64)
        image[:, :, plan.ready[0][strip] :] = torch.nan
        assert int(finite_rows(network, image).sum()) == plan.ready[-1][strip]
    assert plan.ready[-1][-1] == plan.totals[-1] == network(torch.ones(1, 1, height, 30).double()).shape[2]


@pytest.mark.parametrize("strip_rows", [1, 3, 8])
def test_carried_rows_of_the_image_are_exactly_those_still_needed(strip_rows: int) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 5, 2, 1), nn.Conv2d(1, 1, 3, 1, 1)).double()
    plan = stream(network, strip_rows=strip_rows).plan(40, 8)
    for strip in range(plan.strips - 1):
        first_output = network[0](torch.zeros(1, 1, 40, 8, dtype=torch.float64)).shape[2]
        needed = []
        for row in range(plan.ready[0][strip]):
            image = torch.zeros(1, 1, 40, 8, dtype=torch.float64)
            image[:, :, row] = torch.nan
            touched = ~finite_rows(network[0], image)
            needed.append(bool(touched[plan.ready[1][strip] : first_output].any()))
        assert len(plan.carried(0, strip)) == sum(needed)


@CASES
@given(
    layers=st.lists(windows(), min_size=1, max_size=4),
    rows=st.integers(1, 60),
    strip_rows=st.integers(1, 20),
)
def test_every_row_is_emitted_once_and_held_when_it_is_read(
    layers: list[tuple[nn.Module, SlidingWindow]], rows: int, strip_rows: int
) -> None:
    nodes = [RowNode(()), *(RowNode((index,), window) for index, (_, window) in enumerate(layers))]
    try:
        plan = plan_rows(nodes, rows, strip_rows)
    except RowsError:
        return
    for index, node in enumerate(nodes):
        emitted = [row for strip in range(plan.strips) for row in plan.new(index, strip)]
        assert emitted == list(range(plan.totals[index]))
        for strip in range(plan.strips):
            new = plan.new(index, strip)
            if node.window is None or not new:
                continue
            read, held = node.window.input_rows(new, plan.totals[index - 1]), plan.held(index - 1, strip)
            if read.start < read.stop:
                assert held.start <= read.start
                assert read.stop <= held.stop


def test_maps_of_different_height_cannot_meet() -> None:
    nodes = [RowNode(()), RowNode((0,), SlidingWindow(3)), RowNode((0, 1))]
    with pytest.raises(RowsError, match="9 and 7 rows meet"):
        plan_rows(nodes, 9, 4)


def test_join_waits_for_the_slower_branch_and_carries_the_faster() -> None:
    nodes = [RowNode(()), RowNode((0,), SlidingWindow(5, 1, 2, 2)), RowNode((0, 1))]
    plan = plan_rows(nodes, 12, 4)
    assert plan.ready[2] == plan.ready[1] == (2, 6, 12)
    assert list(plan.carried(0, 0)) == [0, 1, 2, 3]
    assert list(plan.carried(0, 1)) == [4, 5, 6, 7]
    assert not plan.carried(0, 2)
