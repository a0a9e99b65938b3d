"""A short part of `make fuzz`, in this process: no damaged file comes to anything but pixels or a named error."""

import numpy as np
import pytest

from fuzz.__main__ import GOOD
from fuzz.judge import read
from fuzz.kinds import KINDS
from fuzz.mutate import mutate
from fuzz.worker import outcome, write_damaged, write_intact

SEED = 12


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intact")
    write_intact(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2 * len(KINDS)))
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_right_or_refused(tmp_path, intact, number):
    assert outcome(intact, tmp_path / "damaged", SEED, number, {}) in GOOD


def test_the_same_seed_and_number_give_the_same_damage(tmp_path, intact):
    first, second = (write_damaged(intact, tmp_path / name, SEED, 3).read_bytes() for name in "ab")
    assert first == second
    assert write_damaged(intact, tmp_path / "c", SEED, 3 + len(KINDS)).read_bytes() != first


def test_damage_changes_bytes():
    data = bytes(range(256)) * 10
    changed = sum(mutate(data, np.random.default_rng(number)) != data for number in range(200))
    assert changed > 190


@pytest.mark.slow
def test_intact_files_are_read(intact):
    for number, kind in enumerate(KINDS):
        assert len(read(kind, intact / str(number) / kind.name)) >= 30, kind.name
