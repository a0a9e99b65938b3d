import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsidata.slides.tissue.bin_packing import place, unite_overlapping

sizes = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=25)


@given(sizes)
def test_rectangles_lie_on_the_canvas_without_overlap_and_touch_its_edges(rectangles):
    places, (width, height) = place(rectangles)
    canvas = np.zeros((height, width), int)
    for (w, h), (x, y) in zip(rectangles, places, strict=True):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        canvas[y : y + h, x : x + w] += 1
    assert canvas.max() == 1
    assert canvas.sum() == sum(w * h for w, h in rectangles)
    assert canvas[:, -1].any()
    assert canvas[-1].any()


@given(sizes, st.randoms(use_true_random=False))
def test_canvas_does_not_depend_on_the_order_of_the_rectangles(rectangles, random):
    shuffled = random.sample(rectangles, len(rectangles))
    assert place(shuffled)[1] == place(rectangles)[1]
    assert place(rectangles) == place(rectangles)


def test_canvas_is_small_and_not_a_ribbon():
    rng = np.random.default_rng(0)
    for count in (1, 3, 10, 60, 300):
        rectangles = [tuple(map(int, side)) for side in rng.integers(20, 400, (count, 2))]
        _, (width, height) = place(rectangles)
        assert sum(w * h for w, h in rectangles) / (width * height) > 0.7
        assert max(width, height) / min(width, height) <= 4


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 20)] * 2), min_size=1, max_size=15))
def test_united_boxes_are_disjoint_and_hold_the_old_ones(boxes):
    given_boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes])
    united = unite_overlapping(given_boxes)
    cover = np.zeros((70, 70), int)
    for left, top, right, bottom in united:
        cover[top:bottom, left:right] += 1
    assert cover.max() == 1
    for left, top, right, bottom in given_boxes:
        inside = (united[:, :2] <= (left, top)).all(axis=1) & (united[:, 2:] >= (right, bottom)).all(axis=1)
        assert inside.sum() == 1
