"""A resolution is one of five measures, and a mapping of what was given."""

import json
import pickle
import re

import pytest

from wsidata.formats.levels import Level, with_spacing
from wsidata.formats.resolution import MEASURES, Resolution

LEVELS = with_spacing([Level(i, 4096 >> i, 2048 >> i, 2.0**i, 2.0**i) for i in range(3)], (0.25, 0.25))


def test_it_is_a_mapping_of_what_was_given():
    resolution = Resolution(mpp=(0.5, 0.25), tolerance=0.0)
    assert resolution == {"mpp": (0.5, 0.25), "tolerance": 0.0}
    assert json.loads(json.dumps(dict(resolution))) == {"mpp": [0.5, 0.25], "tolerance": 0.0}
    assert str(resolution) == "mpp=(0.5, 0.25), tolerance=0.0"
    assert Resolution.of({**resolution}) == pickle.loads(pickle.dumps(resolution)) == resolution
    assert Resolution(level=0) == {"level": 0}
    assert Resolution.of({"level": None, "mpp": None}) == {}
    assert str(Resolution()) == "level=0"


def test_two_measures_or_another_are_refused():
    with pytest.raises(TypeError, match="one resolution, not 2: level, mpp"):
        Resolution(level=0, mpp=1.0)
    with pytest.raises(TypeError, match="zoom is no resolution"):
        Resolution.of({"zoom": 2})


@pytest.mark.parametrize(("measure", "value"), list(zip(MEASURES, (2, 1.0, 10.0, 4.0, 1024), strict=True)))
def test_every_measure_is_planned(measure, value):
    plan = Resolution(**{measure: value}).plan(LEVELS, 40.0)
    assert (plan.level, plan.is_identity, plan.width, plan.height) == (2, True, 1024, 512)


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        *((measure, value) for measure in MEASURES for value in ("2", [2.0], float("nan"))),
        *((measure, -1) for measure in MEASURES if measure != "level"),
    ],
)
def test_what_is_no_measure_is_named(measure, value):
    with pytest.raises(ValueError, match=rf"{measure}={re.escape(repr(value))} must be"):
        Resolution(**{measure: value}).plan(LEVELS, 40.0)


def test_none_means_level_zero():
    assert Resolution().plan(LEVELS, None).level == 0
    assert Resolution().is_level
    assert Resolution(level=1).is_level
    assert not Resolution(mpp=0.25).is_level
