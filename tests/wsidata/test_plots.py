import numpy as np
import pandas as pd
import torch

from wsidata.formats.levels import Level
from wsidata.plots import displayable, overlay_masks, plot_images, plot_spacing, plot_split, spread_over_classes
from wsidata.slides.info import SlideInfo


def test_classes_are_shown_in_turn():
    assert spread_over_classes([0, 0, 0, 1, 2, 2], 5) == [0, 3, 4, 1, 5]
    assert spread_over_classes([1], 8) == [0]


def test_bytes_and_floats_look_the_same():
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    np.testing.assert_allclose(displayable(pixels), displayable(pixels / 255), atol=1e-6)
    assert displayable(pixels).shape == (20, 30, 3)


def test_large_pictures_are_averaged_down():
    pixels = torch.zeros(3, 1000, 2000, dtype=torch.uint8)
    pixels[:, :, ::2] = 200
    shown = displayable(pixels)
    assert shown.shape == (192, 384, 3)
    assert abs(float(shown.mean()) - 100 / 255) < 0.01


def test_figure_has_a_titled_axis_per_picture_and_can_be_saved(tmp_path):
    images = [torch.zeros(3, 10, 10 + i, dtype=torch.uint8) for i in range(5)] + [torch.ones(1, 4, 4)]
    titles = [f"slide_{i}\nnormal" for i in range(5)] + ["a" * 40 + "_end"]
    figure = plot_images(images, titles, "six")
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown[:5]] == titles[:5]
    assert shown[5].get_title().endswith("aaa_end")
    assert len(shown[5].get_title()) == 28
    assert figure.get_suptitle() == "six"
    figure.savefig(tmp_path / "six.png")
    assert (tmp_path / "six.png").stat().st_size > 1000


def test_balance_is_drawn_as_shares_with_counts(tmp_path):
    table = pd.DataFrame(
        {"split": ["train"] * 8 + ["val"] * 4, "label_name": ["2"] * 6 + ["10"] * 2 + ["2"] * 3 + ["10"]}
    )
    figure = plot_split(table)
    assert [axis.get_title() for axis in figure.axes] == ["train: 8 slides", "val: 4 slides"]
    assert [[bar.get_width() for bar in axis.patches] for axis in figure.axes] == [[75, 25], [75, 25]]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["2", "10"]
    assert {text.get_text() for axis in figure.axes for text in axis.texts} == {"6", "2", "3", "1"}


def slide(mpp, source, levels=3):
    steps = [2.0**i for i in range(levels)]
    pyramid = tuple(Level(i, 8, 8, s, s, None if mpp is None else (mpp * s,) * 2) for i, s in enumerate(steps))
    return SlideInfo("s", "svs", "libvips", pyramid, None if mpp is None else (mpp, mpp), source)


def test_spacing_is_drawn_per_level_and_source():
    slides = [
        slide(0.25, "Aperio"),
        slide(0.5, "OME-XML", 2),
        slide(0.25, "Aperio"),
        slide(None, None),
        SlideInfo("x", error="no"),
    ]
    axis = plot_spacing(slides, mpp=1.0).axes[0]
    assert axis.get_title() == "3 slides; 1 without spacing, 1 unreadable"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["Aperio (2)", "OME-XML (1)", "1 um/px"]
    drawn = [list(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) > 1][:3]
    assert drawn == [[0.25, 0.5, 1.0], [0.5, 1.0], [0.25, 0.5, 1.0]]
    assert plot_spacing([slide(None, None)]).axes[0].get_title().startswith("0 slides")


def test_masks_lie_over_their_pictures_with_a_legend():
    figure = plot_images([torch.zeros(3, 20, 30, dtype=torch.uint8)] * 2, ["a", "b"])
    mask = torch.zeros(20, 30, dtype=torch.int64)
    mask[:5], mask[5:9] = 1, -100
    overlay_masks(figure, [mask, torch.zeros(20, 30, dtype=torch.int64)], ["background", "tumor"])
    first, second = (axis.images[1].get_array() for axis in figure.axes)
    assert (first[10:, :, 3] == 0).all()
    assert (first[:9, :, 3] > 0).all()
    assert (second[..., 3] == 0).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tumor", "no class"]
