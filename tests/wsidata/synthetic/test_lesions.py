"""Slides with lesions say truly what is on them, and show their class in the texture of nuclei alone."""

import numpy as np
import pandas as pd
import pytest
import shapely

from wsidata.annotations import Annotations
from wsidata.slides.slide import Slide
from wsidata.synthetic import write_micrometastases
from wsidata.synthetic.lesions.cells import nuclei
from wsidata.synthetic.lesions.relations import _area, _distance, _invasion


def read_all(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lesions_of(folder, row):
    return [one.shape for one in Annotations.read(folder / "annotations" / f"{row.image[:-4]}.xml").outlines]


@pytest.fixture(scope="module")
def metastases(tmp_path_factory):
    return write_micrometastases(tmp_path_factory.mktemp("m"), slides=4, side_px=512, lesion_share=(0.02, 0.03), seed=3)


@pytest.mark.slow
def test_table_outlines_and_pixels_of_metastases_agree(metastases, tmp_path):
    table = pd.read_csv(metastases / "slides.csv")
    assert table.label.tolist() == ["negative", "positive"] * 2
    assert table.groupby("patient").site.nunique().max() == 1
    for row in table.itertuples():
        with Slide(metastases / "images" / row.image) as slide:
            assert (slide.width, slide.mpp, slide.level_count) == (512, (0.5, 0.5), 2)
            tissue = np.asarray(slide.numpy(mpp=4.0)).std(axis=2)
        assert row.tissue_share == pytest.approx((tissue > 12).mean(), rel=0.1)
        assert (metastases / "annotations" / f"{row.image[:-4]}.xml").exists() == (row.label == "positive")
        if row.label == "positive":
            area = sum(one.area for one in lesions_of(metastases, row))
            assert area / 512**2 / row.tissue_share == pytest.approx(row.lesion_share, rel=1e-4)
            assert 0.019 < row.lesion_share < 0.031
            assert row.lesions == len(lesions_of(metastases, row))
        else:
            assert (row.lesions, row.lesion_share) == (0, 0)
    again = write_micrometastases(tmp_path, slides=2, side_px=512, lesion_share=(0.02, 0.03), seed=3)
    first, second = read_all(metastases), read_all(again)
    assert all(first[name] == content for name, content in second.items() if name != "slides.csv")
    assert len(second) == 4


@pytest.mark.parametrize("is_positive", [False, True])
@pytest.mark.parametrize("rule", ["area", "distance", "invasion"])
def test_labels_of_relations_are_true(rule, is_positive):
    draw = {"area": _area, "distance": _distance, "invasion": _invasion}[rule]
    drawn = [draw(is_positive, 1024, 0.1, np.random.default_rng(seed)) for seed in range(12)]
    assert sum(scene is not None for scene in drawn) > 2
    for scene in filter(None, drawn):
        lesions = [shapely.Polygon(one.ring) for one in scene.lesions]
        patches = [shapely.Polygon(one.ring) for one in scene.patches]
        assert all(one.distance(other) > 5 for number, one in enumerate(patches) for other in patches[:number])
        if rule == "area":
            assert (len(lesions), len(patches)) == (12, 24)
            share = sum(one.area for one in lesions) / sum(one.area for one in patches)
            assert (share > 0.5) == is_positive
            assert abs(share - 0.5) > 0.02
        elif rule == "distance":
            assert (len(lesions), len(patches)) == (2, 8)
            apart = lesions[0].centroid.distance(lesions[1].centroid) / 1024
            assert apart < 0.13 if is_positive else apart > 0.22
        else:
            assert len(patches) == 2 * len(lesions)
            y, x = np.mgrid[: len(scene.edge), : len(scene.edge)] * scene.cell_px + scene.cell_px / 2
            for one in lesions:
                away = np.hypot(x - one.centroid.x, y - one.centroid.y)
                fat, glands = (away[scene.types[kind] > 0.5].min() for kind in ("fat", "glands"))
                assert (fat < glands) == is_positive
                assert min(fat, glands) > 0.05 * 1024


def test_nuclei_differ_in_the_order_of_their_pixels_alone():
    mimics, lesions = nuclei(1.0, 32)
    assert (np.sort(mimics.reshape(32, -1)) == np.sort(lesions.reshape(32, -1))).all()
    assert (mimics != lesions).any(axis=(1, 2)).all()
