"""Training in mixed precision, over 50 steps, ends where plain training does, up to its own rounding."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from gpu.parts import relative
from gpu.precision import train

CPU = torch.device("cpu")
small = partial(train, CPU, shape=(2, 3, 48, 24))


@pytest.mark.slow
def test_fifty_steps_are_as_near_to_float32_as_plain_ones() -> None:
    right = small(None, streamed=False)
    for half in (torch.bfloat16, torch.float16):
        plain, streamed = (small(half, streamed=one) for one in (False, True))
        assert all(streamed.stepped)
        assert 0 < relative(streamed.weights, right.weights) < 1.5 * relative(plain.weights, right.weights)
        assert (streamed.losses - right.losses).abs().max() < 1.5 * (plain.losses - right.losses).abs().max()


def test_steps_that_overflow_are_left_out_as_in_plain_training() -> None:
    """The scale is too large to begin with, grows until gradients overflow, and step 9 has an infinite pixel."""
    plain, streamed = (
        small(torch.float16, streamed=one, steps=12, first_scale=2.0**20, growth=3, infinite=9) for one in (False, True)
    )
    assert plain.scales == streamed.scales
    assert plain.stepped == streamed.stepped
    assert not streamed.stepped[0]
    assert not streamed.stepped[9]
    assert sum(streamed.stepped) > 4
    assert relative(streamed.weights, plain.weights) < 1e-2
