"""Files of a heat map show the right numbers at the right places."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import torch
from torch import Tensor, nn

from streammodels import stream
from streammodels.explain.cam import class_activation_map
from streammodels.explain.colors import color_map
from streammodels.explain.heatmap import Heatmap, MapAxis, MapGrid, Method, block_grid
from streammodels.explain.heatmap_files import write_color_pyramid, write_pyramid
from streammodels.explain.overlay import scale_bar_um, write_overlay
from streammodels.explain.placement import PlacedPiece, Placement

RESNET = MapGrid(MapAxis(32, 0.0), MapAxis(32, 0.0))


def _heatmap(values: Tensor, grid: MapGrid, size: tuple[int, int], method: Method = "class activation map") -> Heatmap:
    return Heatmap(values, torch.zeros(len(values), dtype=torch.int64), torch.zeros(len(values), 2), method, grid, size)


def test_tiff_of_blocks_holds_the_values_and_the_resolution(tmp_path: Path) -> None:
    values = torch.rand(2, 300, 200)
    heatmap = _heatmap(values, block_grid(4), (1200, 800), "gradient")
    path = write_pyramid(heatmap, tmp_path / "new" / "map.tif", (0.5, 0.25), index=1, tile_px=64)
    with tifffile.TiffFile(path) as file:
        pages = file.pages
        np.testing.assert_array_equal(pages[0].asarray(), values[1].numpy())
        assert [page.shape for page in pages] == [(300, 200), (150, 100), (75, 50), (38, 25)]
        assert all(page.is_tiled and page.dtype == np.float32 for page in pages)
        assert pages[0].tile == (64, 64)
        assert pages[0].tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        um = [10000 * low / high for high, low in (pages[0].tags[f"{axis}Resolution"].value for axis in "XY")]
        assert um == pytest.approx([0.5 * 4, 0.25 * 4], rel=1e-6)
        coarse = values[1].reshape(150, 2, 100, 2).amax(dim=(1, 3))  # peaks of a gradient stay visible
        np.testing.assert_array_equal(pages[1].asarray(), coarse.numpy())


def test_a_full_disk_leaves_the_files_that_were_there(
    tmp_path: Path, full_disk: AbstractContextManager[object]
) -> None:
    heatmap = _heatmap(torch.rand(1, 64, 64), block_grid(8), (512, 512))
    for name in ("map.tif", "map.png"):
        (tmp_path / name).write_text("old")
    with full_disk, pytest.raises(OSError, match="File too large"):
        write_pyramid(heatmap, tmp_path / "map.tif", (1.0, 1.0))
    with full_disk, pytest.raises(OSError, match="File too large"):
        write_overlay(heatmap, tmp_path / "map.png", np.zeros((8, 8, 3), np.uint8))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"map.tif": "old", "map.png": "old"}


def test_coarser_levels_of_a_class_map_are_means(tmp_path: Path) -> None:
    values = torch.rand(1, 64, 64)
    path = write_pyramid(_heatmap(values, block_grid(8), (512, 512)), tmp_path / "map.tif", (1.0, 1.0), tile_px=32)
    expected = values[0].reshape(32, 2, 32, 2).mean(dim=(1, 3)).numpy()
    np.testing.assert_allclose(tifffile.imread(path, key=1), expected, rtol=1e-5)


def test_tiff_of_a_resnet_is_shifted_by_half_a_cell(tmp_path: Path) -> None:
    values = torch.arange(12.0).view(1, 3, 4)  # centered on pixels 0, 32, 64 (, 96)
    path = write_pyramid(_heatmap(values, RESNET, (80, 112)), tmp_path / "map.tif", (2.0, 2.0))
    written = tifffile.imread(path, key=0)
    assert written.shape == (5, 7)  # cells of 16 pixels
    assert written[0].tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert written[:, 0].tolist() == [0, 4, 4, 8, 8]
    with tifffile.TiffFile(path) as file:
        high, low = file.pages[0].tags["XResolution"].value
        assert 10000 * low / high == pytest.approx(2.0 * 16, rel=1e-6)


OPENSLIDE_SPOTS = [(RESNET, 40, 100), (block_grid(32), 3, 7)]


@pytest.mark.parametrize(("grid", "row", "column"), OPENSLIDE_SPOTS, ids=["centered on pixels", "blocks"])
def test_a_spot_lies_at_its_place_in_openslide(grid: MapGrid, row: int, column: int, tmp_path: Path) -> None:
    """By the resolutions of both files, and by their sizes, whichever a viewer goes by."""
    openslide = pytest.importorskip("openslide")
    placement = Placement((20003, 10001), (PlacedPiece(0, 0, 5001, 2500, 0, 0),), (4.0, 4.0), (0.25, 0.3))
    values = torch.zeros(1, 79, 157)
    values[0, row, column] = 5.0
    heatmap = _heatmap(values, grid, (2500, 5001))
    path = write_color_pyramid(heatmap, tmp_path / "map.tif", placement=placement, class_name="Ödem", tile_px=64)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 4
        assert "logit of Ödem" in slide.properties["openslide.comment"]
        mpp = [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
        size = slide.dimensions
        pixels = np.asarray(slide.read_region((0, 0), 0, size)).astype(int)
    assert [um * px for um, px in zip(mpp, size, strict=True)] == pytest.approx([0.25 * 20003, 0.3 * 10001], rel=1e-6)
    y, x = np.argwhere(pixels[..., 3] > 150).mean(axis=0) + 0.5
    assert (pixels[int(y), int(x), 0] - pixels[int(y), int(x), 2]) > 50  # red, not blue
    truth = [4 * (axis.center(index) + 0.5) for axis, index in ((grid.x, column), (grid.y, row))]
    assert np.abs(np.array([x * mpp[0] / 0.25, y * mpp[1] / 0.3]) - truth).max() <= 4 * 32 / 4
    assert np.abs(np.array([x / size[0] * 20003, y / size[1] * 10001]) - truth).max() <= 4 * 32 / 4


def test_what_the_network_did_not_see_is_transparent(tmp_path: Path) -> None:
    placement = Placement((200, 100), (PlacedPiece(10, 0, 50, 50, 100, 0),), (2.0, 2.0))
    heatmap = _heatmap(torch.ones(1, 8, 8), block_grid(8), (64, 64))
    alpha = tifffile.imread(write_color_pyramid(heatmap, tmp_path / "map.tif", placement=placement))[..., 3]
    assert (alpha[:, : alpha.shape[1] // 2] == 0).all()
    assert (alpha[:, alpha.shape[1] // 2 + 1 :] > 200).all()
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        assert file.pages[0].tags["ResolutionUnit"].value != tifffile.RESUNIT.CENTIMETER
    seen = np.isfinite(tifffile.imread(write_pyramid(heatmap, tmp_path / "values.tif", placement=placement)))
    np.testing.assert_array_equal(seen, alpha > 0)


def test_two_resolutions_are_refused(tmp_path: Path) -> None:
    heatmap = _heatmap(torch.ones(1, 8, 8), block_grid(8), (64, 64))
    with pytest.raises(ValueError, match="Pass one of them"):
        write_pyramid(heatmap, tmp_path / "map.tif", (1.0, 1.0), placement=Placement.of_whole((64, 64)))


@pytest.mark.parametrize("first", [nn.Conv2d(3, 8, 7, 4, 3), nn.Conv2d(3, 8, 4, 4)], ids=["shifted", "blocks"])
def test_a_spot_is_found_where_it_is(first: nn.Conv2d, tmp_path: Path) -> None:
    """The cell with the largest value lies on the spot, for a network whose map is shifted and one whose is not."""
    for weight in (first.weight, *(head := nn.Linear(8, 2)).parameters()):
        nn.init.ones_(weight)
    streamed = stream(nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1)), strip_rows=32)
    for row, column in ((17, 90), (64, 33), (100, 8)):
        image = torch.zeros(1, 3, 128, 160, dtype=torch.uint8)
        image[:, :, row : row + 4, column : column + 4] = 255
        path = write_pyramid(class_activation_map(streamed, image, 0, head=head), tmp_path / "map.tif", (1.0, 1.0))
        with tifffile.TiffFile(path) as file:
            written, (high, low) = file.pages[0].asarray(), file.pages[0].tags["XResolution"].value
        assert written.shape in {(32, 40), (64, 80)}
        hot = (np.argwhere(written == written.max()).mean(axis=0) + 0.5) * (10000 * low / high) - 0.5
        assert np.abs(hot - [row + 1.5, column + 1.5]).max() <= 2.5


def _colored_center(picture: np.ndarray, columns: slice) -> float:
    """Mean row of the colored pixels."""
    part = picture[:, columns].astype(int)
    colored = part.max(axis=2) - part.min(axis=2) > 100
    assert colored.any()
    return float(np.flatnonzero(colored.any(axis=1)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("grid", [RESNET, block_grid(32)], ids=["centered on pixels", "blocks"])
def test_overlay_colors_the_place_of_the_map_pixel(grid: MapGrid, tmp_path: Path) -> None:
    values = torch.zeros(1, 10, 10)
    values[0, 7, 5] = 1.0
    center = grid.y.center(7)
    picture = np.full((320, 320, 3), 255, dtype=np.uint8)
    picture[round(center) - 16 : round(center) + 16, 144:176] = (255, 0, 0)
    path = write_overlay(_heatmap(values, grid, (320, 320)), tmp_path / "map.png", picture, title="one spot")
    drawn = np.asarray(pyvips.Image.new_from_file(str(path)).numpy())[:, :, :3]
    half = drawn.shape[1] // 2
    left, right = _colored_center(drawn, slice(0, half - 20)), _colored_center(drawn, slice(half + 10, half + 400))
    assert abs(left - right) <= 2


@pytest.mark.parametrize("low", [-1.0, 0.0], ids=["signed", "positive"])
@pytest.mark.parametrize("method", ["gradient", "class activation map", "Grad-CAM", "attention"])
def test_large_maps_are_reduced_to_a_picture(method: Method, low: float, tmp_path: Path) -> None:
    values = torch.rand(1, 70, 2500) * (1 - low) + low
    heatmap = _heatmap(values, block_grid(4), (280, 9999), method)
    path = write_overlay(heatmap, tmp_path / "map.png", np.zeros((28, 1000, 3), dtype=np.uint8))
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_map_of_equal_values_is_drawn(tmp_path: Path) -> None:
    heatmap = _heatmap(torch.zeros(1, 4, 4), block_grid(8), (32, 32), "Grad-CAM")
    assert write_overlay(heatmap, tmp_path / "map.png", np.zeros((32, 32, 3), dtype=np.uint8)).stat().st_size > 0


def test_gradient_of_several_channels_is_refused(tmp_path: Path) -> None:
    heatmap = _heatmap(torch.zeros(1, 3, 8, 8), block_grid(1), (8, 8), "gradient")
    with pytest.raises(ValueError, match="not one value per location"):
        write_pyramid(heatmap, tmp_path / "map.tif", (1.0, 1.0))


def test_values_without_color_are_refused(tmp_path: Path) -> None:
    heatmap = _heatmap(torch.full((1, 4, 4), float("nan")), block_grid(8), (32, 32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_overlay(heatmap, tmp_path / "map.png", np.zeros((32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("mpp", [(0.0, 1.0), (1.0, -2.0), (float("nan"), 1.0)])
def test_impossible_resolution_is_refused(mpp: tuple[float, float], tmp_path: Path) -> None:
    heatmap = _heatmap(torch.zeros(1, 4, 4), RESNET, (128, 128))
    with pytest.raises(ValueError, match="has to be two positive numbers"):
        write_pyramid(heatmap, tmp_path / "map.tif", mpp)


def test_colors_are_centered_on_zero_between_any_limits() -> None:
    colors = color_map(-1.0, 4.0)(np.array([0.2]))[0]  # a fifth of the way is 0
    assert colors[3] == pytest.approx(0, abs=0.05)
    below, above = color_map(-1.0, 4.0)(np.array([0.0, 1.0]))
    assert below[2] > below[0]
    assert above[0] > above[2]
    assert above[3] > below[3]


def test_limits_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    heatmap, picture = _heatmap(torch.zeros(1, 4, 4), block_grid(8), (32, 32)), np.zeros((32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="the lower one first"):
        write_overlay(heatmap, tmp_path / "map.png", picture, limits=(1.0, -1.0))


@pytest.mark.parametrize(
    ("longest", "expected"), [(1234.0, 1000), (999.9, 500), (0.3, 0.2), (2000.0, 2000), (49999.0, 20000)]
)
def test_scale_bars_have_round_lengths(longest: float, expected: float) -> None:
    assert scale_bar_um(longest) == pytest.approx(expected)


@pytest.mark.slow
def test_overlay_with_everything_is_drawn_also_of_a_line(tmp_path: Path) -> None:
    """Text that matplotlib would take for a formula, and an image of one column."""
    heatmap = _heatmap(torch.rand(1, 40, 1), RESNET, (1300, 1))
    path = write_overlay(
        heatmap, tmp_path / "map.png", np.zeros((60, 1, 3), dtype=np.uint8), title=r"$\frac{$ _^", class_name="$^{x",
        mpp=(0.5, 0.25), boxes=[(0, 100, 1, 50)],
    )  # fmt: skip
    assert path.stat().st_size > 0
