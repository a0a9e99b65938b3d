import warnings
from functools import partial

import pandas as pd
import pytest
import pyvips
from views import glass

from wsidata import TileDataModule, WSIDataModule
from wsidata.datamodules.checks import (
    MixedSpacingWarning,
    SlideCheckError,
    check_batchable,
    check_slides,
    check_spacings,
    one_resolution,
)
from wsidata.datasets.slides import SlideDataset
from wsidata.formats.resolution import Resolution
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
    assert sizes.to_dict("records") == [{**row, "packing": None, "mpp": (1.0, 1.0)}]


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


@pytest.fixture(scope="module")
def of_two_scanners(tmp_path_factory):
    """Six slides of 0.25 um/px, two of 0.5 and two that state none, with a table of each."""
    folder = tmp_path_factory.mktemp("scanners")
    spacings = {f"s{number}": 0.25 if number < 6 else 0.5 if number < 8 else None for number in range(10)}
    for name, mpp in spacings.items():
        write_slide(folder / f"{name}.tif", width=260, height=200, mpp=mpp, tile=64, seed=int(name[1:]))
    frame = pd.DataFrame({"image": list(spacings), "class": ["a", "b"] * 5})
    return folder, frame[:8], frame[:6], frame.iloc[[*range(6), 8, 9]]


def said_of_spacing(dm, stage="fit"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dm.setup(stage)
    return [str(one.message) for one in caught if issubclass(one.category, MixedSpacingWarning)]


@pytest.mark.parametrize("kind", [WSIDataModule, partial(TileDataModule, tile_size=32, min_tissue=0)])
def test_levels_of_slides_of_different_spacing_are_warned_of(of_two_scanners, kind):
    folder, mixed, same, unstated = of_two_scanners
    make = partial(kind, image_dir=folder, num_workers=0, leaks="off")
    for how, read in (({"level": 1}, ("0.5", "1")), ({"downsample": 4.0}, ("1", "2"))):
        [said] = said_of_spacing(make(mixed, **how))
        assert f"'s0' has {read[0]} um/px, 's6' has {read[1]}." in said
        assert next(f"{name}={value}" for name, value in how.items()) in said
        assert said.endswith("Pass mpp= instead.")
        [said] = said_of_spacing(make(unstated, **how))
        assert f"2 of 8 state none ('s8', 's9'), and 's0' has {read[0]} um/px" in said
        assert "mpp_override=" in said
        assert said_of_spacing(make(same, **how)) == []
    assert said_of_spacing(make(mixed, mpp=1.0)) == []
    assert said_of_spacing(make(unstated, level=0, mpp_override=0.25)) == []


def test_spacing_of_up_to_five_percent_is_none():
    table = pd.DataFrame({"image_id": ["a", "b"], "mpp": [(0.25, 0.25), (0.2624, 0.25)]})
    check_spacings(table, Resolution(level=0))
    table["mpp"] = [(0.25, 0.25), (0.25, 0.2626)]
    for how in ({"level": 0}, {"magnification": 20}):
        with pytest.warns(MixedSpacingWarning, match=r"'a' has 0.25 um/px, 'b' has 0.2626"):
            check_spacings(table, Resolution(**how))
    for how in ({"mpp": 1.0}, {"max_side": 100}):
        check_spacings(table, Resolution(**how))


def test_slides_of_another_spacing_than_the_training_slides_are_warned_of(of_two_scanners):
    folder, mixed, same, _ = of_two_scanners
    make = partial(WSIDataModule, image_dir=folder, num_workers=0, leaks="off", image_size=64)
    trained = make(same, level=1)
    trained.setup("fit")
    state = trained.state_dict()
    assert state["mpp"] == [0.5, 0.5]
    again = make(same, level=1)
    again.setup("fit")
    again.load_state_dict(state)  # says nothing
    again.load_state_dict({name: value for name, value in state.items() if name != "mpp"})  # of an earlier version
    with pytest.warns(MixedSpacingWarning, match=r"of 0.25 to 0.3 um/px at level=1, and 6 of 6 .* 's0' with 0.5:"):
        again.load_state_dict(state | {"mpp": [0.25, 0.3]})
    meant = make(same, level=1, allow_changed=["resolution"])
    meant.setup("fit")
    meant.load_state_dict(state | {"mpp": [0.25, 0.3]})
    content = {"datamodule": state, "datamodule_hyper_parameters": {}}
    assert len(said_of_spacing(WSIDataModule.from_checkpoint(content, folder, leaks="off"), "predict")) == 2
    restored = WSIDataModule.from_checkpoint(content, mixed[6:], folder)
    assert len(said_of_spacing(restored, "predict")) == 1
    by_spacing = make(same, mpp=1.0)
    by_spacing.setup("fit")
    assert "mpp" not in by_spacing.state_dict()
