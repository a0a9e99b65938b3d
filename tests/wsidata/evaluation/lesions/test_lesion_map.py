from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from wsidata.evaluation.lesions import Detections, LesionError, LesionHits, LesionMap

MPP = 0.243 * 2**5


@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_those_of_scipy_and_scikit_image(seed: int) -> None:
    """The steps of Camelyon16's script, on noise of several sizes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(150, 180)), 2 + 2 * seed)
    tumor = noise > np.quantile(noise, 0.93)
    distance = ndimage.distance_transform_edt(~tumor)
    expected = label(ndimage.binary_fill_holes(distance < 75 / (MPP * 2)), connectivity=2)
    isolated = {one.label for one in regionprops(expected) if one.axis_major_length < 275 / MPP}
    found = LesionMap.of(tumor)
    pairs = set(zip(found.labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == expected.max() + 1  # the same lesions, perhaps with other numbers
    assert found.isolated == {number for number, other in pairs if other in isolated}
    assert 0 < len(isolated) < expected.max() or seed > 1


def two_lesions() -> LesionMap:
    """A ring with a hole, a lesion that is long, and a speck of isolated tumor cells."""
    tumor = np.zeros((100, 120), np.bool_)
    tumor[10:60, 10:60] = True
    tumor[20:50, 20:50] = False
    tumor[80, 20:70] = True
    tumor[80:83, 100:103] = True
    return LesionMap.of(tumor)


def test_each_lesion_counts_once_by_its_highest_score() -> None:
    lesions = two_lesions()
    assert lesions.labels.max() == 3
    assert lesions.isolated == {lesions.labels[81, 101]}
    x = (
        np.array([35, 12, 101, 75, 90, 40]) * 32.0
    )  # in the hole, in the ring, isolated, outside by a bit, outside, long
    y = np.array([35, 12, 81, 80, 20, 84]) * 32.0 + 31.9
    hits = lesions.hits(Detections(x, y, np.array([0.5, 0.25, 0.9, 0.4, 0.3, 0.2])))
    assert sorted(hits.lesions) == [0.2, 0.5]
    assert hits.false_positives == (0.4, 0.3)
    assert lesions.hits(Detections(x[:1], y[:1], np.ones(1))).lesions.count(-np.inf) == 1


def test_slides_without_tumor_have_false_positives_only() -> None:
    found = Detections(np.array([64.0]), np.array([32.0]), np.array([0.3]))
    assert LesionHits.without_lesions(found) == LesionHits((), (0.3,))
    assert LesionMap.of(np.zeros((4, 5), np.bool_)).hits(found) == LesionHits((), (0.3,))


def test_what_does_not_suit_is_refused() -> None:
    lesions = two_lesions()
    with pytest.raises(
        LesionError, match=r"1 of 2 detections lie outside .* x=3840, y=-1; it reaches to x=3840, y=3200"
    ):
        lesions.hits(Detections(np.array([5.0, 3840]), np.array([5.0, -1]), np.ones(2)))
    with pytest.raises(LesionError, match="not finite"):
        Detections(np.array([np.nan]), np.zeros(1), np.zeros(1))
    with pytest.raises(LesionError, match=r"shapes \(2,\), \(1,\)"):
        Detections(np.zeros(2), np.zeros(1), np.zeros(2))
    with pytest.raises(LesionError, match="Pass booleans"):
        LesionMap.of(np.zeros((4, 4), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(LesionError, match="must be above 0"):
        LesionMap.of(np.zeros((4, 4), np.bool_), mpp=0)
