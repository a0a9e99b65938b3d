"""The survey of `setup`: every file is opened once, and not at all in the next run."""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pyvips

from wsidata import WSIDataModule
from wsidata.datamodules import survey
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.survey import SlideFacts, ThumbnailFact, survey_slides
from wsidata.errors import SpacingConflictWarning
from wsidata.formats.kept import KEPT
from wsidata.formats.resolution import Resolution
from wsidata.slides.file_facts import FileFacts
from wsidata.slides.masks import MaskError
from wsidata.slides.options import SlideOptions
from wsidata.slides.slide import Slide
from wsidata.slides.slide_file import SlideFile
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.methods import find_tissue, otsu_saturation
from wsidata.slides.tissue.packing import Packing
from wsidata.splits.near_duplicates import slide_thumbnail
from wsidata.synthetic.slides import write_slide
from wsidata.utils import same_file

TICK_S = 0.02
MASKS = {"label_column": "mask", "target": "mask", "class_names": ["light", "dark"], "mask_values": [0, 255]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test, and no structures of files that others opened."""
    monkeypatch.setenv("WSIDATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(same_file, "REST_NS", 0)
    KEPT.clear()
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch) -> Counter[str]:
    """How often each image was opened, by its name."""
    names: Counter[str] = Counter()
    system, slides = os.open, SlideFile._pyramid

    def open_file(path, *arguments, **options):
        names.update([os.path.basename(path)] if str(path).endswith(".tif") else [])
        return system(path, *arguments, **options)

    def open_slide(slide):
        names.update([slide.path.name] if slide.path.suffix != ".tif" else [])  # libvips opens files by itself
        return slides(slide)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(SlideFile, "_pyramid", open_slide)
    return names


@pytest.fixture
def images(camelyon, tmp_path) -> Path:
    """The slides of camelyon, to be changed."""
    return Path(shutil.copytree(camelyon / "images", tmp_path / "images"))


def module(camelyon: Path, **options) -> WSIDataModule:
    defaults = {"table": camelyon / "evaluation" / "reference.csv", "image_dir": camelyon / "images"}
    return WSIDataModule(**defaults | options, level=1, test_prefix="test_", num_workers=0, leak_checks=["thumbnail"])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tif"))


def table_of(*paths: Path) -> pd.DataFrame:
    return pd.DataFrame({"image_id": [path.stem for path in paths], "path": [str(path) for path in paths]})


@pytest.mark.parametrize("crop", [None, "pack"])
def test_setup_opens_every_slide_once_and_the_next_one_none(camelyon, opened, crop):
    results = []
    for times in (1, 0):
        opened.clear()
        dm = module(camelyon, crop=crop)
        dm.setup("fit")
        assert opened == Counter(names_in(camelyon / "images") * times)
        results.append((dm._packings, str(dm.leak_report), dm._survey.sizes.to_dict("records")))
    assert results[0] == results[1]
    assert (crop is None) == (results[0][0].popitem()[1] is None)


def test_masks_are_opened_once_and_their_slides_not_again(camelyon, tmp_path, opened):
    names = [name.removesuffix(".tif") for name in names_in(camelyon / "images")]
    for name in names:
        with Slide(camelyon / "images" / f"{name}.tif") as slide:
            pyvips.Image.black(slide.width, slide.height).write_to_file(str(tmp_path / f"{name}_mask.png"))
    table = pd.DataFrame({"image": names, "mask": [f"{name}_mask" for name in names]})
    KEPT.clear()
    expected = Counter([*names_in(camelyon / "images"), *(f"{name}_mask.png" for name in names)])
    for times in (1, 0):
        opened.clear()
        module(camelyon, table=table, mask_dir=tmp_path, **MASKS).setup("fit")
        assert opened == (expected if times else Counter())
    time.sleep(TICK_S)
    pyvips.Image.black(400, 900).write_to_file(str(tmp_path / f"{names[3]}_mask.png"))
    with pytest.raises(MaskError, match=rf"{names[3]}_mask.*has another shape"):
        module(camelyon, table=table, mask_dir=tmp_path, **MASKS).setup("fit")


def test_without_a_leak_check_no_thumbnail_is_made(camelyon, monkeypatch):
    def refuse(_):
        raise AssertionError("a thumbnail was made")

    monkeypatch.setattr("wsidata.datamodules.survey.thumbnail_of", refuse)
    module(camelyon, leaks="off").setup("fit")


def test_thumbnails_are_those_of_the_leak_check(camelyon):
    paths = [str(camelyon / "images" / name) for name in names_in(camelyon / "images")[:3]]
    table = table_of(*map(Path, paths))
    for _ in range(2):
        found = survey_slides(table, {"level": 1}, thumbnails=paths[:2]).thumbnails
        assert sorted(found) == paths[:2]
        assert all(np.array_equal(found[path], slide_thumbnail(path)) for path in found)


@pytest.mark.parametrize("text", ["", "no base64", "AAAA", ThumbnailFact.of(np.zeros((64, 64))).pixels])
def test_thumbnails_of_another_form_are_none(text):
    assert ThumbnailFact(text).array() is None


def test_a_slide_that_was_replaced_is_opened_again(camelyon, images, opened):
    first = module(camelyon, image_dir=images)
    first.setup("fit")
    changed = images / names_in(images)[0]
    write_slide(changed, width=800, height=900, tile=64, seed=9)
    opened.clear()
    again = module(camelyon, image_dir=images)
    again.setup("fit")
    assert opened == Counter([changed.name])
    row = again._survey.sizes.set_index("image_id").loc[changed.stem]
    assert (row["height_px"], row["width_px"]) == (450, 400)


def test_problems_are_found_again_each_time(camelyon, images):
    bad = images / names_in(images)[0]
    whole = bad.read_bytes()
    dm = module(camelyon, image_dir=images)
    errors = []
    bad.write_bytes(whole[:-3000])
    for _ in range(2):
        with pytest.raises(SlideCheckError, match=rf"1 problem[\s\S]*{bad.name}[\s\S]*cut off") as raised:
            dm.setup("fit")
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    bad.write_bytes(whole)
    dm.setup("fit")


def test_contradicting_resolutions_are_warned_of_in_every_run(tmp_path, opened):
    path = write_slide(tmp_path / "a.svs", width=300, height=200, tile=64, vendor="aperio", mpp=0.5)
    path.write_bytes(path.read_bytes().replace(b"MPP = 0.5", b"MPP = 0.4"))
    for _ in range(2):
        opened.clear()
        with pytest.warns(SpacingConflictWarning, match="pass mpp_override="):
            survey_slides(table_of(path), {"level": 0}, SlideOptions(0.25))
    assert not opened


def test_facts_depend_on_resolution_options_and_crop(camelyon, opened):
    path = camelyon / "images" / names_in(camelyon / "images")[0]
    ways = [
        ({"level": 0}, SlideOptions(0.5), None),
        ({"level": 1}, SlideOptions(0.5), None),
        ({"level": 1}, SlideOptions(0.5), TissueCrop("tissue")),
        ({"level": 1}, SlideOptions(0.5), TissueCrop("tissue", margin_px=3)),
        ({"level": 1}, SlideOptions(0.5), TissueCrop("tissue", method=otsu_saturation)),
        ({"level": 1}, SlideOptions(0.5), TissueCrop("tissue", method=functools.partial(otsu_saturation, close_px=9))),
    ]
    for times in (1, 0):
        opened.clear()
        for resolution, options, crop in ways:
            KEPT.clear()
            survey_slides(table_of(path), resolution, options, crop)
        assert opened[path.name] == times * len(ways)


def own_method(pixels):
    return find_tissue(pixels)


@pytest.mark.parametrize("method", [own_method, lambda pixels: own_method(pixels), functools.partial(own_method)])
def test_crops_by_a_method_of_ones_own_are_planned_in_every_run(camelyon, opened, method):
    path = camelyon / "images" / names_in(camelyon / "images")[0]
    for _ in range(2):
        opened.clear()
        found = survey_slides(table_of(path), {"level": 1}, crop=TissueCrop("pack", method=method))
        assert opened[path.name] == 1
        assert found.sizes["packing"][0] == TissueCrop("pack").plan(Slide(path), Resolution(1))


def test_a_damaged_cache_is_filled_again(camelyon, cache, opened):
    for _ in range(2):
        opened.clear()
        module(camelyon).setup("fit")
        assert len(opened) == 16
        for file in cache.rglob("*.json"):
            file.write_bytes(file.read_bytes()[:-50])


def test_one_file_formats_are_told_from_those_of_several(camelyon, tmp_path):
    photo = tmp_path / "photo.png"
    pyvips.Image.black(20, 30).write_to_file(str(photo))
    for path in (photo, camelyon / "images" / names_in(camelyon / "images")[0]):
        with Slide(path) as slide:
            assert slide.is_one_file


@dataclass
class EarlierFacts:
    """Facts about a slide as an earlier version wrote them, without its um per pixel."""

    size: tuple[int, int]
    image_size: tuple[int, int]
    samples: str
    channels: tuple[str, ...]
    conflicts: tuple[str, ...]
    packing: Packing | None


def test_facts_of_an_earlier_version_keep_their_crop_and_gain_the_spacing(camelyon, opened, monkeypatch):
    path = camelyon / "images" / names_in(camelyon / "images")[0]
    crop = TissueCrop("pack")
    found = survey_slides(table_of(path), {"level": 1}, crop=crop).sizes.to_dict("records")
    kept, name = FileFacts(path), survey._Questions(Resolution(1), SlideOptions(), crop).names[0]
    now = vars(kept.get(SlideFacts, name))
    assert now["mpp"] == tuple(2 * side for side in Slide(path).mpp)
    kept.put(name, EarlierFacts(**{key: value for key, value in now.items() if key != "mpp"}))
    kept.save()
    monkeypatch.setattr(TissueCrop, "plan", None)
    for times in (1, 0):
        KEPT.clear()
        opened.clear()
        assert survey_slides(table_of(path), {"level": 1}, crop=crop).sizes.to_dict("records") == found
        assert opened[path.name] == times
