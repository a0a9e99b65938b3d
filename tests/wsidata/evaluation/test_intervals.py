"""Scores with intervals, compared with scikit-learn on the images and on resamples written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from numpy.typing import NDArray

from wsidata.evaluation import PredictionError, prediction_table, quadratic_kappa, scores_with_intervals
from wsidata.evaluation.bootstrap import resample, units_of
from wsidata.evaluation.scored import task_of
from wsidata.evaluation.weighted import calibration_error, concordance, pearson, r_squared, ranking
from wsidata.evaluation.weighted import quadratic_kappa as weighted_kappa


def table(images: int, classes: int, seed: int = 0, split: str = "test") -> pd.DataFrame:
    """Predictions that are right more often than not; probabilities are rounded, so that some are equal."""
    random = np.random.default_rng(seed)
    names = [f"c{number}" for number in range(classes)]
    label = np.arange(images) % classes
    scores = random.normal(size=(images, classes))
    scores[np.arange(images), label] += 1.2
    probabilities = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).round(2)
    probabilities[:, 0] = (1 - probabilities[:, 1:].sum(axis=1)).clip(0, 1)
    best = probabilities.argmax(axis=1)
    frame = pd.DataFrame({"image": [f"image {number}" for number in range(images)], "split": split})
    frame["label"], frame["predicted"] = [names[k] for k in label], [names[k] for k in best]
    frame[[f"probability_{name}" for name in names]] = probabilities
    return frame


def regression_table(images: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(0)
    truth = random.normal(size=images)
    frame = pd.DataFrame({"image": [f"i{number}" for number in range(images)], "split": "val"})
    return frame.assign(label=[repr(float(number)) for number in truth], value_age=truth + random.normal(size=images))


def values(predictions: pd.DataFrame, target: str = "", **options: Any) -> pd.DataFrame:
    found = scores_with_intervals(predictions, **options)
    return found[found["target"] == target].set_index("score")


def test_scores_of_two_classes_are_those_of_scikit_learn() -> None:
    predictions = table(61, 2)
    truth, called = predictions["label"] == "c1", predictions["predicted"] == "c1"
    probability = predictions["probability_c1"]
    expected = {
        "accuracy": sk.accuracy_score(truth, called),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, called),
        "auroc": sk.roc_auc_score(truth, probability),
        "average_precision": sk.average_precision_score(truth, probability),
        "sensitivity": sk.recall_score(truth, probability >= 0.5),
        "specificity": sk.recall_score(~truth, probability < 0.5),
        "brier": sk.brier_score_loss(truth, probability),
    }
    found = values(predictions)
    assert found.loc[list(expected), "value"].to_dict() == pytest.approx(expected, abs=1e-12)
    assert found.index[found["low"].isna()].tolist() == ["calibration_error"]
    assert found.loc["calibration_error", "note"].startswith("no interval: biased with so few images")
    assert (found["low"].dropna() < found["value"].drop("calibration_error")).all()
    assert (found["value"].drop("calibration_error") < found["high"].dropna()).all()


def test_scores_of_many_classes_are_those_of_scikit_learn_over_the_classes_that_have_images() -> None:
    predictions = table(60, 5).assign(probability_none=0.0)  # a class without images
    truth = pd.get_dummies(predictions["label"]).to_numpy()
    probability = predictions[[f"probability_c{k}" for k in range(5)]].to_numpy()
    found = values(predictions, resamples=50)["value"]
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, probability, average="macro"))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth, probability))
    assert found["brier"] == pytest.approx(((truth - probability) ** 2).sum(axis=1).mean())
    one = values(predictions, "c3", resamples=50)["value"]
    assert one["auroc"] == pytest.approx(sk.roc_auc_score(truth[:, 3], probability[:, 3]))
    assert one["sensitivity"] == pytest.approx((predictions["predicted"] == "c3")[truth[:, 3]].mean())
    assert one["specificity"] == pytest.approx((predictions["predicted"] != "c3")[~truth[:, 3]].mean())
    absent = scores_with_intervals(predictions, resamples=50).query("target == 'none'").set_index("score")
    assert absent.loc["auroc", "note"] == "undefined: no image of 'none'"
    assert absent.loc["specificity", "low"] == pytest.approx(0.025 ** (1 / 60))  # Clopper and Pearson, 60 of 60


def test_scores_of_labels_and_numbers_are_those_of_scikit_learn() -> None:
    predictions = table(50, 2).drop(columns="predicted")
    predictions["label"] = np.where(predictions.index % 3 == 0, "c0; c1", predictions["label"])
    predictions.loc[:4, "label"] = "none"
    truth = predictions["label"].str.contains("c0").to_numpy()
    found = values(predictions, "c0", task="multilabel", resamples=50)["value"]
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, predictions["probability_c0"]))
    numbers = regression_table()
    true, predicted = numbers["label"].astype(float), numbers["value_age"]
    expected = {
        "mae": sk.mean_absolute_error(true, predicted),
        "rmse": sk.root_mean_squared_error(true, predicted),
        "r2": sk.r2_score(true, predicted),
        "pearson": np.corrcoef(true, predicted)[0, 1],
    }
    assert values(numbers, "age")["value"].to_dict() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (lambda y, p, c: ranking(y > 0.5, p, c)[0], lambda y, p: sk.roc_auc_score(y > 0.5, p)),
        (lambda y, p, c: ranking(y > 0.5, p, c)[1], lambda y, p: sk.average_precision_score(y > 0.5, p)),
        (r_squared, sk.r2_score),
        (pearson, lambda y, p: np.corrcoef(y, p)[0, 1]),
    ],
    ids=["auroc", "average precision", "r2", "pearson"],
)
def test_scores_of_resamples_are_those_of_the_repeated_rows(
    fast: Callable[..., NDArray[Any]], slow: Callable[..., float]
) -> None:
    random = np.random.default_rng(1)
    truth, score = random.random(40), random.random(40).round(1)
    counts = next(resample(units_of(None, (truth > 0.5).astype(np.int64), 40), 30, seed=3))
    assert (counts.sum(axis=0) == 40).all()
    assert (counts[truth > 0.5].sum(axis=0) == (truth > 0.5).sum()).all()
    repeated = [np.repeat(np.arange(40), column.astype(int)) for column in counts.T]
    expected = [slow(truth[rows], score[rows]) for rows in repeated]
    assert fast(truth, score, counts) == pytest.approx(expected)


def test_calibration_error_is_counted_by_hand() -> None:
    confidence, right = np.array([0.05, 0.05, 1.0, 0.9]), np.array([0.0, 1.0, 1.0, 0.0])
    assert calibration_error(confidence, right, np.ones((4, 1))) == pytest.approx((0.9 + 0.9) / 4)


@pytest.mark.slow
def test_95_percent_of_the_intervals_hold_the_true_auroc() -> None:
    from scipy.stats import norm

    held = 0
    for seed in range(80):
        random = np.random.default_rng(seed)
        truth = np.arange(120) % 3 == 0
        probability = 1 / (1 + np.exp(-random.normal(truth * 1.0)))
        frame = pd.DataFrame({"image": range(120), "split": "val", "label": np.where(truth, "b", "a")})
        frame = frame.assign(predicted="a", probability_a=1 - probability, probability_b=probability)
        found = values(frame, resamples=200).loc["auroc"]
        held += bool(found["low"] <= norm.cdf(1 / np.sqrt(2)) <= found["high"])
    assert 70 <= held <= 80


def test_patients_are_drawn_whole() -> None:
    predictions = table(200, 2)
    alone = values(predictions).loc["accuracy"]
    by_patient = predictions["image"].map(lambda name: f"patient {int(name.split()[1]) // 2 % 5}")
    few = values(predictions.assign(group=by_patient)).loc["accuracy"]
    assert few["value"] == alone["value"]
    right = (predictions["label"] == predictions["predicted"]).groupby(by_patient).mean()
    assert few["low"] >= right.min()
    assert few["high"] <= right.max()
    counts = next(resample(units_of(by_patient.to_numpy(dtype=object), None, 200), 20, seed=0))
    assert all(np.unique(counts[by_patient == one], axis=0).shape[0] == 1 for one in set(by_patient))
    same = values(predictions, groups=dict(zip(predictions["image"], by_patient, strict=True))).loc["accuracy"]
    assert (same["low"], same["high"]) == (few["low"], few["high"])


def test_equal_seeds_give_equal_intervals() -> None:
    first, again = (scores_with_intervals(table(30, 3), resamples=100) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(scores_with_intervals(table(30, 3), resamples=100, seed=1))


def test_what_is_undefined_says_why() -> None:
    one_class = values(table(20, 2).assign(label="c0"))
    assert np.isnan(one_class.loc["auroc", "value"])
    assert one_class.loc["auroc", "note"] == "undefined: no image of 'c1'"
    assert one_class.loc["sensitivity", "note"] == "undefined: no image of 'c1'"
    one_image = values(table(1, 2))
    assert "one image" in one_image.loc["brier", "note"]
    assert np.isnan(one_image["value"]["auroc"])
    perfect = table(20, 2).assign(predicted=lambda frame: frame["label"])
    perfect["probability_c1"] = (perfect["label"] == "c1").astype(float)
    perfect["probability_c0"] = 1 - perfect["probability_c1"]
    found = values(perfect)
    assert found.loc["accuracy", ["low", "high"]].tolist() == pytest.approx([0.025 ** (1 / 20), 1])
    assert np.isnan(found.loc["auroc", "low"])
    assert "same score" in found.loc["auroc", "note"]
    equal = values(regression_table().assign(label="0.1"), "age")
    assert equal.loc["r2", "note"] == "undefined: all true numbers are alike"
    constant = values(regression_table().assign(value_age=0.3), "age")
    assert np.isnan(constant.loc["pearson", "value"])


def test_rows_without_label_or_prediction_are_not_scored() -> None:
    predictions = table(30, 2)
    expected = scores_with_intervals(predictions[4:].reset_index(drop=True))
    predictions.loc[:1, "probability_c1"] = np.nan
    predictions.loc[2, "label"] = np.nan
    predictions["error"] = ["", "", "", "cut off", *[""] * 26]
    pd.testing.assert_frame_equal(scores_with_intervals(predictions), expected)
    read_by_pandas = table(30, 2).assign(error=np.nan)  # an empty column of a CSV
    pd.testing.assert_frame_equal(scores_with_intervals(read_by_pandas), scores_with_intervals(table(30, 2)))


def test_an_empty_split_has_no_scores() -> None:
    assert scores_with_intervals(table(0, 2)).empty
    assert set(scores_with_intervals(table(8, 2, split="val"))["split"]) == {"val"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "other"}, "none of the classes"),
        ({"probability_c1": 3.5}, "outside 0..1.*not logits"),
        ({"probability_c1": np.inf}, "outside 0..1"),
        ({"probability_c1": "0,5"}, "no number"),
        ({"image": "same"}, "twice"),
    ],
)
def test_tables_that_would_give_wrong_scores_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        scores_with_intervals(table(6, 2).assign(**change), task="multiclass")


def test_a_prediction_of_no_class_is_refused() -> None:
    with pytest.raises(PredictionError, match="predicted to be 'c7'"):
        scores_with_intervals(table(6, 2).assign(predicted="c7"), task="multiclass")


def test_scores_of_ordered_classes_are_those_of_scikit_learn() -> None:
    one_of_four = table(61, 4, seed=3)
    probabilities = one_of_four.filter(like="probability_").to_numpy()
    rows = pd.DataFrame({"image_id": one_of_four["image"], "split": "test", "label_name": one_of_four["label"]})
    names = ["c0", "c1", "c2", "c3"]
    predictions = prediction_table(rows, probabilities, names, ordered=True)
    label, named = (predictions[column].str[1:].astype(int) for column in ("label", "predicted"))
    assert (named != probabilities.argmax(axis=1)).any()  # the median, in which the cumulative probability is one half
    assert (probabilities.cumsum(axis=1)[np.arange(61), named] >= 0.5 - 1e-6).all()
    found = values(predictions)
    assert task_of(predictions) == "ordinal"
    assert set(found.index) > set(values(one_of_four).index)
    expected = sk.cohen_kappa_score(label, named, weights="quadratic")
    assert found.loc["quadratic_kappa", "value"] == pytest.approx(expected)
    assert quadratic_kappa(predictions) == pytest.approx(expected)
    assert found.loc["mae", "value"] == pytest.approx(np.abs(label - named).mean())
    counts = np.concatenate(list(resample(units_of(None, None, 61), 1000, 0)), axis=1)[:, :12]
    drawn = [np.repeat(np.arange(61), column.astype(int)) for column in counts.T]
    ours = weighted_kappa(label.to_numpy(float), named.to_numpy(float), counts)
    theirs = [sk.cohen_kappa_score(label[one], named[one], weights="quadratic") for one in drawn]
    np.testing.assert_allclose(ours, theirs)
    one = predictions.assign(label="c1", predicted="c1")
    assert "all true and all predicted classes are one" in values(one).loc["quadratic_kappa", "note"]


def test_concordance_is_that_of_scikit_survival() -> None:
    reference = pytest.importorskip("sksurv.metrics").concordance_index_censored
    random = np.random.default_rng(0)
    time, event = random.integers(1, 20, 60), random.random(60) < 0.6
    risk = random.integers(0, 9, 60) / 8 - time / 32  # no sums that are equal but for rounding
    frame = pd.DataFrame({"image": [f"i{number}" for number in range(60)], "split": "test", "risk": risk})
    label = [f"{one} {'event' if died else 'censored'}" for one, died in zip(time, event, strict=True)]
    predictions = frame.assign(label=label, survival_5=0.5)
    assert task_of(predictions) == "survival"
    found = values(predictions).loc["c_index"]
    assert found["value"] == pytest.approx(reference(event, time, risk)[0])
    assert found["low"] < found["value"] < found["high"]
    counts = np.concatenate(list(resample(units_of(None, None, 60), 20, 0)), axis=1)
    drawn = [np.repeat(np.arange(60), column.astype(int)) for column in counts.T]
    theirs = [reference(event[one], time[one], risk[one])[0] for one in drawn]
    np.testing.assert_allclose(concordance(time.astype(float), event, risk, counts), theirs)
    none = values(predictions.assign(label="3 censored")).loc["c_index", "note"]
    assert "no image is known to have had its event before another" in none
    for label in ("3", "3 dead", "-3 event", "nan event", "x event"):
        with pytest.raises(PredictionError, match=r"such as '12\.5 event'"):
            values(predictions.assign(label=label))
