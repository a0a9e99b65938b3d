from dataclasses import replace

import pandas as pd
import pytest

from wsidata import WSIDataModule
from wsidata.hub.export.journal import content_key
from wsidata.hub.export.plan import leading_crop, pixel_settings, plan_export
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.methods import otsu_saturation
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.compose import Compose, OneOf
from wsidata.transforms.geometry.affine import RandomD4
from wsidata.transforms.geometry.crop import CropOrPad


def module(folder, **options):
    options = {"image_dir": folder / "images", "test_prefix": "test_", "level": 1, "image_size": 64} | options
    return WSIDataModule(options.pop("table", folder / "evaluation" / "reference.csv"), **{"num_workers": 0} | options)


@pytest.mark.parametrize(
    ("transform", "found"),
    [
        (CropOrPad(8), True),
        (Compose([CropOrPad(8), RandomD4()]), True),
        (Compose([Compose([CropOrPad(8)]), RandomD4()]), True),
        (CropOrPad(8, position="random"), False),
        (Compose([RandomD4(), CropOrPad(8)]), False),
        (Compose([]), False),
        (OneOf([CropOrPad(8)]), False),
        (as_transform(lambda image: image), False),
    ],
)
def test_only_a_deterministic_leading_crop_is_applied(transform, found):
    assert (leading_crop(transform) is not None) == found


def test_places_are_safe_and_distinct_and_folders_small(camelyon):
    plan = plan_export(module(camelyon))
    assert plan.rows["place"].str.fullmatch(r"[a-z]+/images/\d{5}/[A-Za-z0-9_-]+").all()
    from wsidata.hub.export import plan as export_plan

    names = ["a b/c", "a_b_c", "A_B_C", "ä", "ö", "", "x" * 300]
    rows = pd.DataFrame({"image_id": names, "split": "train"})
    places = export_plan._places(rows)
    assert len({place.lower() for place in places}) == len(names)
    assert max(map(len, places)) < 150
    many = export_plan._places(pd.DataFrame({"image_id": [str(number) for number in range(2500)], "split": "test"}))
    assert {place.split("/")[2] for place in many} == {"00000", "00001", "00002"}


def test_published_facts_name_no_source(camelyon):
    manifest = plan_export(module(camelyon, group_column=None)).manifest
    text = repr((manifest.arguments, manifest.transforms, manifest.crop, manifest.versions))
    assert str(camelyon) not in text
    assert "reference" not in text
    assert manifest.arguments["image_size"] == [64, 64]
    assert manifest.arguments["dtype"] == "uint8"
    assert manifest.versions["libvips"].count(".") == 2


def test_pixels_depend_on_crop_code_and_libraries(camelyon):
    def plan_of(method, **options):
        return plan_export(module(camelyon, crop=TissueCrop("tissue", method=method), **options))

    def key(plan):
        return content_key([], pixel_settings(plan, plan.splits[0]))

    first = plan_of(lambda pixels: pixels[..., 0] < 200)
    assert key(first) == key(plan_of(lambda pixels: pixels[..., 0] < 200))
    assert key(first) != key(plan_of(lambda pixels: pixels[..., 0] < 201))
    assert key(first) != key(plan_of(otsu_saturation))
    for name in ("libvips", "resampling"):
        assert name in first.manifest.versions
        older = replace(first.manifest, versions={**first.manifest.versions, name: "1"})
        assert key(first) != key(replace(first, manifest=older))
    assert key(first) != key(plan_of(lambda pixels: pixels[..., 0] < 200, level=2))
    assert key(first) == key(plan_of(lambda pixels: pixels[..., 0] < 200, seed=3, batch_size=5))


def test_skipped_slides_are_left_out(camelyon, tmp_path):
    import shutil

    shutil.copytree(camelyon, tmp_path / "c")
    (tmp_path / "c" / "images" / "tumor_003.tif").write_bytes(b"nothing")
    dm = module(tmp_path / "c", on_error="skip")
    with pytest.warns(UserWarning, match="tumor_003"):
        plan = plan_export(dm)
    assert "tumor_003" not in set(plan.rows["image_id"])
    assert plan.rows["row"].tolist() == list(range(15))
    assert sum(len(split.places) for split in plan.splits) == 15
