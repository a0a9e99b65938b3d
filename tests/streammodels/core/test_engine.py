"""Recomputed strips have the random numbers and autocast types of the forward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from streammodels import Keeping, stream


def noisy(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), layer, nn.Conv2d(4, 2, 3, padding=1)).double()


# ---------------------------------------------------------------- random layers


def test_dropout_gradient_has_the_mask_of_the_result() -> None:
    trunk = stream(nn.Sequential(nn.Dropout(0.5)).train(), strip_rows=3)
    image = torch.ones(1, 2, 20, 9, requires_grad=True)
    result = trunk(image)
    assert set(result.unique().tolist()) == {0.0, 2.0}
    result.sum().backward()
    assert torch.equal(image.grad, result.detach())


@pytest.mark.parametrize("layer", [nn.Dropout(0.4), nn.Dropout2d(0.4), nn.Dropout(0.4, inplace=True)])
def test_dropout_gradients_equal_finite_differences_under_one_seed(layer: nn.Module) -> None:
    network = noisy(layer).train()
    trunk = stream(network, strip_rows=3)
    image = torch.randn(1, 2, 10, 4, dtype=torch.float64)
    weight = network.get_parameter("0.weight")

    def loss() -> Tensor:
        torch.manual_seed(11)
        value: Tensor = trunk(image).square().sum()
        return value

    loss().backward()
    assert weight.grad is not None
    step = 1e-6
    for index in [(0, 0, 0, 0), (3, 1, 2, 1)]:
        with torch.no_grad():
            weight[index] += step
            above = loss()
            weight[index] -= 2 * step
            below = loss()
            weight[index] += step
        assert float((above - below) / (2 * step)) == pytest.approx(float(weight.grad[index]), rel=1e-6, abs=1e-6)


def test_channel_dropout_drops_whole_channels_of_the_whole_map() -> None:
    trunk = stream(nn.Sequential(nn.Dropout2d(0.5)).train(), strip_rows=3)
    result = trunk(torch.ones(4, 8, 20, 5))
    kept = result.amax(dim=(2, 3))
    assert torch.equal(result, kept[:, :, None, None].expand_as(result))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(trunk(torch.ones(4, 8, 20, 5)), result)


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.4), nn.Dropout2d(0.4), nn.AlphaDropout(0.4), nn.FeatureAlphaDropout(0.4)]
)
def test_dropout_in_eval_mode_is_exact(layer: nn.Module, assert_exact: Callable[..., float]) -> None:
    assert_exact(noisy(layer).eval(), torch.randn(1, 2, 10, 4, dtype=torch.float64), 3)


def test_dropout_share_and_scale() -> None:
    result = stream(nn.Sequential(nn.Dropout(0.25)).train(), strip_rows=7)(torch.ones(1, 1, 200, 200))
    assert float(result.mean()) == pytest.approx(1, abs=0.02)
    assert float((result == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_backward_leaves_the_random_state_alone_and_forward_moves_it() -> None:
    trunk = stream(noisy(nn.Dropout(0.4)).train(), strip_rows=3)
    start = torch.get_rng_state()
    loss = trunk(torch.randn(1, 2, 10, 4, dtype=torch.float64)).sum()
    before = torch.get_rng_state()
    assert not torch.equal(start, before)
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_same_seed_same_result() -> None:
    trunk, image = stream(noisy(nn.Dropout(0.4)).train(), strip_rows=3), torch.randn(1, 2, 10, 4).double()
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(trunk(image))
    assert torch.equal(*results)


# ---------------------------------------------------------------- autocast


def mixed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8).eval(), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


def test_bfloat16_autocast_agrees_with_plain_and_backward_runs_outside_it() -> None:
    network, image = mixed(), torch.rand(2, 3, 61, 43)
    results, grads = [], []
    for call in (network, stream(network, strip_rows=9)):
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            result = call(image)
        result.float().square().sum().backward()
        results.append(result)
        grads.append([p.grad for p in network.parameters()])
    assert results[0].dtype == results[1].dtype == torch.bfloat16
    torch.testing.assert_close(results[1], results[0], rtol=2e-2, atol=2e-2)
    for actual, expected in zip(grads[1], grads[0], strict=True):
        assert actual is not None
        assert expected is not None
        assert actual.dtype == expected.dtype == torch.float32
        assert float((actual - expected).norm() / expected.norm()) < 3e-2


def test_autocast_recomputation_is_that_of_the_first_pass() -> None:
    network, image = mixed(), torch.rand(1, 3, 61, 43)
    trunk, grads = stream(network, strip_rows=9), []
    for inside in (True, False):
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = trunk(image).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        grads.append(network.get_parameter("0.weight").grad)
    assert torch.equal(*grads)


def test_autocast_weight_cache_is_left_clean() -> None:
    network, image = mixed(), torch.rand(1, 3, 61, 43)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            stream(network, strip_rows=9)(image)
        network(image).float().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_carries_are_kept_in_the_autocast_type() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    saved: list[Tensor] = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
    ):
        stream(network, strip_rows=5)(torch.rand(1, 3, 20, 9))
    carries = [t for t in saved if t.ndim == 4 and t.shape[1] == 8 and t.shape[2] <= 2]
    assert carries
    assert all(t.dtype == torch.bfloat16 for t in carries)


# ---------------------------------------------------------------- operations


def flops(step: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        step().sum().backward()
    return int(counter.get_total_flops())


def resnet_trunk() -> nn.Sequential:
    children = dict(resnet18(weights=None).named_children())
    return nn.Sequential(*(layer for name, layer in children.items() if name not in ("avgpool", "fc"))).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "strip_rows"), [((67, 45), 1000), ((67, 45), 7), ((97, 45), 32)])
def test_training_step_takes_the_operations_of_a_checkpointed_one(size: tuple[int, int], strip_rows: int) -> None:
    """Nothing twice: forward, forward again, backward, whatever the strip height."""
    network, image = resnet_trunk(), torch.randn(1, 3, *size)
    whole = flops(lambda: network(image))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    forward = int(counter.get_total_flops())

    def checkpointed() -> Tensor:
        x = image
        for part in (network[:4], *(block for stage in network[4:] for block in stage)):
            with torch.utils.checkpoint.set_checkpoint_early_stop(False):  # recompute whole blocks, not all but the end
                x = checkpoint(part, x, use_reentrant=False)
        return x

    streamed = flops(lambda: stream(network, strip_rows=strip_rows, keeping=Keeping())(image))
    assert streamed == whole + forward == flops(checkpointed)
    kept = flops(lambda: stream(network, strip_rows=strip_rows, keeping=Keeping(graphs=10**6))(image))
    assert kept == whole


def test_frozen_prefix_is_computed_once_and_costs_no_gradient_work() -> None:
    network, image = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))), torch.randn(1, 4, 40, 20)
    trunk = stream(network, strip_rows=20, keeping=Keeping())
    full = flops(lambda: trunk(image))
    network[:2].requires_grad_(False)
    trunk(image)  # shapes are looked at once, without computing
    one = 2 * 4 * 4 * 9 * 40 * 20
    assert full == 4 * one * 4 - one  # the image needs no gradient
    assert flops(lambda: trunk(image)) == 4 * one + 2 * one + 2 * 2 * one - one
    network[1].requires_grad_(True)
    network[0].requires_grad_(True)
    assert flops(lambda: trunk(image)) == full


def test_image_gradient_of_frozen_network(assert_exact: Callable[..., float]) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2)).requires_grad_(False)
    assert_exact(network, torch.randn(1, 2, 15, 9, dtype=torch.float64), 4)
