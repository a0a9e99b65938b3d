import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.sampler import EpochSampler, Share, balanced_rows, share_of_process
from wsidata.tables.parts import SplitWarning


class Numbers(EpochDataset):
    def __init__(self, count, seed=1):
        super().__init__(None, fresh_epochs=True)
        self.count = count
        self.epoch_source = lambda: (seed, 0)
        self.begin_epoch()

    def __len__(self):
        return self.count

    def image(self, index):
        return index


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 5))
def test_training_gives_every_row_to_some_process_and_all_the_same_number(count, processes):
    samplers = [EpochSampler(Numbers(count), share=Share(i, processes)) for i in range(processes)]
    drawn = [list(sampler) for sampler in samplers]
    assert {len(rows) for rows in drawn} == {len(samplers[0])} == {-(-count // processes)}
    together = [index for rows in drawn for index in rows]
    assert sorted(index for index in together if index < count) == list(range(count))  # disjoint and complete
    assert len(together) - count == -count % processes  # the rest are drawn again, with other augmentation


def test_order_is_that_of_the_epoch_and_not_of_the_process():
    whole = list(EpochSampler(Numbers(9)))
    shares = [list(EpochSampler(Numbers(9), share=Share(i, 3))) for i in range(3)]
    assert [shares[i % 3][i // 3] for i in range(9)] == whole
    assert whole != list(EpochSampler(Numbers(9, seed=2)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 9))
def test_balanced_epoch_draws_every_class_equally_often(classes, seed):
    classes = np.array(classes)
    drawn = balanced_rows(classes, np.random.default_rng(seed))
    assert len(drawn) == len(classes)
    assert len(set(drawn)) == len(drawn)  # a row drawn again has another index
    counts = np.unique(classes[np.array(drawn) % len(classes)], return_counts=True)[1]
    assert len(counts) == len(np.unique(classes)) or len(classes) < 5
    assert np.ptp(counts) <= 1
    for number in np.unique(classes):
        times = np.bincount([i % len(classes) for i in drawn], minlength=len(classes))[classes == number]
        assert np.ptp(times) <= 1  # every row of a class once before one comes again


def test_balanced_sampler_changes_with_the_epoch_and_repeats_with_the_seed():
    balance = [0] * 12 + [1] * 3
    first, again, other = (list(EpochSampler(Numbers(15, seed), balance=balance)) for seed in (1, 1, 2))
    assert first == again != other
    assert sum(balance[i % 15] for i in first) == pytest.approx(7.5, abs=0.5)


@pytest.mark.parametrize(
    ("part", "processes", "expected"),
    [("train", 3, Share(1, 3)), ("val", 3, None), ("predict", 3, None), ("train", 1, None), ("test", 1, None)],
)
def test_only_training_is_shared_out_here(part, processes, expected):
    trainer = SimpleNamespace(distributed_sampler_kwargs={"rank": 1, "num_replicas": processes})
    assert share_of_process(trainer, part, 9) == expected
    assert share_of_process(None, part, 9) is None


def test_images_that_count_twice_in_evaluation_are_warned_of_by_one_process():
    ranks = [SimpleNamespace(distributed_sampler_kwargs={"rank": rank, "num_replicas": 4}) for rank in range(4)]
    with pytest.warns(SplitWarning, match=r"9 val images do not divide over 4 processes: 3 of them count twice"):
        assert share_of_process(ranks[0], "val", 9) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [share_of_process(trainer, "val", 9) for trainer in ranks[1:]] == [None] * 3
