"""What DistributedDataParallel costs a streamed network, two gloo processes on one machine.

Its gradients come when all strips are done, so nothing is computed while they are exchanged. Prints the memory that a
process holds with gradients and buckets, its peak in a step, and the seconds of a backward pass with the exchange,
without it, and of a plain one of a single strip. Linux only.

    python tests/benchmarks/streaming_ddp.py
    python tests/benchmarks/streaming_ddp.py --model resnet50 --side 1024 --strips 16
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
import torchvision
from streaming_worker import resident_bytes, settle_memory
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from streammodels import Keeping, stream

REPEATS = 3


def measure(rank: int, options: argparse.Namespace, kind: str, meet: str) -> None:
    """One process: three kinds of backward pass, in turn, after two steps in which the buckets are made."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network: Any = getattr(torchvision.models, options.model)(weights=None, num_classes=2).eval()
    rows = -(-options.side // options.strips)
    streamed: Any = stream(network, strip_rows=rows, keeping=Keeping(graphs=0)) if kind != "plain" else network
    settle_memory()
    before = resident_bytes("VmRSS")
    model = DistributedDataParallel(streamed, gradient_as_bucket_view=kind == "streamed, views")
    image = torch.randn(1, 3, options.side, options.side)
    one_strip = image[:, :, :rows].contiguous()

    def backward(module: Callable[..., Any], pixels: torch.Tensor, exchange: bool) -> float:
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        with nullcontext() if exchange else model.no_sync():
            loss = module(pixels).square().sum()
            distributed.barrier()
            begun = time.perf_counter()
            loss.backward()
        return time.perf_counter() - begun

    backward(model, image, True)
    backward(model, image, True)
    settle_memory()
    held = resident_bytes("VmRSS") - before - image.nbytes
    backward(model, image, True)
    peak = resident_bytes("VmHWM") - before - image.nbytes
    times = [
        (backward(model, image, True), backward(model, image, False), backward(network, one_strip, False))
        for _ in range(REPEATS)
    ]
    if rank == 0:
        seconds = [median(column) for column in zip(*times, strict=True)]
        grads = sum(parameter.nbytes for parameter in network.parameters())
        print(
            f"| {options.model}, {kind} | {grads / 1e6:.0f} | {held / 1e6:.0f} | {peak / 1e6:.0f} | "
            + " | ".join(f"{one:.2f}" for one in seconds) + " |", flush=True,
        )  # fmt: skip
    distributed.barrier()
    distributed.destroy_process_group()


def main() -> None:
    """Measure both ways of keeping gradients, and plain training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet34", help="(resnet34)")
    parser.add_argument("--side", type=int, default=512, help="px (512)")
    parser.add_argument("--strips", type=int, default=8, help="(8)")
    options = parser.parse_args()
    print("| | gradients, MB | held, MB | peak, MB | backward, s | without exchange | of one strip |")
    print("|---|---|---|---|---|---|---|")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    for kind in ("plain", "streamed", "streamed, views"):
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(measure, (options, kind, f"{folder}/meet"), nprocs=2)


if __name__ == "__main__":
    main()
