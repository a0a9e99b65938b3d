"""The arms see what they say they see."""

import pytest
import torch
from torch import nn

from study.arms import BORDERS, NEEDLES, WHOLE
from study.networks import Look, build, cut, pool_of, shrunk, trunk

GRAY = Look(colors=1, mean=0.275, sd=0.1)


def test_the_streamed_arm_is_the_plain_network_in_strips():
    torch.manual_seed(0)
    model = build(WHOLE, GRAY, strip_rows=16).double()
    plain = nn.Sequential(*model.streamed.module, model.head)
    images = torch.randint(0, 256, (3, 1, 64, 64), dtype=torch.uint8)
    found, expected = model(images), plain(images.double() / 255)[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # the image is scaled in float32
    of_found, of_expected = (torch.autograd.grad(one.sum(), list(model.parameters())) for one in (found, expected))
    for ours, theirs in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_tiles_cover_the_image_in_order():
    image = torch.arange(2 * 3 * 12 * 8).reshape(2, 3, 12, 8)
    tiles = cut(image, 4, 4)
    assert tiles.shape == (2, 6, 3, 4, 4)
    assert (tiles[1, 3] == image[1, :, 4:8, 4:8]).all()
    assert tiles[0].flatten().sort().values.tolist() == image[0].flatten().sort().values.tolist()
    assert cut(image, 4, 2).shape[1] == 5 * 3
    with pytest.raises(ValueError, match="tiles of 5 every 5 pixels do not cover 12"):
        cut(image, 5, 5)


def test_a_tile_as_large_as_the_image_is_the_whole_image():
    one = next(arm for arm in BORDERS if arm.tile_px == 48)
    images = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    tiles, whole = build(one, GRAY, strip_rows=None), build(WHOLE, GRAY, strip_rows=None)
    whole.streamed.module[0].load_state_dict(tiles.trunk.state_dict())
    whole.head.load_state_dict(tiles.head.state_dict())
    torch.testing.assert_close(tiles(images), whole(images))


@pytest.mark.parametrize("arm", NEEDLES, ids=lambda arm: arm.name)
def test_every_arm_has_gradients_everywhere(arm):
    torch.manual_seed(1)
    model = build(arm, GRAY, strip_rows=32, features=5)
    inputs = (
        torch.rand(2, 9, 5) if arm.reads == "features" else torch.randint(0, 256, (2, 1, 96, 96), dtype=torch.uint8)
    )
    model(inputs).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_sampled_tiles_are_drawn_in_training_only():
    arm = next(arm for arm in NEEDLES if arm.sampled)
    model = build(arm, GRAY, strip_rows=None)
    images = torch.randint(0, 256, (1, 1, 96, 96), dtype=torch.uint8)
    assert len({model(images).item() for _ in range(8)}) > 1
    model.eval()
    assert model(images).item() == model(images).item()


def test_shrinking_is_the_mean_and_keeps_the_scale_of_the_network():
    images = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    assert shrunk(images, 4)[0, 0, 1, 0].item() == pytest.approx(images[0, 0, 4:, :4].float().mean().item() / 255)
    for arm in NEEDLES:
        if arm.reads == "image" and "same strides" not in arm.name:
            reduced = torch.tensor(arm.strides).prod() * arm.shrink
            assert reduced == 4, arm.name
    assert pool_of("lse").r == 4
    assert trunk((1, 1, 1, 1), GRAY)[0].mean.item() == pytest.approx(0.275)
