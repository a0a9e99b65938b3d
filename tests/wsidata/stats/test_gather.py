import threading
from functools import partial

import numpy as np
import pytest

from wsidata.jobs import claims
from wsidata.jobs.claims import SharedRunError
from wsidata.photos.read import read_photo
from wsidata.stats.compute import channel_stats, process_pool
from wsidata.stats.result import StatsError, StatsWarning


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(claims, "POLL_S", 0.01)


@pytest.fixture
def slides(camelyon, tmp_path):
    """Eight slides, one of which is cut off."""
    broken = tmp_path / "broken.tif"
    broken.write_bytes((camelyon / "images" / "tumor_001.tif").read_bytes()[:3000])
    return [*sorted((camelyon / "images").glob("*_00[1-3].tif"))[:7], broken]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::wsidata.stats.result.StatsWarning")
@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_jobs_together_find_what_one_finds(slides, tmp_path, reduction):
    how = {"level": 1, "reduction": reduction, "on_error": "skip"}
    expected = channel_stats(slides, **how)
    found, seen = [], []

    def job():
        seen.append([])
        ours = seen[-1]
        found.append(
            channel_stats(
                slides, share=tmp_path / "run", progress=lambda done, total: ours.append((done, total)), **how
            )
        )

    jobs = [threading.Thread(target=job) for _ in range(3)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert [one.to_json() for one in found] == [expected.to_json()] * 3
    assert seen == [[(done, 8) for done in range(1, 9)]] * 3
    again = channel_stats([slides[0], slides[1], slides[0]], share=tmp_path / "run", level=1, reduction=reduction)
    assert again == channel_stats([slides[0], slides[1], slides[0]], level=1, reduction=reduction)


def test_a_changed_slide_is_counted_again(camelyon, tmp_path):
    path = tmp_path / "slide.tif"
    for name in ("normal_001", "tumor_001"):
        path.write_bytes((camelyon / "images" / f"{name}.tif").read_bytes())
        assert channel_stats([path], share=tmp_path / "run", level=1) == channel_stats([path], level=1)


def test_other_settings_are_other_results(camelyon, tmp_path):
    paths = sorted((camelyon / "images").glob("*_001.tif"))
    for how in ({"level": 1}, {"level": 1, "tissue_only": True}, {"level": 1, "crop": "pack"}, {"mpp": 2.0}):
        assert channel_stats(paths, share=tmp_path, **how) == channel_stats(paths, **how)
    with claims.SharedRun(tmp_path, {"resolution": {"mpp": 1.0}}), pytest.raises(SharedRunError, match="'resolution'"):
        channel_stats(paths, share=tmp_path, mpp=2.0)


def test_unreadable_slides_are_named_and_the_others_kept(slides, tmp_path):
    for _ in range(2):
        with pytest.raises(StatsError, match=r"1 problem:\n.*broken.tif: UnreadableImageError"):
            channel_stats(slides, share=tmp_path / "run", level=1)
    assert len([*(tmp_path / "run").glob("*.json")]) == 7 + 1 + 1  # results, the failure, settings
    with pytest.warns(StatsWarning, match="7 of 8 are counted"):
        channel_stats(slides, share=tmp_path / "run", level=1, on_error="skip")


def test_photos_are_shared_as_they_are_read(toadstools, tmp_path):
    photos = sorted(toadstools.rglob("*.jpg"))[:3]
    for read in (read_photo, partial(read_photo, short_side_px=16)):
        assert channel_stats(photos, read=read, share=tmp_path) == channel_stats(photos, read=read)


def test_images_in_memory_cannot_be_shared(tmp_path):
    with pytest.raises(StatsError, match="share= is for paths"):
        channel_stats([np.zeros((4, 4, 3), np.uint8)], share=tmp_path)


@pytest.mark.slow
def test_jobs_may_have_a_pool_each(slides, tmp_path):
    with process_pool(2) as pool:
        found = channel_stats(slides[:7], share=tmp_path / "run", executor=pool, level=1)
    assert found == channel_stats(slides[:7], level=1)
