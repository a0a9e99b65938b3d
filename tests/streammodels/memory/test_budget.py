"""The fastest schedule that fits a memory budget is chosen."""

from __future__ import annotations

import pytest
from torch import nn

from streammodels import Keeping
from streammodels.backprop.checkpointing import Schedule
from streammodels.core.frozen_prefix import nodes_needing_grad
from streammodels.memory.budget import fastest_within
from streammodels.memory.estimate import StepMemory
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
        chosen = fastest_within(memory, budget, most_pixels=200 * 50)
        assert memory.total(chosen) <= budget
        graphs, strips = chosen.keeping.graphs, memory.strips(chosen.strip_rows)
        more = Schedule(chosen.strip_rows, Keeping(graphs=graphs + 1))
        assert chosen.keeping.every == 1
        assert graphs == strips or memory.total(more) > budget
