"""Changes of a module after `stream()` take effect, as in a plain module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from streammodels import StreamingClassifier, StreamingResNet, UnsupportedLayerError, stream


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()


class Switched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.negate = False
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        rows = self.conv(image)
        rows = -rows if self.negate else rows
        return rows.mean((2, 3)) + self.offset


def new_offset(module: Switched) -> None:
    module.offset = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (network, lambda m: setattr(m[1], "eps", 1.0)),
        (network, lambda m: setattr(m[0], "stride", (2, 2))),
        (network, lambda m: m.__setitem__(3, nn.Conv2d(4, 5, 1))),
        (Switched, lambda m: setattr(m, "negate", True)),
        (Switched, new_offset),
    ],
    ids=["epsilon", "stride", "layer", "flag", "parameter"],
)
def test_later_changes_count(make: Callable[[], nn.Module], change: Callable[[nn.Module], None]) -> None:
    module, image = make(), torch.randn(1, 3, 20, 12)
    streamed = stream(module, strip_rows=3)
    before = streamed(image)
    change(module)
    after = streamed(image)
    assert after.shape != before.shape or not torch.allclose(after, before)
    torch.testing.assert_close(after, module(image))


def test_forward_replaced_on_the_object_is_refused() -> None:
    module = network()
    vars(module[2])["forward"] = lambda rows: rows * 2
    with pytest.raises(UnsupportedLayerError, match=r"'2'.*forward was replaced"):
        stream(module, strip_rows=3)(torch.randn(1, 3, 20, 12))


def test_frozen_sync_batch_norm_streams(assert_exact: Callable[..., float]) -> None:
    module = nn.SyncBatchNorm.convert_sync_batchnorm(network()).eval()
    assert_exact(module, torch.randn(1, 3, 20, 12, dtype=torch.float64), 3)


def test_replaced_stage_of_a_resnet_is_used() -> None:
    model = StreamingResNet(weights=None, tile_size=32)
    model.layer4 = nn.Identity()
    model.fc = nn.Linear(256, 2)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_replaced_trunk_of_a_classifier_is_used() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    model = StreamingClassifier(trunk, nn.Linear(4, 2), tile_size=8)
    model.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1))
    image = torch.rand(2, 3, 20, 20)
    torch.testing.assert_close(model(image), model.head(model.trunk(image).flatten(1)))


def test_error_of_a_kernel_says_in_which_layer() -> None:
    streamed = stream(nn.Sequential(nn.Identity(), nn.Conv2d(5, 2, 3)), strip_rows=2)
    with pytest.raises(RuntimeError) as caught:
        streamed(torch.randn(1, 3, 8, 4))
    assert any("layer '1'" in note for note in caught.value.__notes__)
