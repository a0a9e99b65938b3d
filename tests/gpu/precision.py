"""Training in half precision, streamed and plain, beside plain training in float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpu.blocks import Record, Setting
from streammodels import stream

STEPS = 50


class Small(nn.Sequential):
    """Convolutions with batch normalization, a residual sum and a global pool."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for channels_in, channels in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(channels_in, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
        self.eval().to(device)


def trained(
    device: torch.device, half: torch.dtype | None, streamed: bool, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """All weights after some steps of training, and the loss of each step.

    float16 trains with a GradScaler, as 16-mixed does.
    """
    network = Small(device)
    forward = stream(network, strip_rows=24) if streamed else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        image = torch.randn(4, 3, 96, 40, generator=generator)
        labels = (image[:, 0].mean((1, 2)) * 100).long().remainder(3).to(device)
        with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
            logits = forward(image.to(device))
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
    return torch.cat([p.detach().flatten() for p in network.parameters()]).cpu(), torch.stack(losses).cpu()


def precision(setting: Setting) -> Iterator[Record]:
    """Whether streamed training in half precision is as near to float32 as plain training in half precision."""
    steps = 4 if setting.tiny else STEPS
    weights, losses = trained(setting.device, None, streamed=False, steps=steps)
    worse = []
    for name, half in (("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)):
        record: Record = {"precision": name, "steps": steps}
        for variant in ("plain", "streamed"):
            own, own_losses = trained(setting.device, half, variant == "streamed", steps)
            record[f"{variant}_weights"] = float((own - weights).norm() / weights.norm())
            record[f"{variant}_losses"] = float((own_losses - losses).abs().max())
        if record["streamed_weights"] > 1.5 * record["plain_weights"]:
            worse.append(str(record))
        yield record
    if worse:
        raise ArithmeticError("; ".join(worse))
