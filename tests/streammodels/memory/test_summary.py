"""The layer table against the values published for ResNet-18."""

from __future__ import annotations

import pytest
from torch import nn
from torchvision.models import resnet18

from streammodels import stream
from streammodels.memory.summary import layer_facts
from streammodels.tracing.trace import trace

# Rows at the top and bottom border that plain tiling would lose (published for tiles of a ResNet-18).
PUBLISHED = {
    "conv1": (2, 1), "maxpool": (2, 1),
    "layer1.0.conv1": (3, 2), "layer1.0.conv2": (4, 3), "layer1.1.conv1": (5, 4), "layer1.1.conv2": (6, 5),
    "layer2.0.conv1": (4, 3), "layer2.0.conv2": (5, 4), "layer2.0.downsample.0": (3, 3),
    "layer2.1.conv1": (6, 5), "layer2.1.conv2": (7, 6),
    "layer3.0.conv1": (4, 3), "layer3.0.conv2": (5, 4), "layer3.1.conv1": (6, 5), "layer3.1.conv2": (7, 6),
    "layer4.0.conv1": (4, 3), "layer4.0.conv2": (5, 4), "layer4.1.conv1": (6, 5), "layer4.1.conv2": (7, 6),
}  # fmt: skip


def test_lost_rows_of_resnet18_are_the_published_ones() -> None:
    network = trace(resnet18(weights=None).eval())
    facts = dict(zip((node.path for node in network.nodes), layer_facts(network), strict=True))
    found = {path: (facts[path].lost_top, facts[path].lost_bottom) for path in PUBLISHED}
    # A strided 1x1 convolution reads every second row: of six rows lost above it three are lost below it, of five at
    # the bottom the last is skipped, so two remain. The published probe counts the rows between as its own.
    exact = {**PUBLISHED, "layer2.0.downsample.0": (3, 2)}
    assert found == exact


def test_receptive_field_and_stride_of_resnet18() -> None:
    network = trace(resnet18(weights=None).eval())
    facts = dict(zip((node.path for node in network.nodes), layer_facts(network), strict=True))
    assert (facts["conv1"].stride, facts["conv1"].receptive_field) == (2, 7)
    assert (facts["maxpool"].stride, facts["maxpool"].receptive_field) == (4, 11)
    assert (facts["layer4.1.conv2"].stride, facts["layer4.1.conv2"].receptive_field) == (32, 435)


def test_table_names_every_windowed_layer_and_the_strips() -> None:
    module = resnet18(weights=None).eval()
    table = stream(module, strip_rows=64).summary(500, 300)
    assert all(f"\n{path} " in table for path in PUBLISHED)
    assert "8 strips of 64 rows of an image of 500 x 300 pixels" in table
    assert "bn1" not in table


def test_table_of_every_kind_of_layer() -> None:
    module = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), nn.Dropout2d(0.3),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Dropout(0.2), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
    )  # fmt: skip
    assert "AvgPool2d" in stream(module, strip_rows=4).summary(40, 15)


@pytest.mark.parametrize("strip_rows", [40, 100])
def test_table_of_one_strip_carries_nothing(strip_rows: int) -> None:
    table = stream(nn.Sequential(nn.Conv2d(3, 4, 3)), strip_rows=strip_rows).summary(40, 15)
    assert "1 strips of 40 rows" in table
    assert "Carried from strip to strip" not in table
