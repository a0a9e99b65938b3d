from __future__ import annotations

import numpy as np
import pytest

from wsidata.evaluation.lesions import LesionError, find_detections, outline_scores


def test_detections_are_the_highest_pixels_apart() -> None:
    heat = np.zeros((6, 9))
    heat[1, 2], heat[1, 4], heat[1, 5], heat[5, 8] = 0.9, 0.8, 0.7, 0.2
    found = find_detections(heat, (10.0, 20.0), radius_px=3, least=0.1)
    assert found.scores.tolist() == [0.9, 0.7, 0.2]
    assert found.x.tolist() == [25, 55, 85]
    assert found.y.tolist() == [30, 30, 110]
    assert find_detections(heat, 1.0, radius_px=0.5, least=-1, most=60).scores.tolist() == [
        0.9,
        0.8,
        0.7,
        0.2,
        *[0] * 50,
    ]
    assert not len(find_detections(heat, 1.0, radius_px=3, least=1).scores)


def test_pointing_game_and_dice_by_hand() -> None:
    mask = np.zeros((4, 4))
    mask[:2, :2], mask[2, 0] = 1, 0.5
    right = np.where(mask == 1, 0.9, 0.1)
    right[0, 0] = 1
    flat, wrong = np.full((4, 4), 0.3), np.eye(4)[::-1] * 0.8
    heats = {"right": right, "flat": flat, "wrong": wrong, "normal": flat, "clean": flat}
    empty = np.zeros((4, 4), np.bool_)
    masks = {"right": mask, "flat": mask, "wrong": mask > 0.7, "normal": empty, "clean": empty}
    heats["normal"] = np.eye(4)
    slides, together = outline_scores(heats, masks, threshold=0.5, resamples=200)
    assert slides["slide"].tolist() == list(heats)
    nan = np.nan
    assert slides["pointing_game"].tolist() == pytest.approx([1, 4.5 / 16, 0, nan, nan], nan_ok=True)
    assert slides["dice"].tolist() == pytest.approx([8 / 8.5, 0, 0, 0, nan], nan_ok=True)
    values = dict(zip(together["score"], together["value"], strict=True))
    assert values["pointing_game"] == pytest.approx((1 + 4.5 / 16) / 3)
    assert values["dice"] == pytest.approx(8 / 8.5 / 4)
    assert values["pooled_dice"] == pytest.approx(8 / (4 + 4.5 + 4.5 + 4 + 4 + 4))
    assert (together["low"] < together["value"]).all()
    assert (together["value"] < together["high"]).all()
    grouped = outline_scores(heats, masks, threshold=0.5, resamples=20, groups=dict.fromkeys(heats, "one"))[1]
    assert grouped["value"].tolist() == together["value"].tolist()


def test_maps_and_masks_that_do_not_suit_are_refused() -> None:
    heat = {"a": np.zeros((4, 5))}
    with pytest.raises(LesionError, match=r"mask of 'a' is \(5, 4\), .* heat map, \(4, 5\)"):
        outline_scores(heat, {"a": np.zeros((5, 4))}, threshold=0.5)
    with pytest.raises(LesionError, match="from 0 to 255"):
        outline_scores(heat, {"a": np.array([[0, 255]])}, threshold=0.5)
    with pytest.raises(LesionError, match=r"heat map of 'a' .* finite"):
        outline_scores({"a": np.full((2, 2), np.nan)}, {"a": np.zeros((2, 2))}, threshold=0.5)
    with pytest.raises(LesionError, match="not of the same slides"):
        outline_scores(heat, {}, threshold=0.5)
    with pytest.raises(LesionError, match="threshold a number"):
        outline_scores(heat, heat, threshold=np.nan)
