"""Round trip through the Hub of pixels, files, splits, statistics and the trained model."""

import json
from pathlib import Path

import pytest
from journey import VARIANTS
from local_hub import LocalHub
from preloaded import run_python

from wsidata.synthetic.photos import write_photos

pytestmark = pytest.mark.slow

LOSSLESS = [name for name in VARIANTS if name != "jpeg"]


@pytest.fixture(scope="module")
def journey(camelyon, tmp_path_factory):
    """The requests of both halves of the journey, and what they found, by variant."""
    folder = tmp_path_factory.mktemp("journey")
    photos = write_photos(folder / "photos", classes=3, per_class=8, side_px=64)
    with LocalHub(folder / "hub") as hub:
        # Transient failures: publishing must give the same result.
        hub.fail("PUT", "_lfs", times=2, status=503)
        hub.fail("POST", "/commit/", status=412)
        hub.fail("POST", "/preupload/", how="drop")
        hub.fail("POST", "/commit/", how="drop")
        halves = {}
        for half in ("publish", "load"):
            hub.clear() if half == "load" else None
            script = Path(__file__).with_name("journey.py")
            run = run_python(script, half, camelyon, photos, folder / "out", env=hub.environment(), timeout=600)
            assert run.returncode == 0, run.stderr[-4000:]
            halves[half] = {line["variant"]: line for line in map(json.loads, run.stdout.splitlines())}
            halves[f"{half} requests"] = hub.log()
        halves["private"] = {name: hub.repository(f"tester/{name}")["private"] for name in VARIANTS}
    return halves


@pytest.mark.parametrize("name", VARIANTS)
def test_loaded_equals_published(journey, name):
    found = journey["load"][name]
    assert found["commit"] == journey["publish"][name]["commit"]
    assert journey["private"][name]
    assert found["same tables"]
    assert found["same stats"]
    assert set(found["same memory"].values()) == {True}
    assert found["metadata"] == []


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_and_trained_model_are_the_same_to_the_last_bit(journey, name):
    found = journey["load"][name]
    assert found["identical pixels"] == found["images"]
    assert found["same model"]


@pytest.mark.parametrize("name", ["png", "tiff", "jpeg", "photos"])
def test_files_are_the_same_to_the_last_byte(journey, name):
    assert journey["load"][name]["identical files"] == journey["load"][name]["images"]


def test_jpeg_loses_little(journey):
    found = journey["load"]["jpeg"]
    assert 0 < found["largest difference"] < 100
    assert not found["same model"]


def test_everything_came_from_this_hub_despite_failures(journey):
    failed = [line for line in journey["publish requests"] if line["status"] in (503, 412, -1)]
    assert len(failed) == 5
    loaded = [line for line in journey["load requests"] if line["method"] == "GET" and "/resolve/" in line["path"]]
    for name in VARIANTS:
        assert any(f"/tester/{name}/" in line["path"] for line in loaded)
