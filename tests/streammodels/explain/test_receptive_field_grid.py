"""A map's pixels lie at the centers of their receptive fields."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, vgg

from streammodels.explain.heatmap import MapAxis, MapGrid, block_grid, receptive_field_grid
from streammodels.tracing.trace import trace


class Sum(nn.Module):
    """Two branches that see differently far."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


NETWORKS = {
    "odd kernel": lambda: nn.Conv2d(1, 1, 7, 2, 3),
    "even kernel": lambda: nn.Conv2d(1, 1, 4, 2, 1),
    "no padding": lambda: nn.Sequential(nn.Conv2d(1, 1, 5, 3), nn.ReLU(), nn.Conv2d(1, 1, 3, 2)),
    "dilation": lambda: nn.Conv2d(1, 1, (3, 5), (2, 1), (2, 3), (2, 1)),
    "pools": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, 1, 1), nn.MaxPool2d(3, 2, 1)),
    "branches": lambda: nn.Sequential(Sum(nn.Conv2d(1, 1, 5, 2, 2), nn.Conv2d(1, 1, 1, 2)), nn.AvgPool2d(2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_center_is_the_middle_of_the_receptive_field(name: str) -> None:
    network = NETWORKS[name]().double()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    image = torch.rand(1, 1, 60, 60, dtype=torch.float64)
    grid = receptive_field_grid(trace(network.eval()), len(trace(network).nodes) - 1)
    for pool in network.modules():
        if isinstance(pool, nn.MaxPool2d):  # its gradient goes to one pixel: an average sees as far
            pool.forward = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding).forward
    for row, column in ((5, 6), (6, 5)):
        entered = image.clone().requires_grad_()
        network(entered)[0, 0, row, column].backward()
        seen = entered.grad[0, 0].nonzero()
        middle = (seen.amin(dim=0) + seen.amax(dim=0)) / 2
        assert middle.tolist() == [grid.y.center(row), grid.x.center(column)]


def test_resnet_is_centered_on_multiples_of_its_stride() -> None:
    network = trace(nn.Sequential(*list(resnet18().eval().children())[:-2]))
    assert receptive_field_grid(network, network.boundary[0]) == MapGrid(MapAxis(32, 0.0), MapAxis(32, 0.0))


def test_vgg_is_centered_on_the_middle_of_blocks() -> None:
    network = trace(vgg.make_layers(vgg.cfgs["A"]).eval())
    assert receptive_field_grid(network, network.boundary[0]) == block_grid(32)


def test_block_is_centered_on_its_pixels() -> None:
    assert block_grid(4).x.center(1) == (4 + 5 + 6 + 7) / 4
    assert block_grid(1).y == MapAxis(1, 0.0)
