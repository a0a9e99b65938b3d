"""Operations that a strip asks the device for, beside those of plain training, of networks of torchvision.

Operations are counted that read or write memory of the device (no views), of strips in which all layers run, with the
gradients added as on a GPU. No time is taken: the counts are the same on every machine.

    python tests/benchmarks/operators.py resnet18 resnet50 densenet121
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import torch
import torchvision
from torch import nn

from streammodels import stream
from streammodels.backprop import bptt
from streammodels.backprop.grad_sums import GradSums

ROWS, STRIPS, MORE_STRIPS = 64, 8, 16


def counting() -> ModuleType:
    """The module that counts, which is a test's."""
    path = Path(__file__).parents[1] / "streammodels" / "backprop" / "test_operators.py"
    spec = importlib.util.spec_from_file_location("test_operators", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Print a row of a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet18", "resnet50", "densenet121"], help="of torchvision")
    count = counting()
    bptt.GradSums = lambda leaves, **_: GradSums(leaves, together=True)  # type: ignore[assignment,misc]
    print("| network | plain, forward | a strip | plain, a step | recomputation and backward pass of a strip |")
    print("|---|---|---|---|---|")
    for name in parser.parse_args().networks:
        network: nn.Module = torchvision.models.get_model(name, weights=None).eval()
        torch.manual_seed(0)
        forward, backward = count.step(network, ROWS * STRIPS)
        streamed = stream(network, strip_rows=ROWS)
        streamed.kernel_pixels = 1
        few, many = (count.step(streamed, ROWS * strips) for strips in (STRIPS, MORE_STRIPS))
        own = [(after - before) / (MORE_STRIPS - STRIPS) for before, after in zip(few, many, strict=True)]
        print(f"| {name} | {forward} | {own[0]:.0f} | {forward + backward} | {own[1]:.0f} |")


if __name__ == "__main__":
    main()
