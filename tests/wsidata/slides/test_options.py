import pickle

import pytest

from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.synthetic.slides import write_slide


def test_slides_are_opened_as_the_options_say(tmp_path):
    path = write_slide(tmp_path / "a.tif", width=200, height=100, tile=64, mpp=0.5)
    with Slide.from_options(path, AS_STORED) as slide:
        assert (slide.channel_names, slide.mpp, slide.background) == (("red", "green", "blue"), (0.5, 0.5), 255)
    options = pickle.loads(pickle.dumps(SlideOptions(mpp_override=(0.5, 0.51), channels=["blue", 0])))
    with Slide.from_options(path, options) as slide:
        assert (slide.channel_names, slide.mpp, slide.background) == (("blue", "red"), (0.5, 0.51), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mpp_override": 0.0}, "mpp_override=0.0 must be a finite number"),
        ({"channels": []}, "names no channel"),
        ({"scale_to_8bit": (5, 5)}, "low < high"),
        ({"channels": [0], "apply_icc": True}, "apply_icc=True is for RGB slides"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_slide_is_opened(options, message):
    with pytest.raises(ValueError, match=message):
        SlideOptions(**options)


def test_tissue_by_color_needs_colors():
    AS_STORED.check_crop(TissueCrop("pack"))
    SlideOptions(channels=[0]).check_crop(None)
    with pytest.raises(ValueError, match=r"crop='tissue' cannot be found by color.*method="):
        SlideOptions(channels=[0]).check_crop(TissueCrop("tissue"))
