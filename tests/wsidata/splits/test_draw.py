import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.splits.draw import DrawError, allocate, draw_groups, draw_slides, fold_groups, hashed_order


def test_order_depends_on_key_and_names_and_not_on_where_they_stand():
    names = [f"s{i}" for i in range(50)]
    order = [names[i] for i in hashed_order(names, "1")]
    turned = names[::-1]
    assert [turned[i] for i in hashed_order(turned, "1")] == order
    assert [names[i] for i in hashed_order(names, "2")] != order
    without = [name for name in order if name != "s7"]
    assert [[n for n in names if n != "s7"][i] for i in hashed_order([n for n in names if n != "s7"], "1")] == without


@settings(deadline=None)
@given(st.lists(st.integers(2, 500), min_size=1, max_size=30), st.data())
def test_allocation_is_whole_and_leaves_every_class_on_both_sides(counts, data):
    size = data.draw(st.integers(len(counts), sum(counts) - len(counts)))
    given_ = allocate(counts, size)
    assert sum(given_) == size
    assert all(1 <= share < count for share, count in zip(given_, counts, strict=True))


def test_grouped_draw_meets_the_fraction_of_every_class_when_groups_are_small():
    groups = [f"p{i // 2}" for i in range(300)]
    classes = np.array([i // 2 % 3 for i in range(300)])
    chosen = draw_groups(groups, classes, 0.2, "7")
    assert np.bincount(classes[chosen]).tolist() == [20, 20, 20]
    assert not {groups[i] for i in chosen} & {groups[i] for i in range(300) if i not in set(chosen.tolist())}


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(DrawError, match="cannot give"):
        draw_slides(["a", "b"], np.array([0, 1]), 0.5, "1")
    with pytest.raises(DrawError, match="no choice of 1 groups"):
        draw_groups(["p", "p"], np.array([0, 0]), 0.5, "1")
    with pytest.raises(DrawError, match="no arrangement of 2 groups was found that has every class in each of 3 folds"):
        fold_groups(["p", "q", "q"], np.array([0, 0, 0]), 3, "1")


def test_grouped_draw_of_many_groups_takes_no_more_than_a_linear_time():
    """Where every group was compared with all others, these took half an hour."""
    count = 40_000
    groups = [f"p{i // 2}" for i in range(count)]
    classes = np.arange(count) // 2 % 3
    chosen = draw_groups(groups, classes, 0.2, "7")
    assert np.bincount(classes[chosen]).tolist() == pytest.approx([count / 15] * 3, abs=2)


def test_grouped_draw_is_the_one_of_earlier_versions():
    rng = np.random.default_rng(5)
    groups = [f"p{i}" for i in rng.integers(0, 40, 300)]
    classes = rng.integers(0, 3, 300)
    drawn = sorted({groups[i] for i in draw_groups(groups, classes, 0.25, "42|val|0")})
    assert drawn == ["p0", "p20", "p22", "p25", "p29", "p3", "p32", "p36", "p38", "p39", "p7", "p9"]
