"""Heads: each equals its textbook formula on a whole map, and itself when streamed."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from streammodels import (
    AttentionGeM,
    GatedAttention,
    GeM,
    GlobalAvgPool,
    GlobalMaxPool,
    GlobalPool,
    GlobalSumPool,
    GlobalWeightedPool,
    LogSumExp,
    PerClassLinear,
    SigmoidAttention,
    SoftmaxPool,
    TopPixelsPool,
    UnsupportedLayerError,
    stream,
)
from streammodels.core.reductions import GlobalAverage, Reduction

Compare = Callable[..., float]

HEADS: dict[str, Callable[[], nn.Module]] = {
    "avg": GlobalAvgPool,
    "max": GlobalMaxPool,
    "gem": GeM,
    "gem of high power": lambda: GeM(p=40.0),
    "lse": LogSumExp,
    "lse trained": lambda: LogSumExp(r=3.0, learnable=True),
    "lse negative": lambda: LogSumExp(r=-2.0, learnable=True),
    "attention": lambda: GatedAttention(4, hidden=3),
    "attention, several heads": lambda: GatedAttention(4, hidden=5, heads=3),
    "sum": GlobalSumPool,
    "largest": lambda: TopPixelsPool(3),
    "softmax": SoftmaxPool,
    "softmax trained": lambda: SoftmaxPool(r=-3.0, learnable=True),
    "sigmoid attention": lambda: SigmoidAttention(4, hidden=3, heads=2),
    "attention gem": lambda: AttentionGeM(4, hidden=3, p=2.0),
    "attention gem of high power": lambda: AttentionGeM(4, hidden=3, heads=2, gated=False, p=30.0),
    "weighted by class": GlobalWeightedPool,
    "weighted by class, no size": lambda: GlobalWeightedPool(background=None, size_term=False, epsilon=0.1),
    "attention, not gated": lambda: GatedAttention(4, hidden=5, heads=1, gated=False),
}


def softmax_pool(head: GatedAttention, features: Tensor) -> Tensor:
    """Ilse et al. 2018, equations 7 to 9, on a list of pixels."""
    pixels = features.flatten(2).transpose(1, 2)
    hidden = torch.tanh(head.tanh_branch(pixels))
    if head.sigmoid_branch is not None:
        hidden = hidden * torch.sigmoid(head.sigmoid_branch(pixels))
    weights = torch.softmax(head.score(hidden), dim=1)
    vectors = torch.einsum("bnk,bnc->bkc", weights, pixels)
    return vectors[:, 0] if head.heads is None else vectors


def weighted_by_class(
    scores: Tensor, background: float | None, epsilon: float, power: float, floor: float, size_term: bool
) -> Tensor:
    """Araslanov and Roth 2020, as they put it: masks, logits by weight, and the focal penalty."""
    if background is not None:
        scores = torch.cat([torch.full_like(scores[:, :1], background), scores], dim=1)
    masks = scores.softmax(dim=1)
    pooled = (scores * masks).sum((2, 3)) / (epsilon + masks.sum((2, 3)))
    size = masks.mean((2, 3))
    result = pooled + (1 - size) ** power * torch.log(floor + size) if size_term else pooled
    return result if background is None else result[:, 1:]


def textbook(head: nn.Module, features: Tensor) -> Tensor:
    pixels = features.flatten(2)
    if isinstance(head, GlobalAvgPool):
        return nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)
    if isinstance(head, GlobalMaxPool):
        return nn.functional.adaptive_max_pool2d(features, 1).flatten(1)
    if isinstance(head, GeM):
        return pixels.clamp(min=head.epsilon).pow(head.p).mean(2).pow(1 / head.p)
    if isinstance(head, LogSumExp):
        return (torch.logsumexp(head.r * pixels, 2) - log(pixels.shape[2])) / head.r
    if isinstance(head, TopPixelsPool):
        return pixels.topk(min(head.pixels, pixels.shape[2]), dim=2).values.mean(2)
    if isinstance(head, GlobalSumPool):
        return pixels.sum(2)
    if isinstance(head, SoftmaxPool):
        return ((head.r * pixels).softmax(2) * pixels).sum(2)
    if isinstance(head, GlobalWeightedPool):
        return weighted_by_class(features, *head.settings)
    assert isinstance(head, GatedAttention)
    if isinstance(head, SigmoidAttention | AttentionGeM):
        scores = GatedAttention.scores_with(features, *[t for t in GatedAttention.tensors(head) if t is not None])
        weights = scores.flatten(2).sigmoid() if isinstance(head, SigmoidAttention) else scores.flatten(2).softmax(2)
        weights = weights / weights.sum(2, keepdim=True)
        values = pixels.clamp(min=head.epsilon) ** head.p if isinstance(head, AttentionGeM) else pixels
        vectors = torch.einsum("bkn,bcn->bkc", weights, values)
        vectors = vectors ** (1 / head.p) if isinstance(head, AttentionGeM) else vectors
        return vectors[:, 0] if head.heads is None else vectors
    return softmax_pool(head, features)


def outcomes(module: nn.Module, call: Callable[[Tensor], Tensor], image: Tensor) -> list[Tensor]:
    """Output, and gradients of the image and of all parameters."""
    module.zero_grad()
    entered = image.clone().requires_grad_()
    output = call(entered)
    (output * torch.linspace(-1.0, 2.0, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    grads = [entered.grad, *(p.grad for p in module.parameters())]
    return [output.detach(), *(grad.clone() for grad in grads if grad is not None)]


@pytest.mark.parametrize("name", HEADS)
def test_plain_module_is_the_textbook_formula(name: str) -> None:
    head, features = HEADS[name]().double(), torch.randn(2, 4, 5, 7, dtype=torch.float64)
    ours = outcomes(head, head, features)
    expected = outcomes(head, lambda x: textbook(head, x), features)
    for actual, value in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-11, atol=1e-12)


def trunk(head: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1), head
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(
    name=st.sampled_from(list(HEADS)),
    scale=st.sampled_from([0.1, 1.0, 1.0, 30.0, 1e3]),
    batch=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 20),
    strip_rows=st.integers(1, 45),
    upside_down=st.booleans(),
)
def test_generated_heads_are_exact(
    name: str,
    scale: float,
    batch: int,
    height: int,
    width: int,
    strip_rows: int,
    upside_down: bool,
    assert_exact: Compare,
) -> None:
    torch.manual_seed(2)
    network = trunk(HEADS[name]())
    for layer in (network[0], network[2]):
        nn.init.normal_(layer.get_parameter("weight"), std=0.5)
    image = torch.randn(batch, 2, height, width, dtype=torch.float64) * scale
    image[:, :, height // 2 :] *= 0.01  # the running maximum jumps, upwards or downwards
    assert_exact(network, image.flip(2) if upside_down else image, strip_rows)


def test_projection_between_trunk_and_head_streams(assert_exact: Compare) -> None:
    projected = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), GatedAttention(6, 3, heads=2))
    network = nn.Sequential(trunk(projected), nn.Flatten(), nn.Linear(12, 3))
    assert_exact(network, torch.randn(2, 2, 31, 9, dtype=torch.float64), 4)


def test_per_class_attention_with_a_classifier_for_each_class(assert_exact: Compare) -> None:
    network = nn.Sequential(trunk(GatedAttention(4, 3, heads=3)), PerClassLinear(4, 3))
    assert_exact(network, torch.randn(2, 2, 31, 9, dtype=torch.float64), 4)


def test_of_equal_pixels_the_first_are_taken() -> None:
    image = torch.zeros(1, 1, 6, 9, requires_grad=True)
    stream(TopPixelsPool(11), strip_rows=2)(image).sum().backward()
    assert image.grad is not None
    torch.testing.assert_close(image.grad.flatten() * 11, (torch.arange(54) < 11).float())


def test_per_class_linear_reads_each_class_vector_only() -> None:
    layer, vectors = PerClassLinear(4, 3), torch.randn(2, 3, 4)
    expected = torch.stack([vectors[:, k] @ layer.weight[k] + layer.bias[k] for k in range(3)], dim=1)
    torch.testing.assert_close(layer(vectors), expected)
    torch.testing.assert_close(layer(vectors.flatten(1)), expected)


class TwoPools(nn.Module):
    """Two pools of one map, and one of an earlier map."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(2, 4, 3, 2), nn.Conv2d(4, 4, 3)
        self.attention, self.gem, self.maximum = GatedAttention(4, 3, heads=2), GeM(), GlobalMaxPool()

    def forward(self, image: Tensor) -> Tensor:
        early = self.early(image)
        late = self.late(early)
        return torch.cat([self.attention(late).flatten(1), self.gem(late), self.maximum(early)], dim=1)


def test_several_heads_on_several_maps(assert_exact: Compare) -> None:
    assert_exact(TwoPools(), torch.randn(2, 2, 33, 15, dtype=torch.float64), 3)


@pytest.mark.parametrize("name", HEADS)
def test_gradcheck(name: str) -> None:
    network = trunk(HEADS[name]()).double()
    network[1] = nn.Tanh()
    streamed = stream(network, strip_rows=3)
    image = torch.randn(1, 2, 11, 5, dtype=torch.float64, requires_grad=True)
    parameters = [p for p in network.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda image, *_: streamed(image), (image, *parameters), fast_mode=True)


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = trunk(HEADS[name]())  # what DistributedDataParallel waits for
    stream(network, strip_rows=4)(torch.randn(1, 2, 20, 9)).sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", HEADS)
def test_autocast_agrees_with_plain(name: str) -> None:
    network, image = trunk(HEADS[name]()), torch.rand(2, 2, 40, 24)
    with torch.autocast("cpu", torch.bfloat16):
        plain = outcomes(network, network, image)
        streamed = outcomes(network, stream(network, strip_rows=8), image)
    assert streamed[0].dtype == plain[0].dtype
    for actual, expected in zip(streamed, plain, strict=True):
        assert float((actual - expected).float().norm()) <= 0.02 * float(expected.float().norm()) + 1e-3


@pytest.mark.parametrize("name", HEADS)
def test_half_precision_maps_are_summed_in_single_precision(name: str) -> None:
    head, features = HEADS[name](), torch.rand(1, 4, 200, 300)
    expected = head(features)
    outcome = head.bfloat16()(features.bfloat16())
    assert outcome.dtype == torch.bfloat16
    torch.testing.assert_close(outcome.float(), expected, rtol=2e-2, atol=1e-3)


def flops(step: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        step().sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize("strip_rows", [4, 16, 100])
def test_attention_is_computed_once_forwards_and_once_again_backwards(strip_rows: int) -> None:
    network, image = trunk(GatedAttention(4, 8, heads=2)), torch.randn(1, 2, 64, 24)
    streamed = stream(network, strip_rows=strip_rows)
    with FlopCounterMode(display=False) as once, torch.no_grad():
        network(image)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        streamed(image)
    assert forward.get_total_flops() == once.get_total_flops()

    def checkpointed() -> Tensor:
        result: Tensor = checkpoint(network, image, use_reentrant=False)
        return result

    plain = flops(lambda: network(image))
    assert flops(checkpointed) == plain + int(once.get_total_flops())
    assert plain <= flops(lambda: streamed(image)) <= flops(checkpointed)  # strips whose graph is kept run once


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_no_tensor_grows_with_the_height_of_the_map(name: str, largest_tensor: Any) -> None:
    streamed, image = stream(trunk(HEADS[name]()), strip_rows=8), torch.randn(1, 2, 256, 40)
    with largest_tensor:
        streamed(image).sum().backward()
    assert largest_tensor.numbers < 4 * 128 * 20 / 10  # a tenth of the map; a few numbers of every strip are kept


@pytest.mark.parametrize("name", [name for name in HEADS if name != "max"])
def test_nan_spreads_as_in_the_textbook_formula(name: str) -> None:
    head, features = HEADS[name]().double(), torch.rand(1, 4, 9, 3, dtype=torch.float64)
    features[0, 1, 4, 2] = float("nan")
    expected = textbook(head, features)
    assert expected.isnan().any()
    for strip_rows in (1, 4, 9):
        torch.testing.assert_close(stream(head, strip_rows=strip_rows)(features), expected, equal_nan=True)


@pytest.mark.parametrize("name", ["avg", "max", "gem", "gem of high power", "lse", "lse trained"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
@pytest.mark.parametrize("everywhere", [False, True])
def test_infinities_are_those_of_the_textbook_formula(name: str, value: float, everywhere: bool) -> None:
    head, features = HEADS[name]().double(), torch.rand(1, 4, 9, 3, dtype=torch.float64) - 0.5
    features[0, 1, 4, 2] = value
    features[0, 2, slice(None) if everywhere else 3] = value
    expected = textbook(head, features)
    for strip_rows in (1, 4, 9):
        torch.testing.assert_close(stream(head, strip_rows=strip_rows)(features), expected, equal_nan=True)


def test_large_values_do_not_overflow() -> None:
    features = torch.tensor([100.0, 400.0, 200.0]).view(1, 1, 3, 1)
    streamed = [stream(head, strip_rows=1)(features) for head in (GeM(p=30.0), LogSumExp(r=2.0))]
    assert streamed[0].item() == pytest.approx(400 * 3 ** (-1 / 30), rel=1e-5)
    assert streamed[1].item() == pytest.approx(400 - log(3) / 2, rel=1e-5)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    head, features = GatedAttention(1, 1, gated=False), torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 1, 4, 1)
    with torch.no_grad():
        head.tanh_branch.weight.fill_(50.0)
        head.score.weight.fill_(1e4)
    assert stream(head, strip_rows=1)(features).item() == 1


def test_first_of_equal_maxima_and_last_of_nans_get_the_gradient_as_in_torch() -> None:
    for row in ([0.0, 2.0, 1.0, 2.0, 2.0], [0.0, float("nan"), 1.0, float("nan"), 2.0]):
        image = torch.tensor(row).view(1, 1, 5, 1)
        head = GlobalMaxPool()
        plain = outcomes(head, lambda x: nn.functional.adaptive_max_pool2d(x, 1).flatten(1), image)
        streamed = outcomes(head, stream(head, strip_rows=1), image)
        for actual, expected in zip(streamed, plain, strict=True):
            assert torch.equal(actual.nan_to_num(-1), expected.nan_to_num(-1))


def test_dropout_repeats_its_numbers_in_the_backward_pass() -> None:
    head = GatedAttention(4, 6, dropout=0.5)
    network = trunk(head).double()
    network[1] = nn.Tanh()
    streamed = stream(network, strip_rows=3)
    image = torch.randn(1, 2, 11, 5, dtype=torch.float64, requires_grad=True)

    def seeded(image: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(5)
        return streamed(image)

    assert torch.autograd.gradcheck(seeded, (image, *network.parameters()), fast_mode=True)
    one = seeded(image)
    assert not torch.equal(streamed(image), one)
    head.eval()
    assert torch.equal(seeded(image), streamed(image))


def test_dropout_in_one_strip_is_that_of_the_plain_module() -> None:
    network, image = trunk(GatedAttention(4, 6, dropout=0.5)).double(), torch.randn(2, 2, 21, 9, dtype=torch.float64)
    outcome = []
    for call in (network, stream(network, strip_rows=21)):
        torch.manual_seed(5)
        outcome.append(outcomes(network, call, image))
    for actual, expected in zip(outcome[1], outcome[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


def test_head_inside_the_trunk_is_refused() -> None:
    class Excitation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = GeM()

        def forward(self, features: Tensor) -> Tensor:
            return features * self.pool(features)[:, :, None, None]

    with pytest.raises(UnsupportedLayerError, match="squeeze-and-excitation"):
        stream(nn.Sequential(nn.Conv2d(2, 4, 3), Excitation()), strip_rows=3)


def test_own_pool_streams_by_its_reduction(assert_exact: Compare) -> None:
    class Sum(GlobalAverage):
        def combine(self, parts: tuple[Tensor, ...], pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
            return super().combine(parts, 1, dtype)

    class GlobalSum(GlobalPool):
        def reduction(self) -> Reduction:
            return Sum(keep_dimensions=False)

    network, image = trunk(GlobalSum()), torch.randn(1, 2, 21, 9, dtype=torch.float64)
    assert_exact(network, image, 4)
    torch.testing.assert_close(network(image), network[:3](image).sum(dim=(2, 3)))


def test_own_pool_that_knows_left_from_top_is_right_on_wide_images(assert_exact: Compare) -> None:
    class TopRight(Reduction):
        def partial(self, rows: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            return (rows[:, :, 0, -1],)

        def combine(self, parts: tuple[Tensor, ...], pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
            return parts[0][0]

    class TopRightPool(GlobalPool):
        def reduction(self) -> Reduction:
            return TopRight()

    assert_exact(trunk(TopRightPool()), torch.randn(1, 2, 9, 41, dtype=torch.float64), 4)


def test_own_forward_is_refused_because_strips_would_not_call_it() -> None:
    with pytest.raises(TypeError, match="forward of its own"):
        type("Doubled", (GeM,), {"forward": lambda self, features: 2 * features})


@pytest.mark.parametrize("layer", [nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 1)), nn.Identity()])
def test_attention_with_layers_that_are_no_plain_linear_ones_is_refused(layer: nn.Module) -> None:
    head = GatedAttention(4, 3)
    head.score = layer  # type: ignore[assignment] # what somebody might do
    with pytest.raises(TypeError, match="the tensors of its layers"):
        head(torch.rand(1, 4, 5, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeM(p=0.0), "positive p"),
        (lambda: GeM(epsilon=0.0), "positive epsilon"),
        (lambda: LogSumExp(r=0.0), "other than 0"),
        (lambda: LogSumExp(r=float("inf")), "finite"),
        (lambda: GatedAttention(0), "channels of at least 1"),
        (lambda: GatedAttention(4, heads=0), "heads of at least 1"),
        (lambda: GatedAttention(4, dropout=1.0), "dropout of at least 0"),
        (lambda: GeM()(torch.rand(4, 5, 5)), r"expected a \(B, C, H, W\) map"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_state_dicts_have_the_documented_keys() -> None:
    assert list(GeM().state_dict()) == list(GeM(learnable=False).state_dict()) == ["p"]
    assert list(LogSumExp().state_dict()) == list(LogSumExp(learnable=True).state_dict()) == ["r"]
    assert not GlobalAvgPool().state_dict()
    assert not GlobalMaxPool().state_dict()
    branches = [f"{name}.{part}" for name in ("tanh_branch", "sigmoid_branch") for part in ("weight", "bias")]
    assert list(GatedAttention(4).state_dict()) == [*branches, "score.weight"]
    assert list(PerClassLinear(4, 2).state_dict()) == ["weight", "bias"]


def test_gradient_of_attention_behind_a_batch_norm_is_exact() -> None:
    """Gradients with channels last in memory, of one image, are not for torch's batch normalization."""
    features = torch.randn(1, 4, 8, 3, dtype=torch.float64, requires_grad=True)
    pool, norm = GatedAttention(4, hidden=3, heads=2).double(), nn.BatchNorm2d(4).double().eval()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    found = torch.autograd.grad(pool(norm(features)).square().sum(), features)
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps))[:, None, None]
    right = torch.autograd.grad(pool(features * scale).square().sum(), features)
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)
