import cv2
import numpy as np
import pytest
from places import SLIDES
from views import glass, stain

from wsidata import Slide
from wsidata.slides.tissue.methods import find_tissue, glass_color, otsu_density, otsu_saturation
from wsidata.synthetic.tissue import paint_tissue

METHODS = [find_tissue, otsu_saturation, otsu_density]
IHC_GLASS = (226, 222, 235)


def immunostained(strength=1.0):
    """Pale bluish gray tissue with some brown nuclei, 80 x 140 px on tinted glass; and where it is."""
    rng = np.random.default_rng(3)
    wanted = np.zeros((200, 300), bool)
    wanted[60:140, 80:220] = True
    density = np.zeros((200, 300, 3))
    hematoxylin, dab = np.array([0.11, 0.085, 0.08]), np.array([0.35, 0.5, 0.7])
    density[wanted] = rng.uniform(0.6, 1.4, (int(wanted.sum()), 1)) * hematoxylin
    density[wanted & (rng.random((200, 300)) < 0.05)] += dab
    light = np.array(IHC_GLASS) * 10 ** (-strength * density)
    return np.clip(rng.normal(light, 1.2), 0, 255).astype(np.uint8), wanted


@pytest.mark.parametrize("method", METHODS)
def test_stained_rectangle_is_found_to_the_pixel_up_to_rounded_corners(method):
    mask = method(stain(glass(), slice(40, 120), slice(60, 200)))
    wanted = np.zeros(mask.shape, bool)
    wanted[40:120, 60:200] = True
    assert (mask ^ wanted).sum() <= 8
    assert mask[41:119, 61:199].all()


@pytest.mark.parametrize("tint", [(255, 255, 255), (240, 230, 244), IHC_GLASS, (128, 128, 128), (0, 0, 0)])
def test_empty_glass_of_any_tint_has_no_tissue(tint):
    assert not otsu_saturation(glass(tint=tint)).any()
    assert not find_tissue(glass(tint=tint)).any()


@pytest.mark.parametrize("tint", [(255, 255, 255), (240, 230, 244), IHC_GLASS])
def test_density_finds_nothing_on_glass_of_uneven_light(tint):
    shade = np.linspace(0.97, 1.0, 300)[:, None]
    assert not otsu_density((glass(tint=tint) * shade).astype(np.uint8)).any()


@pytest.mark.parametrize("method", METHODS)
def test_view_full_of_tissue_is_tissue(method):
    assert method(stain(glass(), slice(None), slice(None))).all()


@pytest.mark.parametrize("method", METHODS)
def test_black_borders_and_pale_tissue(method):
    pixels = stain(glass(), slice(40, 120), slice(60, 200), color=(232, 214, 228))
    pixels[:, :30] = np.random.default_rng(2).integers(0, 4, (200, 30, 3))
    mask = method(pixels)
    assert not mask[:, :50].any()
    assert mask[45:115, 65:195].mean() > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_cleaning_closes_gaps_fills_holes_and_drops_specks(method):
    pixels = stain(glass(), slice(40, 120), slice(60, 200))
    pixels[60:72, 100:112] = glass((12, 12))  # a hole of 144 pixels
    pixels[40:120, 150:152] = glass((80, 2))  # a cut, 2 pixels wide
    stain(pixels, slice(10, 13), slice(10, 13))  # a speck
    mask = method(pixels)
    assert mask[45:115, 65:195].all()
    assert not mask[:30, :30].any()
    raw = method(pixels, close_px=0, max_hole_px=0, min_piece_px=0)
    assert not raw[62:70, 102:110].any()
    assert raw[11, 11]


@pytest.mark.parametrize("method", METHODS)
def test_gap_at_the_edge_of_the_view_is_closed_without_reaching_beyond(method):
    mask = method(stain(glass(), slice(0, 60), slice(0, 80)))
    assert mask[0, 0]
    assert mask[:58, :78].all()
    assert mask.sum() <= 60 * 80 + 8


@pytest.mark.parametrize("method", METHODS)
def test_other_pixels_than_rgb_are_refused(method):
    with pytest.raises(ValueError, match="uint8 RGB, not"):
        method(np.zeros((5, 5, 4), np.uint8))


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.3])
def test_pale_counterstain_is_tissue(strength):
    pixels, wanted = immunostained(strength)
    assert (otsu_saturation(pixels) & wanted).sum() < 0.8 * wanted.sum()  # drops it: why density is measured
    mask = find_tissue(pixels)
    assert (mask & wanted).sum() > 0.98 * wanted.sum()
    assert (mask & ~wanted).sum() < 0.02 * wanted.sum()


def test_stroma_beside_strongly_stained_tissue_is_tissue():
    pixels = stain(glass(tint=(236, 236, 233)), slice(40, 120), slice(60, 140), color=(150, 100, 50))
    stain(pixels, slice(40, 120), slice(140, 240), color=(205, 208, 218))
    assert not otsu_saturation(pixels)[50:110, 150:230].any()
    assert find_tissue(pixels)[45:115, 65:235].all()
    assert find_tissue(pixels).mean() < 0.26


def test_hematoxylin_and_eosin_is_found_by_saturation():
    pixels = paint_tissue(250, 200, tumor=True, mpp=8.0, rng=np.random.default_rng(0))
    cv2.circle(pixels, (12, 12), 6, (90, 90, 90), 2)  # a bubble, gray
    np.testing.assert_array_equal(find_tissue(pixels), otsu_saturation(pixels))
    assert not find_tissue(pixels)[:20, :20].any()
    assert otsu_density(pixels)[:20, :20].any()


def test_dark_field_is_judged_by_saturation():
    pixels = stain(glass(tint=(2, 1, 6)), slice(40, 120), slice(60, 140), color=(4, 2, 120))
    np.testing.assert_array_equal(find_tissue(pixels), otsu_saturation(pixels))
    assert find_tissue(pixels)[45:115, 65:135].all()


def test_glass_is_not_the_white_of_unscanned_areas():
    pixels, wanted = immunostained()
    for white in (255, 250):
        pixels[:, 240:] = white
        np.testing.assert_allclose(glass_color(pixels), IHC_GLASS, atol=1)
        mask = find_tissue(pixels)
        assert not (mask & ~wanted)[:, 225:].any()
        assert (mask & wanted).sum() > 0.98 * wanted.sum()


def test_glass_without_any_noise_is_glass():
    pixels = stain(np.full((200, 300, 3), 255, np.uint8), slice(40, 120), slice(60, 200))
    np.testing.assert_array_equal(glass_color(pixels), [255, 255, 255])
    assert glass_color(stain(glass(), slice(None), slice(None))) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fraction", "tissue", "empty"),
    [
        ("CMU-1-Small-Region.svs", (0.3, 0.45), [(1000, 1500), (600, 2900)], [(200, 2000), (2000, 300)]),
        ("tcga-cr-7395-01a-01-ts1.svs", (0.55, 0.7), [(2000, 1500), (300, 1600)], [(300, 300), (4300, 200)]),
        (  # Ki-67: saturation drops the lower left corner and edges of brown nuclei
            "OS-2-ndpi.ome.tif",
            (0.85, 0.95),
            [(1100, 600), (100, 100), (600, 2050), (500, 1900), (1550, 600), (30, 1000)],
            [(300, 1400), (120, 1600)],
        ),
    ],
)
def test_real_slides(name, fraction, tissue, empty):
    if not (SLIDES / name).exists():
        pytest.skip("the folder of real slides is not here")
    with Slide(SLIDES / name) as slide:
        mask = slide.tissue_mask()
        assert fraction[0] < mask.fraction < fraction[1]
        for points, expected in ((tissue, True), (empty, False)):
            for x, y in points:
                assert mask.pixels[int(y / mask.downsample_y), int(x / mask.downsample_x)] == expected, (x, y)
