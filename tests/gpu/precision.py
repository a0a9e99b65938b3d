"""Training in half precision, streamed and plain, beside plain training in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpu.blocks import Record, Setting
from gpu.parts import relative
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


@dataclass
class Training:
    """What came of a training.

    Attributes:
        weights: All weights at its end.
        losses: The loss of every step.
        scales: The factor of the loss after every step.
        stepped: Whether the weights changed in every step.
    """

    weights: Tensor
    losses: Tensor
    scales: list[float]
    stepped: list[bool]


def train(
    device: torch.device,
    half: torch.dtype | None,
    streamed: bool,
    steps: int = STEPS,
    shape: tuple[int, int, int, int] = (4, 3, 96, 40),
    first_scale: float = 2.0**16,
    growth: int = 2000,
    infinite: int | None = None,
) -> Training:
    """Train as Lightning does with precision 32-true, bf16-mixed or 16-mixed.

    Args:
        device: The device.
        half: None, or the type of autocast; with float16 the loss is scaled.
        streamed: Whether the network is streamed in three strips.
        steps: Number of steps.
        shape: (B, C, H, W) of the images.
        first_scale: Factor of the loss, to begin with.
        growth: Number of steps after which it doubles.
        infinite: Step whose image has an infinite pixel.
    """
    network = Small(device)
    forward = stream(network, strip_rows=shape[2] // 3) if streamed else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler(device.type, first_scale, growth_interval=growth, enabled=half == torch.float16)
    generator = torch.Generator().manual_seed(1)
    found = Training(_flat(network), torch.zeros(steps), [], [])
    for number in range(steps):
        image = torch.randn(shape, generator=generator)
        labels = (image[:, 0].mean((1, 2)) * 100).long().remainder(3).to(device)
        if number == infinite:
            image[0, 1, shape[2] // 2, 5] = torch.inf
        with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
            logits = forward(image.to(device))
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        before, found.weights = found.weights, _flat(network)
        found.losses[number] = loss.detach()
        found.scales.append(scaler.get_scale())
        found.stepped.append(not torch.equal(before, found.weights))
    return found


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).cpu()


def precision(setting: Setting) -> Iterator[Record]:
    """Whether streamed training in half precision is as near to float32 as plain training in half precision.

    A float16 training in which gradients overflow has to leave out the same steps as the plain one.
    """
    steps = 4 if setting.tiny else STEPS
    right = train(setting.device, None, streamed=False, steps=steps).weights
    worse = []
    for name, half in (("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)):
        plain, streamed = (train(setting.device, half, one, steps) for one in (False, True))
        record: Record = {
            "precision": name, "steps": steps, "plain_weights": relative(plain.weights, right),
            "streamed_weights": relative(streamed.weights, right),
        }  # fmt: skip
        if record["streamed_weights"] > 1.5 * record["plain_weights"]:
            worse.append(str(record))
        yield record
    overflowing = {"steps": 12, "shape": (2, 3, 48, 24), "first_scale": 2.0**21, "growth": 3, "infinite": 9}
    plain, streamed = (train(setting.device, torch.float16, one, **overflowing) for one in (False, True))
    yield {"precision": "16-mixed, overflowing", "scales": plain.scales, "streamed_scales": streamed.scales}
    if (plain.scales, plain.stepped) != (streamed.scales, streamed.stepped):
        worse.append(f"other steps overflow: {plain.scales}, streamed {streamed.scales}")
    if worse:
        raise ArithmeticError("; ".join(worse))
