from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from streammodels import Normalize, stream


def test_normalizes_per_channel() -> None:
    image = torch.rand(2, 3, 4, 5)
    expected = (image - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    assert torch.equal(Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])(image), expected)


def test_streams_exactly_and_strip_by_strip(assert_exact: Callable[..., float]) -> None:
    network = nn.Sequential(Normalize([0.1, 0.2], [0.5, 0.6]), nn.Conv2d(2, 3, 3))
    assert_exact(network, torch.rand(1, 2, 15, 9, dtype=torch.float64), 4)


def test_uint8_rows_are_scaled_before() -> None:
    network = nn.Sequential(Normalize([0.1, 0.2], [0.5, 0.6]), nn.Conv2d(2, 3, 3))
    image = torch.randint(0, 256, (1, 2, 15, 9), dtype=torch.uint8)
    torch.testing.assert_close(stream(network, strip_rows=4)(image), network(image / 255))


def test_state_dict_stays_empty() -> None:
    assert not Normalize([0.1], [0.5]).state_dict()


@pytest.mark.parametrize(("mean", "std"), [([0.1], [0.5, 0.5]), ([0.1], [0.0])])
def test_values_that_make_no_sense_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="one value per channel"):
        Normalize(mean, std)
