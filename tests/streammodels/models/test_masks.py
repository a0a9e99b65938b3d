"""Pools limited to a mask, against pooling of the pixels that it chooses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels import (
    AttentionGeM,
    EmptyMaskError,
    GatedAttention,
    GeM,
    GlobalAvgPool,
    GlobalMaxPool,
    GlobalPool,
    GlobalWeightedPool,
    Labels,
    LogSumExp,
    stream,
)

DOUBLE = torch.float64

POOLS: dict[str, Callable[[], GlobalPool]] = {
    "avg": GlobalAvgPool,
    "max": GlobalMaxPool,
    "gem": GeM,
    "lse": LogSumExp,
    "attention": lambda: GatedAttention(4, hidden=3, heads=2),
    "attention gem": lambda: AttentionGeM(4, hidden=3),
    "weighted by class": GlobalWeightedPool,
}


class Lazy:
    """A map whose rows are read when asked for."""

    def __init__(self, values: Tensor, name: str = "slide.tif") -> None:
        self.values, self.shape, self.dtype, self.name = values, tuple(values.shape), values.dtype, name

    def rows(self, start: int, stop: int) -> Tensor:
        return self.values[:, start:stop]


class Masked(nn.Module):
    """A trunk whose map is half as high and wide as the image, pooled where a mask says."""

    def __init__(self, pool: GlobalPool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1))
        self.pool = pool
        self.head = nn.Linear(4, 2)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pool(self.trunk(image), mask))
        return scores


def of_chosen(module: Masked, image: Tensor, mask: Tensor) -> Tensor:
    """The pool of the chosen pixels of each image alone."""
    features = module.trunk(image)
    near = functional.interpolate(mask.to(DOUBLE), features.shape[2:], mode="nearest-exact")
    pooled = [module.pool(one[:, chosen[0] != 0][None, :, None]) for one, chosen in zip(features, near, strict=True)]
    scores: Tensor = module.head(torch.cat(pooled))
    return scores


def gradients(result: Tensor, module: nn.Module, image: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 2, result.numel(), dtype=DOUBLE).view_as(result)
    return [result, *torch.autograd.grad((result * weights).sum(), [*module.parameters(), image])]


def a_mask(height: int, width: int) -> Tensor:
    """True in a few places, and in no row of the upper half of the second image."""
    mask = torch.rand(2, 1, height, width) > 0.6
    mask[1, :, : height // 2] = False
    mask[:, :, -2:, -2:] = True
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_a_masked_pool_equals_the_pool_of_the_chosen_pixels(name: str) -> None:
    module = Masked(POOLS[name]()).to(DOUBLE)
    for size, further in (((23, 14), (5, 4)), ((14, 25), (37, 40))):
        image = torch.randn(2, 2, *size, dtype=DOUBLE, requires_grad=True)
        own = tuple((side + 1) // 2 for side in size)
        for grid in (own, further):
            mask = a_mask(*grid)
            expected = gradients(of_chosen(module, image, mask), module, image)
            results = [module(image, mask), stream(module, strip_rows=4)(image, mask)]
            results.append(stream(module, tile_size=9)(image, Labels(mask.to(torch.uint8) * 255)))
            for result in results[grid == own :]:
                for actual, value in zip(gradients(result, module, image), expected, strict=True):
                    torch.testing.assert_close(actual, value, rtol=1e-11, atol=1e-13)


def test_lists_cases_and_lazy_masks_and_empty_ones() -> None:
    module = Masked(GeM()).to(DOUBLE)
    streamed = stream(module, strip_rows=5)
    images = [torch.rand(2, *size, dtype=DOUBLE) for size in ((23, 14), (14, 25))]
    masks = [a_mask(7, 9)[0], a_mask(30, 30)[0]]
    lazy = [Lazy(image) for image in images], [Labels(Lazy(mask)) for mask in masks]
    expected = torch.cat([of_chosen(module, i[None], m[None]) for i, m in zip(images, masks, strict=True)])
    torch.testing.assert_close(streamed(*lazy), expected)
    nothing = torch.zeros(1, 7, 9, dtype=torch.bool)
    both = streamed([[*images, images[0]]], [[*masks, nothing]])
    chosen = [module.trunk(image[None]).flatten(2) for image in images]
    near = [functional.interpolate(m[None].float(), (12, 7) if not i else (7, 13), mode="nearest-exact").flatten() != 0
            for i, m in enumerate(masks)]  # fmt: skip
    pixels = torch.cat([own[:, :, keep] for own, keep in zip(chosen, near, strict=True)], dim=2)
    torch.testing.assert_close(both, module.head(module.pool(pixels[:, :, None])))
    with pytest.raises(EmptyMaskError, match=r"mask of image 1 has no pixel.*Leave the image"):
        streamed(images, [masks[0], nothing])
    with pytest.raises(EmptyMaskError, match=r"mask of 'slide\.tif' has no pixel"):
        streamed(lazy[0][0], nothing[None])
    with pytest.raises(EmptyMaskError, match="mask of all images of case 0 has no pixel"):
        streamed([images], [[nothing, nothing]])
    with pytest.raises(EmptyMaskError, match="mask of image 1 of the batch"):
        module(torch.stack([images[0]] * 2), torch.stack([masks[0], nothing]))
    with pytest.raises(ValueError, match=r"Add the channel with mask\[:, None\]"):
        streamed(images[0][None], masks[0])
    with pytest.raises(ValueError, match="takes a mask"):
        module(images[0][None], masks[0][None].expand(1, 3, 7, 9))
    assert "pool" in streamed.summary(64, 32)
