"""Curves are those of scikit-learn, inside bands that are as wide as resamples say."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from wsidata.evaluation.bootstrap import units_of
from wsidata.evaluation.curves import calibration, kaplan_meier, precision_recall, roc
from wsidata.evaluation.weighted import calibration_error

RANDOM = np.random.default_rng(0)
POSITIVE = RANDOM.random(60) < 0.4
SCORE = (POSITIVE + RANDOM.normal(size=60)).round(1)
UNITS = units_of(None, POSITIVE.astype(np.int64), 60)


def test_areas_under_the_curves_are_the_scores() -> None:
    curve = roc(POSITIVE, SCORE, UNITS, resamples=50)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc_score(POSITIVE, SCORE))
    curve = precision_recall(POSITIVE, SCORE, UNITS, resamples=50)
    assert (np.diff(curve.x) * curve.y[1:]).sum() == pytest.approx(average_precision_score(POSITIVE, SCORE))


def test_the_band_is_the_percentiles_of_curves_of_resamples_written_out() -> None:
    from wsidata.evaluation.bootstrap import resample

    curve = roc(POSITIVE, SCORE, UNITS, resamples=40)
    heights = []
    for column in np.concatenate(list(resample(UNITS, 40, seed=0)), axis=1).T:
        rows = np.repeat(np.arange(60), column.astype(int))
        x, y, _ = roc_curve(POSITIVE[rows], SCORE[rows], drop_intermediate=False)
        heights.append([max(np.interp(place, x, y), y[x <= place + 1e-12].max()) for place in curve.places])
    expected = np.quantile(heights, [0.025, 0.975], axis=0)
    assert np.stack([curve.low, curve.high]) == pytest.approx(expected)


def test_calibration_curve_adds_up_to_the_calibration_error() -> None:
    confidence, right = RANDOM.random(50), (RANDOM.random(50) < 0.5).astype(float)
    found = calibration(confidence, right)
    error = (np.abs(found.confidence - found.share) * found.count).sum() / 50
    assert error == pytest.approx(calibration_error(confidence, right, np.ones((50, 1)))[0])
    assert found.count.sum() == 50


def test_kaplan_meier_is_that_of_scikit_survival() -> None:
    reference = pytest.importorskip("sksurv.nonparametric").kaplan_meier_estimator
    random = np.random.default_rng(0)
    time, event = random.integers(1, 30, 80).astype(float), random.random(80) < 0.6
    curve = kaplan_meier(time, event)
    places, survival, (low, high) = reference(event, time, conf_type="log-log")
    assert (curve.time[0], curve.survival[0]) == (0, 1)
    for ours, theirs in ((curve.time, places), (curve.survival, survival), (curve.low, low), (curve.high, high)):
        np.testing.assert_allclose(ours[1:], theirs)
    assert curve.censored.tolist() == sorted(time[~event])
    asked = np.array([0, 1, 7, 7.5, 29, 30])
    assert curve.at_risk(asked).tolist() == [(time >= place).sum() for place in asked]
