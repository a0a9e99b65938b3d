"""Seconds and memory of one training step against the side of the image, each in a process of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.arms import WHOLE, Arm
from study.memory import resident_bytes, settle_memory
from study.networks import CHANNELS, Look, build, pool_of, shrunk, trunk

LOOK = Look(colors=3, mean=0.8, sd=0.2)
_TILE_PX = 256
_STREAMED_STRIP_ROWS = 128
ARMS = (
    WHOLE,
    Arm("whole image, not streamed"),
    Arm("shrunk 4x", shrink=4, strides=(1, 1, 1, 1)),
    Arm("all tiles, attention", "tiles", "attention", tile_px=_TILE_PX, stride_px=_TILE_PX),
    Arm("16 sampled tiles, attention", "tiles", "attention", tile_px=_TILE_PX, stride_px=_TILE_PX, sampled=16),
)


class _Plain(nn.Module):
    """The whole image through plain PyTorch."""

    def __init__(self, arm: Arm) -> None:
        super().__init__()
        head = nn.Linear(CHANNELS[-1], 1)
        self.network = nn.Sequential(trunk(arm.strides, LOOK), pool_of(arm.pool), nn.Flatten(), head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        logits: Tensor = self.network(shrunk(images, 1))
        return logits[:, 0]


def measure(sides_px: list[int], repeats: int, most_bytes: float) -> pd.DataFrame:
    """Every arm on every side, in turn, `repeats` times: medians of CPU seconds and of peak memory above the image's.

    Args:
        sides_px: Sides of the square images, multiples of 256.
        repeats: Rounds.
        most_bytes: An arm whose memory would go beyond this, growing with the area, is left out at that side.

    Returns:
        Columns `arm`, `side_px`, `cpu_s`, `wall_s`, `peak_bytes`.
    """
    found = dict[tuple[str, int], list[dict[str, float]]]()
    for _ in range(repeats):
        for arm in ARMS:
            before = 0.0
            for side in sides_px:
                if before * 4 > most_bytes:
                    continue
                result = _in_process(arm, side)
                found.setdefault((arm.name, side), []).append(result)
                grows = arm.name != WHOLE.name
                before = result["peak_bytes"] if grows else 0.0
    rows = [
        {"arm": arm, "side_px": side, **{name: statistics.median(one[name] for one in of) for name in of[0]}}
        for (arm, side), of in found.items()
    ]
    return pd.DataFrame(rows)


def _in_process(arm: Arm, side_px: int) -> dict[str, float]:
    number = next(number for number, one in enumerate(ARMS) if one == arm)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "study.cost", str(number), str(side_px)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"'{arm.name}' on {side_px} pixels failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _step(model: nn.Module, image: Tensor) -> None:
    loss = F.binary_cross_entropy_with_logits(model(image), torch.ones(1))
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]


def _measured(arm: Arm, side_px: int) -> dict[str, float]:
    """One step after a small one; memory above what there was before it, the image included."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    is_plain = "not streamed" in arm.name
    model = _Plain(arm) if is_plain else build(arm, LOOK, strip_rows=_STREAMED_STRIP_ROWS)
    image = torch.randint(0, 256, (1, LOOK.colors, side_px, side_px), dtype=torch.uint8)
    _step(model, image[..., :1024, :1024].contiguous())
    settle_memory()  # what is free is counted again
    resident = resident_bytes()
    wall, cpu = time.perf_counter(), time.process_time()
    _step(model, image)
    return {
        "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall,
        "peak_bytes": resident_bytes("VmHWM") - resident,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_measured(ARMS[int(sys.argv[1])], int(sys.argv[2]))))
