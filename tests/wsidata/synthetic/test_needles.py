"""Canvases of digits hold what they say, and nothing but the shape of a digit tells the label."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsidata.synthetic.needles import DIGIT_PX, draw_needles


def test_canvases_hold_the_digits_they_name():
    quiet = draw_needles(60, side_px=64, digits=6, part="train", seed=5, noise=0.0)
    scans = load_digits()
    ink = scans.images / scans.images.mean(axis=(1, 2), keepdims=True)
    for image, label, corners in zip(quiet.images, quiet.labels, quiet.corners, strict=True):
        names = []
        for column, row in corners:
            found = image[row : row + DIGIT_PX, column : column + DIGIT_PX].astype(float) - 70
            nearest = np.abs(ink - found / found.mean()).mean(axis=(1, 2)).argmin()
            assert nearest < 0.6 * len(ink)  # writers of the training part
            names.append(scans.target[nearest])
            assert found.mean() == pytest.approx(36, abs=1)
        assert [name == 7 for name in names] == [bool(label), *[False] * 5]
        gaps = np.abs(corners[:, None] - corners[None]).max(axis=2) + 99 * np.eye(6)
        assert gaps.min() > DIGIT_PX
        assert (image != 70).sum() <= 6 * DIGIT_PX**2
    assert 15 < quiet.labels.sum() < 45


def test_a_canvas_depends_on_seed_and_number_alone():
    few, more = (draw_needles(n, side_px=48, digits=3, part="val", seed=2) for n in (3, 5))
    assert (few.images == more.images[:3]).all()
    assert (few.labels == more.labels[:3]).all()
    assert (draw_needles(3, side_px=48, digits=3, part="val", seed=3).images != few.images).any()


def test_digits_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"4 digits do not fit on a canvas of 24 x 24.*Use 1 to 2"):
        draw_needles(1, side_px=24, digits=4, part="train", seed=0)
    with pytest.raises(ValueError, match="part"):
        draw_needles(1, side_px=48, digits=3, part="dev", seed=0)


@pytest.mark.slow
def test_brightness_does_not_tell_the_label():
    drawn = draw_needles(1200, side_px=48, digits=4, part="train", seed=1)
    means = drawn.images.reshape(1200, -1).mean(axis=1, keepdims=True)
    thumbnails = drawn.images.reshape(1200, 12, 4, 12, 4).mean(axis=(2, 4)).reshape(1200, -1)
    histograms = np.stack([np.histogram(one, bins=24, range=(40, 160))[0] for one in thumbnails])
    for numbers in (means, histograms):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
        found = cross_val_predict(model, numbers, drawn.labels, cv=5, method="predict_proba")[:, 1]
        assert abs(roc_auc_score(drawn.labels, found) - 0.5) < 0.05  # three standard errors
