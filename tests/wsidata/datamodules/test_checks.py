import pandas as pd
import pytest
import pyvips
from views import glass

from wsidata import WSIDataModule
from wsidata.datamodules.checks import SlideCheckError, check_batchable, check_slides, one_resolution
from wsidata.datasets.slides import SlideDataset
from wsidata.slides.options import SlideOptions
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.splits.unreadable import SkipWarning
from wsidata.synthetic.slides import write_slide
from wsidata.transforms import CropOrPad


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
    assert sizes.to_dict("records") == [{**row, "packing": None}]


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


@pytest.fixture(scope="module")
def with_glass(tmp_path_factory):
    """A table of ten slides, of which the last and the third last show empty glass."""
    folder = tmp_path_factory.mktemp("glass")
    for number in range(10):
        write_slide(folder / f"s{number}.tif", width=320, height=256, mpp=8.0, levels=1, tile=64, seed=number)
    for number in (7, 9):
        pyvips.Image.new_from_array(glass((256, 320))).tiffsave(str(folder / f"s{number}.tif"), tile=True)
    names = [f"s{number}" for number in range(10)]
    pd.DataFrame({"image": names, "class": ["a", "b"] * 5}).to_csv(folder / "table.csv", index=False)
    return folder


def cropped(folder, **options):
    arguments = {"level": 0, "crop": "tissue", "val_ids": ["s0", "s1"], "num_workers": 0, "leaks": "off", **options}
    return WSIDataModule(folder / "table.csv", folder, **arguments)


def test_slides_without_tissue_are_all_named_before_training(with_glass):
    with pytest.raises(SlideCheckError, match=r"(?s)has 2 problems.*s7.tif: NoTissueError.*s9.tif: NoTissueError"):
        cropped(with_glass).setup("fit")
    cropped(with_glass, crop=None).setup("fit")
    cropped(with_glass, crop=TissueCrop("pack", on_empty="whole")).setup("fit")


def test_slides_without_tissue_can_be_left_out(with_glass):
    dm = cropped(with_glass, on_error="skip")
    with pytest.warns(
        SkipWarning, match=r"(?s)2 of 10 images cannot be read.*'s7': .*no tissue that find_tissue finds"
    ):
        dm.setup("fit")
    assert dm.skipped["image_id"].tolist() == ["s7", "s9"]
    assert sum(len(dm.tables[part]) for part in ("train", "val", "test")) == 8


def test_crops_are_planned_once(with_glass, monkeypatch):
    dm = cropped(with_glass, on_error="skip")
    with pytest.warns(SkipWarning):
        dm.setup("fit")
    expected = SlideDataset(dm.tables["train"], {"level": 0}, CropOrPad(32), crop="tissue").packing(1)
    monkeypatch.setattr(TissueCrop, "plan", None)
    dataset = dm.datasets["train"]
    assert dataset.packing(1) == expected
    assert dataset[1][0].shape[1:] == (expected.height, expected.width)
