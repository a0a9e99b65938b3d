"""Validation of requested channels and scaling."""

import pytest

from wsidata.errors import UnsupportedImageError
from wsidata.formats.channels import PixelRequest, channel_numbers

NAMES = ("DAPI", "CD3", "DAPI")


def test_one_channel_need_not_be_a_list():
    assert PixelRequest.checked("DAPI", None).channels == ("DAPI",)
    assert PixelRequest.checked(2, None).channels == (2,)
    assert PixelRequest.checked(["a", 1], (0, 5)) == PixelRequest(("a", 1), (0, 5))
    assert hash(PixelRequest.checked(["a", 1], [0, 5])) == hash(PixelRequest(("a", 1), (0, 5)))  # lists, as from YAML
    assert PixelRequest.checked(None, None) == PixelRequest()


def test_no_channel_is_not_all_channels():
    with pytest.raises(ValueError, match=r"channels=\[\] names no channel"):
        PixelRequest.checked([], None)


@pytest.mark.parametrize("low_high", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_senseless_scales_are_refused(low_high):
    with pytest.raises(ValueError, match="low < high"):
        PixelRequest.checked(None, low_high)


def test_channels_are_found_in_the_requested_order():
    assert channel_numbers([2, "CD3", 0], NAMES, "a.tif") == (2, 1, 0)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [("DAPI", "is the name of several"), ("cd3", "does not exist"), (3, "does not exist"), (-1, "not exist")],
)
def test_others_are_refused_with_the_list(wrong, why):
    with pytest.raises(UnsupportedImageError, match=rf"'a\.tif': channel {wrong!r} .*{why}.*1: 'CD3'"):
        channel_numbers([wrong], NAMES, "a.tif")
