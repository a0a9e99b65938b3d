"""Channels of the image are those of the first convolution, or of the last image seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streammodels import StreamedModule, stream


class LastChannels(nn.Module):
    """Reads some channels of the image only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image[:, 3:5])


@pytest.mark.parametrize("say", [lambda s: s.summary(40, 30), lambda s: s.forecast(40, 30)], ids=["table", "forecast"])
def test_channels_are_those_of_the_last_image(say: Callable[[StreamedModule], Any]) -> None:
    trunk = stream(LastChannels(), strip_rows=8)
    with pytest.raises(ValueError, match=r"how many channels.*Call it on an image once"):
        say(trunk)
    trunk(torch.rand(1, 5, 20, 20))
    say(trunk)


def test_budget_needs_no_image_before() -> None:
    module, image = LastChannels(), torch.rand(1, 6, 40, 30)
    torch.testing.assert_close(stream(module, memory="1MB")(image), module(image))
