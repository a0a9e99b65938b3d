"""Maps lie over the slide where their image was read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streammodels.explain.heatmap import Heatmap, MapAxis, MapGrid, block_grid
from streammodels.explain.placement import PlacedMap, PlacedPiece, Placement, place


def _heatmap(values: np.ndarray, grid: MapGrid, size: tuple[int, int]) -> Heatmap:
    return Heatmap(torch.tensor(values)[None], torch.zeros(1).long(), torch.zeros(1, 2), "Grad-CAM", grid, size)


@given(
    stride=st.integers(2, 64), first=st.integers(-128, 128).map(lambda twice: twice / 2),
    size=st.integers(1, 5000), downsample=st.floats(1.0, 16.0), start=st.floats(0, 1), shift=st.integers(0, 200),
)  # fmt: skip
def test_no_value_is_farther_from_its_place_than_promised(
    stride: int, first: float, size: int, downsample: float, start: float, shift: int
) -> None:
    """A piece anywhere on the slide: the cells of a map pixel are centered on it to a quarter of the stride."""
    image_px = max(1, int(size / downsample))
    count = max(1, int((image_px + shift - first) / stride) + 1)
    left = start * (size - image_px * downsample)
    piece = PlacedPiece(shift, 0, image_px, 1, left, 0)
    values = np.arange(count, dtype=np.float32)[None]
    grid = MapGrid(MapAxis(stride, 0.0), MapAxis(stride, first))
    placed = place(_heatmap(values, grid, (1, image_px + shift)), Placement((size, 1), (piece,), (downsample, 1.0)))
    row, cell = placed.values[0], placed.cell_lv0[0]
    assert np.isfinite(row).any()
    assert cell <= stride * downsample * 1.001
    shown = np.unique(row[np.isfinite(row)])
    for index in shown[1:-1]:
        middle = (np.flatnonzero(row == index).mean() + 0.5) * cell
        true = left + (first + index * stride + 0.5 - shift) * downsample
        assert abs(middle - true) <= stride * downsample / 4 + 1e-6


def test_packed_pieces_go_back_to_their_places() -> None:
    """Two pieces that changed sides; nothing between them."""
    values = np.array([[1, 2, 3, 4]], dtype=np.float32)
    pieces = (PlacedPiece(0, 0, 16, 8, 96, 8), PlacedPiece(16, 0, 16, 8, 0, 0))
    placed = place(_heatmap(values, block_grid(8), (8, 32)), Placement((128, 16), pieces))
    expected = np.full((2, 16), np.nan, dtype=np.float32)
    expected[1, 12:] = [1, 1, 2, 2][:4] if placed.values.shape[1] == 32 else [1, 2, np.nan, np.nan]
    expected[0, :2] = [3, 4]
    np.testing.assert_array_equal(placed.values, expected)


def test_blocks_that_fit_are_the_cells() -> None:
    values = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    placed = place(_heatmap(values, block_grid(4), (20, 28)))
    np.testing.assert_array_equal(placed.values, values)
    assert placed.cell_lv0 == (4, 4)


def test_halves_leave_out_what_was_not_seen() -> None:
    values = np.array([[1, np.nan, 5], [3, np.nan, np.nan]], dtype=np.float32)
    _, mean = PlacedMap(values, (3, 2), None, "attention", "logit").levels(2)
    _, largest = PlacedMap(values, (3, 2), None, "gradient", "logit").levels(2)
    np.testing.assert_array_equal(mean, [[2, 5]])
    np.testing.assert_array_equal(largest, [[3, 5]])


@pytest.mark.parametrize("pair", [(0.0, 1.0), (1.0, float("nan"))])
def test_impossible_scale_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two positive numbers"):
        Placement((1, 1), (), pair)
