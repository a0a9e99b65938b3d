"""The attention map of a streamed image is the softmax that the pool weighs pixels with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from streammodels import GatedAttention, GlobalAvgPool, StreamingResNet, attention_map, stream


def network(heads: int | None = 3) -> nn.Sequential:
    head = GatedAttention(4, hidden=5, heads=heads)
    layers = (nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), head)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * (heads or 1), 2)).double()


def expected_map(module: nn.Sequential, image: Tensor) -> Tensor:
    features = module[:3](image)
    scores = module[3].scores(features)
    return scores.flatten(2).softmax(dim=2).view(scores.shape)


@pytest.mark.parametrize("strip_rows", [1, 6, 50])
@pytest.mark.parametrize("heads", [None, 1, 3])
def test_map_equals_the_softmax_over_the_plain_map(strip_rows: int, heads: int | None) -> None:
    module, image = network(heads), torch.randn(2, 2, 31, 17, dtype=torch.float64)
    weights = attention_map(stream(module, strip_rows=strip_rows), image)
    assert weights.shape == (2, heads or 1, 16, 9)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, expected_map(module, image), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(weights.sum(dim=(2, 3)), torch.ones(2, heads or 1, dtype=torch.float64))
    torch.testing.assert_close(weights, attention_map(module, image), rtol=1e-12, atol=1e-15)


def test_map_weighs_the_features_into_the_pooled_vector() -> None:
    module, image = network(), torch.randn(1, 2, 31, 17, dtype=torch.float64)
    weights = attention_map(stream(module, strip_rows=5), image)
    vectors = torch.einsum("bkhw,bchw->bkc", weights, module[:3](image))
    torch.testing.assert_close(vectors, module[:4](image))


def test_images_of_different_size_in_a_list() -> None:
    module, images = network(), [torch.rand(2, 20, 9).double(), torch.rand(1, 2, 33, 14).double()]
    for call in (module, stream(module, strip_rows=5)):
        maps = attention_map(call, images)
        assert [tuple(each.shape) for each in maps] == [(1, 3, 10, 5), (1, 3, 17, 7)]
        torch.testing.assert_close(maps[1], expected_map(module, images[1]))


class Lazy:
    """An image whose rows are read when asked for."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.shape, self.dtype = image, tuple(image.shape), image.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.image[:, start:stop]


def test_image_read_by_rows() -> None:
    module, image = network(), torch.rand(2, 33, 14).double()
    streamed = stream(module, strip_rows=5)
    for weights in (attention_map(streamed, Lazy(image)), attention_map(streamed, [Lazy(image)])[0]):
        torch.testing.assert_close(weights, expected_map(module, image[None]))


def test_attention_dropout_is_left_out() -> None:
    module, image = network(), torch.randn(1, 2, 31, 17, dtype=torch.float64)
    module[3].dropout = 0.5
    streamed = stream(module.train(), strip_rows=5)
    assert not torch.equal(streamed(image), streamed(image))
    assert torch.equal(attention_map(streamed, image), attention_map(streamed, image))


def test_half_precision_scores_are_normalized_in_single_precision() -> None:
    module, image = network().float(), torch.rand(1, 2, 200, 300)
    with torch.autocast("cpu", torch.bfloat16):
        weights = attention_map(stream(module, strip_rows=50), image)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(dim=(2, 3)), torch.ones(1, 3))


def test_pool_alone_is_a_network() -> None:
    pool, image = GatedAttention(3), torch.rand(1, 3, 9, 8)
    weights = attention_map(stream(pool, strip_rows=2), image)
    torch.testing.assert_close(weights, pool.scores(image).flatten(2).softmax(2).view(1, 1, 9, 8))


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [True, False])
def test_classifier_shows_where_it_looks(streaming: bool) -> None:
    torch.manual_seed(3)
    model = StreamingResNet(weights=None, pooling="attention", tile_size=64, streaming=streaming).eval()
    image = torch.randint(0, 256, (1, 3, 200, 130), dtype=torch.uint8)
    weights = model.attention_map(image)
    assert weights.shape == (1, 1, 7, 5)
    trunk = nn.Sequential(*[layer for name, layer in model.named_children() if name not in ("avgpool", "fc")][:9])
    scores = model.get_submodule("avgpool").scores(trunk(image / 255))  # type: ignore[operator] # a GatedAttention
    torch.testing.assert_close(weights, scores.flatten(2).softmax(dim=2).view(weights.shape))


def test_network_without_attention_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), GlobalAvgPool())
    for network in (module, stream(module, strip_rows=3)):
        with pytest.raises(ValueError, match=r"pools by GatedAttention 0 times.*pooling='attention'"):
            attention_map(network, torch.rand(1, 2, 9, 9))


def test_two_attention_pools_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = GatedAttention(2), GatedAttention(2)

        def forward(self, image: Tensor) -> Tensor:
            return self.one(image) + self.two(image)

    with pytest.raises(ValueError, match="2 times"):
        attention_map(stream(Two(), strip_rows=3), torch.rand(1, 2, 9, 9))
