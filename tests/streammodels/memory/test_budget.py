"""The fastest schedule that fits a memory budget is chosen."""

from __future__ import annotations

from collections import Counter

import pytest
from torch import nn
from torchvision.models import resnet18

from streammodels import Keeping, StreamedModule, StreamingResNet, UNet, stream
from streammodels.backprop.checkpointing import Schedule
from streammodels.core.frozen_prefix import nodes_needing_grad
from streammodels.core.row_plan import RowPlan
from streammodels.memory.budget import fastest_within
from streammodels.memory.estimate import StepMemory
from streammodels.memory.speed import fastest_up_to
from streammodels.orientation import Orientation
from streammodels.tracing.trace import trace


@pytest.mark.slow
@pytest.mark.parametrize("height", [256, 301, 347, 499])
def test_as_many_graphs_are_kept_as_fit(height: int) -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.AdaptiveAvgPool2d(1))
    engine = Orientation(trace(module), sideways=False).engine
    tensors = [node.tensors() for node in engine.nodes]
    needs = nodes_needing_grad(engine.nodes, tensors)
    memory = StepMemory(engine, tensors, tuple(needs), 1, None, height, 200)
    for budget in range(9_000_000, 20_000_000, 250_000):
        chosen = fastest_within(memory, budget, speed=fastest_up_to(200 * 50))
        assert memory.total(chosen) <= budget
        graphs, strips = chosen.keeping.graphs, memory.strips(chosen.strip_rows)
        more = Schedule(chosen.strip_rows, Keeping(graphs=graphs + 1))
        assert chosen.keeping.every == 1
        assert graphs == strips or memory.total(more) > budget


Shapes = tuple[tuple[int, int, int], ...]


def strip_shapes(plan: RowPlan) -> list[Shapes]:
    """For every strip the rows that each node holds, emits and carries."""
    nodes = range(len(plan.totals))
    return [
        tuple((len(plan.held(i, s)), len(plan.new(i, s)), len(plan.carried(i, s))) for i in nodes)
        for s in range(plan.strips)
    ]


@pytest.mark.slow
def test_strips_of_images_of_any_size_have_few_shapes() -> None:
    """So that cudnn.benchmark, torch.compile and CUDA graphs meet few of them."""
    encoder, decoder = resnet18(weights=None).eval(), UNet("resnet18", 2, weights=None).eval()
    for streamed, most in ((stream(encoder, memory="50GB"), 5), (stream(decoder, strip_rows=128), 3)):
        rows, shapes = set(), Counter[Shapes]()
        for height in (1920, 2464, 4096):
            plan = streamed.plan(height, 1600)
            rows.add(plan.ready[0][0])
            shapes.update(strip_shapes(plan)[:-1])
        assert len(rows) == 1
        repeated = [shape for shape, times in shapes.items() if times > 2]
        assert len(repeated) <= most
        assert sum(shapes[shape] for shape in repeated) > 0.7 * shapes.total()


def test_other_heights_are_tried_before_a_budget_is_refused() -> None:
    network = StreamingResNet("resnet9", weights=None, train_streaming_layers=True, memory="600MB")
    trunk = network.streamed_trunk
    assert isinstance(trunk, StreamedModule)
    trunk.kernel_pixels = 1024
    assert trunk.forecast(4096, 4096).strip_rows == 128
    tight = trunk.forecast(16_384, 16_384)
    assert tight.strip_rows == 86  # of 191 equal strips
    assert tight.memory_bytes <= 600e6
