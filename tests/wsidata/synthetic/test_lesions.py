"""Slides with lesions say truly what is on them, and show their class in the texture of nuclei alone."""

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import simplejpeg
import tifffile
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsidata.annotations import Annotations
from wsidata.slides.slide import Slide
from wsidata.synthetic import write_micrometastases, write_relations
from wsidata.synthetic.lesions.cells import nuclei
from wsidata.synthetic.lesions.looks import draw_look
from wsidata.synthetic.lesions.paint import Painter
from wsidata.synthetic.lesions.pyramid import write_blocks
from wsidata.synthetic.lesions.relations import _area, _distance, _invasion
from wsidata.synthetic.lesions.scene import Patch, Scene


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


@pytest.mark.slow
@pytest.mark.parametrize("is_positive", [False, True])
@pytest.mark.parametrize("rule", ["area", "distance", "invasion"])
def test_labels_of_relations_are_true(rule, is_positive):
    draw = {"area": _area, "distance": _distance, "invasion": _invasion}[rule]
    drawn = [draw(is_positive, 1024, 0.1, np.random.default_rng(seed)) for seed in range(8)]
    assert sum(scene is not None for scene in drawn) > 1
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


def small_scene(is_lesion, seed=0):
    edge = np.full((40, 40), 500, dtype=np.float32)
    patch = Patch(160, 160, 80_000.0, np.zeros((4, 2)), is_lesion, seed)
    return Scene(320, 8, edge, {}, np.ones_like(edge), [patch], seed)


def test_lesions_and_mimics_are_alike_once_shrunk_and_not_before():
    """Pairs of one scene: fine contrast differs much at 0.5 um/px; colors do not, nor does anything at 4 um/px."""
    fine, coarse, colors = [], [], []
    for seed in range(6):
        look = draw_look(seed, 0, np.random.default_rng(seed))
        pair = [Painter(small_scene(kind, seed), look, 1.0)(48, 48, 224) for kind in (False, True)]
        stored = [simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(one, 90, "RGB", "420")) for one in pair]
        colors.append(stored[1].mean((0, 1)) - stored[0].mean((0, 1)))
        for found, shrunk in ((fine, 1), (coarse, 8)):
            gray = [cv2.resize(one, None, fx=1 / shrunk, fy=1 / shrunk, interpolation=cv2.INTER_AREA) for one in stored]
            spread = [cv2.Laplacian(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), cv2.CV_32F).std() for one in gray]
            found.append(np.log(spread[1] / spread[0]))
    assert np.abs(colors).max() < 0.4  # of 255
    assert np.min(np.abs(fine)) > 0.05
    assert len(set(np.sign(fine))) == 1
    assert np.abs(np.mean(coarse)) < 0.03


@pytest.mark.slow
def test_colors_of_slides_and_thumbnails_do_not_tell_the_class(tmp_path):
    write_micrometastases(tmp_path, slides=200, side_px=512, lesion_share=(0.02, 0.03), seed=5)
    table = pd.read_csv(tmp_path / "slides.csv")
    is_positive = (table.label == "positive").to_numpy()
    pixels = [tifffile.imread(tmp_path / "images" / name, key=0) for name in table.image]
    means = [np.concatenate([one.mean((0, 1)), one.std((0, 1))]) for one in pixels]
    thumbnails = [cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA) for one in pixels]
    histograms = [
        np.concatenate([np.histogram(one[..., band], 16, (0, 256))[0] for band in range(3)]) for one in thumbnails
    ]
    for features in (means, histograms):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000))
        folds = GroupKFold(10)
        scores = cross_val_predict(
            model, np.array(features), is_positive, groups=table.patient, cv=folds, method="decision_function"
        )
        error = np.sqrt(201 / (12 * 100 * 100))  # of the AUROC, where nothing is known: Mann and Whitney, 1947
        assert abs(roc_auc_score(is_positive, scores) - 0.5) < 2.5 * error


def test_neighboring_squares_of_a_scene_fit_together():
    painter = Painter(small_scene(True), draw_look(0, 0, np.random.default_rng(0)), 1.0)
    whole = painter(0, 0, 256).astype(int)
    for left, top, side in ((0, 0, 128), (128, 64, 64), (100, 90, 156)):
        part = painter(left, top, side).astype(int)
        assert np.abs(part - whole[top : top + side, left : left + side]).max() <= 2


@pytest.mark.slow
def test_pyramids_of_blocks_hold_what_was_painted(tmp_path):
    y, x = np.mgrid[:2048, :2048]
    smooth = np.stack([x // 9, y // 9, (x + y) // 18], axis=2).astype(np.uint8)

    def paint(left, top, side):
        return None if (left, top) == (1024, 0) else smooth[top : top + side, left : left + side]

    write_blocks(tmp_path / "a.tif", 2048, paint, glass=(240, 241, 242), quality=95)
    expected = smooth.copy()
    expected[:1024, 1024:] = (240, 241, 242)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        sides = [page.shape[0] for page in tiff.pages]
        assert sides == [2048, 1024, 512, 256]
        for page in tiff.pages:
            shrunk = cv2.resize(expected, page.shape[:2], interpolation=cv2.INTER_AREA)
            assert cv2.absdiff(page.asarray(), shrunk).mean() < 2
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"side_px": 1000}, "multiple of 1024"),
        ({"finest_um": 0.3}, "finest_um"),
        ({"lesion_share": (0.0001, 0.01)}, "smaller than one cell"),
        ({"lesion_share": (0.03, 0.01)}, "in order"),
        ({"lesions": (0, 2)}, "lesions"),
        ({"slides": 0}, "slides=0"),
        ({"lesion_share": (0.1, 0.2), "mimics": (30, 30)}, "found no room"),
    ],
)
def test_impossible_metastases_are_refused(arguments, what, tmp_path):
    with pytest.raises(ValueError, match=what):
        write_micrometastases(tmp_path, **arguments)


def test_impossible_relations_are_refused(tmp_path):
    with pytest.raises(ValueError, match="smaller than one cell"):
        write_relations(tmp_path, "area", side_px=512)
    with pytest.raises(ValueError, match="rule"):
        write_relations(tmp_path, "size")
    with pytest.raises(ValueError, match="patch_share"):
        write_relations(tmp_path, "area", patch_share=0.5)
