import numpy as np
import torch

from wsidata.plots import displayable, plot_images, spread_over_classes


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
