"""Random search for networks whose streamed outputs or gradients differ from plain ones.

The networks are those of ``tests/streammodels/test_streaming.py`` (chains, residual and dense joins, mixed kernels,
strides, dilations, paddings, poolings, global pools), on larger images and with everything that should change no result
drawn at random too: strip height, quanta of rows, and what is kept for the backward pass. Every round has a seed; a
mismatch is printed with the seed of its round, and ends the hunt with exit status 1.

A mismatch is a relative difference above 1e-12, and above ten times what the plain network itself differs by when its
image and weights change in their last bit: some random networks divide by next to nothing. Those are counted.

    python tests/benchmarks/network_hunt.py --minutes 10
    python tests/benchmarks/network_hunt.py --seed 17 --rounds 1    # one round again
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st
from torch import nn

from streammodels import StreamedModule, UnsupportedLayerError
from streammodels.backprop.checkpointing import Keeping

TESTS = Path(__file__).resolve().parents[1] / "streammodels"
EXAMPLES_PER_ROUND = 40


def load(name: str) -> ModuleType:
    """Import a test module from its file, since tests are not a package."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


COMPARISON, GENERATOR = load("conftest"), load("test_streaming")


class Tally:
    """Counts of what was tested."""

    def __init__(self) -> None:
        self.compared, self.refused, self.sensitive, self.worst = 0, 0, 0, 0.0


def compare(network: nn.Module, batch: int, height: int, width: int, data: Any, tally: Tally) -> None:
    """Test one network on one image; raises if it is not exact."""
    strip_rows = data.draw(st.one_of(st.integers(1, 9), st.integers(1, max(height, width) + 3)), label="strip_rows")
    keeping = Keeping(data.draw(st.integers(1, 4), label="every"), data.draw(st.integers(0, 4), label="graphs"))
    quantum = data.draw(st.sampled_from([1, 1, 16, 200, 1024]), label="kernel_pixels")
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 2.0)
    network.double()
    image = torch.randn(batch, 2, height, width, dtype=torch.float64)
    note(str(network))
    streamed = StreamedModule(network, strip_rows=strip_rows, keeping=keeping)
    streamed.kernel_pixels = quantum
    try:
        plain = COMPARISON.run(network, network, image)
    except RuntimeError:  # the image is too small for the plain network: for the streamed one too
        refused(streamed, image)
        tally.refused += 1
        return
    name, far = farthest(COMPARISON.run(streamed, network, image), plain)
    tally.compared += 1
    if far > COMPARISON.RELATIVE_TOLERANCE:
        own = last_bits(network, image, plain)
        assert far <= 10 * own, f"{name} is off by {far:.3g}, relative; the plain network's own rounding is {own:.3g}"
        tally.sensitive += 1
    else:
        tally.worst = max(tally.worst, far)


def farthest(result: Any, plain: Any) -> tuple[str, float]:
    """Name and relative error of the output or gradient that differs most."""
    scale = 1e-6 * max((float(grad.norm()) for grad in plain.grads.values() if grad is not None), default=0.0)
    far = {name: COMPARISON.distance(result.grads[name], grad, scale) for name, grad in plain.grads.items()}
    far["output"] = COMPARISON.distance(result.output, plain.output)
    name = max(far, key=lambda key: far[key])
    return name, far[name]


def last_bits(network: nn.Module, image: torch.Tensor, plain: Any) -> float:
    """Change of the plain results when every number of image and weights changes by up to its last bit."""
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for value in (*moved.parameters(), image := image.clone()):
            value.mul_(1 + torch.finfo(value.dtype).eps * (2 * torch.rand_like(value) - 1))
    return farthest(COMPARISON.run(moved, moved, image), plain)[1]


def refused(streamed: nn.Module, image: torch.Tensor) -> None:
    """Raise unless the streamed network rejects the image."""
    try:
        streamed(image)
    except UnsupportedLayerError:
        raise
    except (RuntimeError, ValueError, IndexError):
        return
    raise AssertionError("the plain network refuses the image, the streamed one does not")


def hunt_round(number: int, tally: Tally) -> None:
    """Test one round of generated networks; raises at a mismatch."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES_PER_ROUND, deadline=None, database=None, print_blob=False,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        network=GENERATOR.networks(), batch=st.integers(1, 3), height=st.integers(1, 90), width=st.integers(1, 90),
        data=st.data(),
    )  # fmt: skip
    def one(network: nn.Module, batch: int, height: int, width: int, data: Any) -> None:
        compare(network, batch, height, width, data, tally)

    one()


def main() -> int:
    """Read the arguments, hunt, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to hunt")
    parser.add_argument("--rounds", type=int, help=f"rounds of {EXAMPLES_PER_ROUND} networks, instead of --minutes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally, start, number = Tally(), time.monotonic(), options.seed
    while number < options.seed + options.rounds if options.rounds else time.monotonic() - start < 60 * options.minutes:
        try:
            hunt_round(number, tally)
        except BaseException:
            print(f"MISMATCH in the round with --seed {number} --rounds 1", flush=True)
            raise
        number += 1
    minutes = (time.monotonic() - start) / 60
    print(
        f"{minutes:.1f} minutes, seeds {options.seed}..{number - 1}: {tally.compared} networks compared, largest "
        f"relative difference {tally.worst:.1e} but for {tally.sensitive} that amplify rounding more than that; "
        f"{tally.refused} refused an image as the plain network did"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
