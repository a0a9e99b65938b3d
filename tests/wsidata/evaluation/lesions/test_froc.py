from __future__ import annotations

import numpy as np
import pytest

from wsidata.evaluation.lesions import LesionError, LesionHits, lesion_froc

MISSED = -np.inf
READ = [0.25, 0.5, 1, 2, 4, 8]


def by_the_script(slides: list[LesionHits]) -> list[float]:
    """Written after evaluation_FROC.py of Camelyon16: missed lesions have 0, the lowest threshold is dropped."""
    false = [score for one in slides for score in one.false_positives]
    true = [0 if score == MISSED else score for one in slides for score in one.lesions]
    thresholds = sorted(set(false + true))[1:]
    false_counts = [sum(score >= threshold for score in false) for threshold in thresholds] + [0]
    true_counts = [sum(score >= threshold for score in true) for threshold in thresholds] + [0]
    total_false = np.array(false_counts) / len(slides)
    sensitivity = np.array(true_counts) / len(true)
    return list(np.interp(READ, total_false[::-1], sensitivity[::-1]))


def random_slides(seed: int, slides: int = 12) -> list[LesionHits]:
    random = np.random.default_rng(seed)
    found = []
    for slide in range(slides):
        lesions = np.round(random.uniform(0.2, 1, random.integers(0, 4)), 1)
        lesions[random.random(len(lesions)) < 0.3] = MISSED
        false = np.round(random.uniform(0.05, 0.9, random.poisson(6)), 1)
        found.append(LesionHits((*lesions.tolist(), *[MISSED] * (slide == 0)), tuple(false.tolist())))
    return found


def test_curve_by_hand() -> None:
    slides = [LesionHits((0.9, MISSED), (0.8,)), LesionHits((0.6,), (0.7, 0.6)), LesionHits((), (0.5,))]
    found = lesion_froc(slides, false_positives=[0, 1 / 3, 0.5, 1, 8], resamples=0)
    assert (found.slides, found.lesions) == (3, 3)
    assert found.curve["threshold"].tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert found.curve["false_positives"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3])
    assert found.curve["sensitivity"].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    expected = [1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert found.table["sensitivity"].tolist() == pytest.approx([*expected, np.mean(expected)])
    assert found.score == pytest.approx(np.mean(expected))
    assert found.table["note"].tolist() == ["no interval: no resamples"] * 6


def test_sensitivities_are_those_of_the_script_where_a_lesion_is_missed() -> None:
    for seed in range(20):
        slides = random_slides(seed)
        found = lesion_froc(slides, resamples=0).table["sensitivity"]
        assert found.tolist()[:-1] == pytest.approx(by_the_script(slides), abs=1e-12)


def test_lowest_score_counts_where_no_lesion_is_missed() -> None:
    slides = [LesionHits((0.9, 0.1), ()), LesionHits((), ())]
    assert by_the_script(slides)[-1] == 0.5  # its threshold 0.1 is dropped
    assert lesion_froc(slides, resamples=0).score == 1
    assert lesion_froc([LesionHits((0.0,), ())], resamples=0).score == 1


@pytest.mark.slow
def test_intervals_are_those_of_slides_drawn_again() -> None:
    slides = random_slides(3, 30)
    found = lesion_froc(slides, resamples=400, seed=5)
    with_lesions = [one for one in slides if one.lesions]
    without = [one for one in slides if not one.lesions]
    random, drawn = np.random.default_rng(0), []
    for _ in range(150):
        again = [group[k] for group in (with_lesions, without) for k in random.integers(0, len(group), len(group))]
        drawn.append(lesion_froc(again, resamples=0).score)
    low, high = found.table[["low", "high"]].iloc[-1]
    assert low < found.score < high
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.06)
    again = lesion_froc(slides, resamples=400, seed=5)
    assert again.table.equals(found.table)
    grouped = lesion_froc(slides, groups=[f"patient {k // 3}" for k in range(30)], resamples=50)
    assert grouped.score == found.score


def test_slides_without_lesions_or_detections() -> None:
    nothing = lesion_froc([LesionHits((), (0.5,))])
    assert np.isnan(nothing.score)
    assert nothing.table["note"].tolist() == ["undefined: no slide has lesions"] * 7
    silent = lesion_froc([LesionHits((MISSED,), ()), LesionHits((), ())])
    assert silent.score == 0
    assert silent.curve.empty
    for hits, wrong in (([], {}), ([LesionHits((), ())], {"groups": []}), ([LesionHits((np.nan,), ())], {})):
        with pytest.raises(LesionError, match=r"one group a slide|not finite"):
            lesion_froc(hits, **wrong)
    with pytest.raises(LesionError, match="0 or more"):
        lesion_froc([LesionHits((), ())], false_positives=[-1])
    with pytest.raises(LesionError, match="between 0 and 1"):
        lesion_froc([LesionHits((), ())], level=95)
