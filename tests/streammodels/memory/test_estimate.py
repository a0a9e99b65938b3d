"""Kept memory grows with the number of strips only, and the estimate follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from streammodels import stream
from streammodels.backprop.checkpointing import Keeping, Schedule
from streammodels.core.frozen_prefix import nodes_needing_grad
from streammodels.memory.budget import default_keeping, fastest_within, parse_bytes
from streammodels.memory.estimate import StepMemory
from streammodels.orientation import Orientation
from streammodels.tracing.trace import trace


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )


def kept_bytes(module: nn.Module, height: int, strip_rows: int) -> int:
    """Bytes of maps that autograd keeps between forward and backward, the image aside."""
    kept: list[int] = []
    image = torch.rand(1, 3, height, 32)

    def pack(tensor: Tensor) -> Tensor:
        is_map = tensor.ndim == 4 and tensor.shape[0] == 1 and tensor.data_ptr() != image.data_ptr()
        kept.append(tensor.numel() * tensor.element_size() if is_map else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = stream(module, strip_rows=strip_rows, keeping=Keeping())(image)
    assert result.requires_grad
    return sum(kept)


def test_kept_bytes_grow_with_the_number_of_strips_and_not_with_their_height() -> None:
    few, more = kept_bytes(network(), 128, 32), kept_bytes(network(), 256, 64)
    assert 0 < few == more  # four strips each
    assert kept_bytes(network(), 256, 32) == pytest.approx(few * 7 / 3, rel=0.01)
    assert few < 128 * 32 * 8 * 4 / 4


def test_one_strip_keeps_nothing() -> None:
    assert kept_bytes(network(), 64, 64) == 0


@pytest.mark.parametrize("mode", ["frozen", "no_grad"])
def test_without_training_nothing_is_kept(mode: str) -> None:
    module = network()
    if mode == "frozen":
        module.requires_grad_(False)
    kept: list[Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with hooks, torch.set_grad_enabled(mode == "frozen"):
        assert stream(module, strip_rows=4)(torch.rand(1, 3, 64, 32)).grad_fn is None
    assert not kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GB", 8_000_000_000), ("500 MiB", 500 * 2**20), ("1.5kB", 1500), (1234, 1234), ("2g", 2 * 10**9), ("7", 7)],
)
def test_bytes_are_read(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "8 bananas", "-3GB", 0, "0MB", "8PB"])
def test_bytes_that_make_no_sense_are_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="not understood"):
        parse_bytes(text)


def step_memory(module: nn.Module, batch: int, height: int, width: int, images: int = 1) -> StepMemory:
    engine = Orientation(trace(module), sideways=False).engine
    tensors = [node.tensors() for node in engine.nodes]
    needs = nodes_needing_grad(engine.nodes, tensors)
    return StepMemory(engine, tensors, tuple(needs), batch, None, height, width, images=images)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 9, padding=4)
        self.merged = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        coarse = self.coarse(nn.functional.max_pool2d(fine, 4))
        return self.merged(torch.cat([fine, nn.functional.interpolate(coarse, scale_factor=4.0)], dim=1))


def test_rows_of_a_decoder_that_waited_are_saved_with_the_last_strip() -> None:
    memory = step_memory(Decoder(), 1, 256, 64)
    # 20 rows of the joined map wait, for four coarse rows below, and four rows for a whole one; the others are few.
    assert 20 * 64 * 8 * 4 <= memory.late(32) <= 22 * 64 * 8 * 4
    assert memory.late(256) == 0
    assert memory.total(Schedule(32, Keeping())) > memory.in_strip(32) + memory.late(32)
    assert step_memory(network(), 1, 256, 64).late(32) == 0


@pytest.mark.slow
def test_estimate_grows_with_batch_and_image() -> None:
    module, strips = resnet18(weights=None).eval(), Schedule(64, Keeping())
    small = step_memory(module, 1, 1024, 512).total(strips)
    assert step_memory(module, 2, 1024, 512).total(strips) > 1.1 * small
    assert step_memory(module, 1, 2048, 512).total(strips) > small
    assert step_memory(module, 1, 1024, 512).total(Schedule(1024, Keeping())) > 1.5 * small


def test_kept_graphs_span_from_strips_to_plain_training() -> None:
    memory = step_memory(resnet18(weights=None).eval(), 1, 2048, 512)
    sizes = [memory.total(Schedule(128, Keeping(graphs=graphs))) for graphs in (0, 4, 8, 16)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0.6 * memory.total(Schedule(2048, Keeping(graphs=1)))


def test_fewer_kept_carries_take_less_memory() -> None:
    memory = step_memory(resnet18(weights=None).eval(), 1, 8192, 512)
    every, few = (memory.total(Schedule(16, Keeping(every=k))) for k in (1, 20))
    assert few < 0.5 * every


def test_frozen_layers_take_no_memory_for_gradients() -> None:
    module = resnet18(weights=None).eval()
    whole = step_memory(module, 1, 1024, 512)
    for layer in (module.conv1, module.bn1, module.layer1, module.layer2):
        layer.requires_grad_(False)
    partly = step_memory(module, 1, 1024, 512)
    assert partly.saved < 0.5 * whole.saved
    assert whole.prefix_bytes == 0
    assert partly.prefix_bytes == 128 * (1024 // 8) * (512 // 8) * 4
    assert default_keeping(partly, 512).frozen
    assert not default_keeping(partly, 1).frozen


@pytest.mark.slow
def test_the_more_memory_the_less_is_computed_again() -> None:
    memory = step_memory(resnet18(weights=None).eval(), 1, 4096, 1024)
    schedules = [fastest_within(memory, budget) for budget in (4 * 10**8, 10**9, 3 * 10**9, 10**11)]
    recomputed = [1 - min(1.0, c.keeping.graphs / memory.strips(c.strip_rows)) for c in schedules]
    assert recomputed == sorted(recomputed, reverse=True)
    assert recomputed[0] > 0.8
    assert recomputed[-1] == 0
    for schedule, budget in zip(schedules, (4 * 10**8, 10**9, 3 * 10**9, 10**11), strict=True):
        assert memory.total(schedule) <= budget


@pytest.mark.slow
def test_images_of_a_list_share_the_budget_but_not_the_weights() -> None:
    module = resnet18(weights=None).eval()
    alone, four = step_memory(module, 1, 1024, 512), step_memory(module, 1, 1024, 512, images=4)
    strips = Schedule(64, Keeping())
    assert alone.total(strips) < four.total(strips) < 4 * alone.total(strips)
    assert four.total(strips) - alone.total(strips) == pytest.approx(3 * 15 * 1.1 * alone.carried(64), rel=0.01)
    trunk = stream(module, memory="350MB")
    assert trunk([torch.rand(3, 224, 222)] * 4).shape == (4, 1000)


@pytest.mark.slow
def test_least_memory_keeps_few_carries() -> None:
    memory = step_memory(resnet18(weights=None).eval(), 1, 65_536, 4096)
    with pytest.raises(ValueError, match="too small"):
        fastest_within(memory, 10**6)
    assert fastest_within(memory, 3 * 10**9).keeping.every >= 1


def test_budget_too_small_says_how_much_is_needed() -> None:
    with pytest.raises(ValueError, match=r"too small.*need least, about [0-9.]+ MB"):
        stream(network(), memory="10kB").plan(512, 256)


def test_budget_gives_the_plain_result() -> None:
    module, image = network(), torch.rand(2, 3, 300, 40)
    trunk = stream(module, memory="800kB")
    assert trunk.plan(300, 40).strips > 1
    torch.testing.assert_close(trunk(image), module(image))
