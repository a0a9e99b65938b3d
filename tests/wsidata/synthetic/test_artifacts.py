import numpy as np
import pytest

from wsidata import Slide
from wsidata.synthetic import paint_slide, write_slide
from wsidata.synthetic.artifacts import ARTIFACTS


def test_slides_without_artifacts_are_those_of_write_slide(tmp_path):
    painted = paint_slide(256, 192, tumor=True, seed=4)
    with Slide(write_slide(tmp_path / "a.tif", width=256, height=192, tumor=True, seed=4, compression="none")) as slide:
        np.testing.assert_array_equal(slide.numpy(), painted.pixels)
    with Slide(painted.write(tmp_path / "b.tif", compression="none")) as slide:
        np.testing.assert_array_equal(slide.numpy(), painted.pixels)
        assert slide.mpp == (0.5, 0.5)


@pytest.mark.slow
def test_masks_say_where_pixels_changed_and_one_artifact_leaves_the_others_alike():
    options = {"mpp": 4.0, "pieces": 4, "seed": 7, "tumor": True}
    plain = paint_slide(360, 320, **options)
    every = paint_slide(360, 320, artifacts=ARTIFACTS, **options)
    assert set(every.masks) == {"tissue", *ARTIFACTS}
    for name in ARTIFACTS:
        alone = paint_slide(360, 320, artifacts=[name], **options)
        np.testing.assert_array_equal(alone.masks[name], every.masks[name])
        change = np.abs(alone.pixels.astype(int) - plain.pixels).max(axis=2)
        assert change[alone.masks[name]].mean() > 3 * change[~alone.masks[name]].mean(), name
    assert not (every.masks["fold"] & ~every.masks["tissue"]).any()


def test_stains_and_pieces():
    import cv2

    brown = paint_slide(400, 400, mpp=2.0, stain="dab", tumor=True, pieces=5, seed=1)
    assert cv2.connectedComponents(brown.masks["tissue"].astype(np.uint8))[0] - 1 == 5
    red, _, blue = brown.pixels[brown.masks["tissue"]].mean(axis=0)
    assert red > blue + 5
    with pytest.raises(ValueError, match="ink='gold' is not one of"):
        paint_slide(64, 64, artifacts=["pen"], ink="gold")
    with pytest.raises(ValueError, match="artifacts='dust'"):
        paint_slide(64, 64, artifacts=["dust"])
