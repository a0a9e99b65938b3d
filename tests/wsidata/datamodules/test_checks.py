import pandas as pd
import pytest

from wsidata.datamodules.checks import SlideCheckError, check_batchable, check_slides, one_resolution
from wsidata.slides.options import SlideOptions
from wsidata.synthetic.slides import write_slide


def table(*paths):
    return pd.DataFrame({"image_id": [path.stem for path in paths], "path": [str(path) for path in paths]})


def test_exactly_one_resolution_is_asked_for():
    assert one_resolution(level=0, mpp=None) == {"level": 0}
    with pytest.raises(ValueError, match=r"exactly one of level=, mpp=.*\(got none\)"):
        one_resolution(level=None, mpp=None)
    with pytest.raises(ValueError, match=r"got level=1, mpp=2.0"):
        one_resolution(level=1, mpp=2.0)


def test_sizes_are_those_at_the_resolution(tmp_path):
    path = write_slide(tmp_path / "a.tif", width=300, height=200, tile=64)
    sizes = check_slides(table(path), {"level": 1})
    names = ("red", "green", "blue")
    row = {"image_id": "a", "height_px": 100, "width_px": 150, "samples": "uchar", "channels": names}
    assert sizes.to_dict("records") == [row]


def test_every_bad_slide_is_named_with_its_reason(tmp_path):
    good = write_slide(tmp_path / "good.tif", width=300, height=300, tile=64, mpp=None)
    flat = write_slide(tmp_path / "flat.tif", width=300, height=300, tile=64, levels=1)
    cut = write_slide(tmp_path / "cut.tif", width=300, height=300, tile=64)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    text = tmp_path / "text.tif"
    text.write_text("no image")
    with pytest.raises(SlideCheckError) as error:
        check_slides(table(good, flat, cut, text), {"level": 1})
    message = str(error.value)
    assert "'slides read at level=1' has 3 problems" in message
    assert "flat.tif: UnknownLevelError" in message
    assert "cut.tif: UnreadableImageError" in message
    assert "text.tif: UnreadableImageError" in message
    assert "good.tif" not in message
    with pytest.raises(SlideCheckError, match=r"good.tif: SpacingUnknownError.*mpp_override"):
        check_slides(table(good), {"mpp": 1.0})
    assert len(check_slides(table(good), {"mpp": 1.0}, SlideOptions(mpp_override=0.5))) == 1


def sizes(*rows):
    return pd.DataFrame(rows, columns=["image_id", "height_px", "width_px"])


def test_batches_need_equal_squares():
    check_batchable(sizes(("a", 5, 5), ("b", 5, 5)), 2)
    check_batchable(sizes(("a", 5, 5), ("b", 5, 6)), 1)
    for other in (("b", 6, 6), ("b", 5, 6)):
        with pytest.raises(SlideCheckError, match=r"'a' is 5 x 5 px, 'b' is .*Pass image_size="):
            check_batchable(sizes(("a", 5, 5), other), 2)
    with pytest.raises(SlideCheckError, match="only squares keep their shape"):
        check_batchable(sizes(("a", 5, 6), ("b", 5, 6)), 2)
