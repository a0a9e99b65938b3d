"""Where streaming would wait for a GPU while it goes from strip to strip, found without one.

Networks are trained on fake tensors of a device that does not exist, whose values nobody can ask for, while the loops
over the strips are watched for

- operations that read values on the host: `item`, `tolist`, `bool`, `nonzero`, masks as indices, `torch.equal`;
- copies from device to device that are not ``non_blocking=True``, which `cpu`, `numpy` and `to` are;
- tensors made of Python's numbers on the device.

Only what happens in a second step too counts: the first makes what is kept for images of one size.

    python tests/streammodels/backprop/host_waits.py              # every network
    python tests/streammodels/backprop/host_waits.py resnet pool  # those with one of these words in their names

prints, as JSON, the places by network: file, line, operation. What it does to torch cannot be undone in a process, so
the tests run it as a program. What only happens with CUDA (pinned memory, streams) is tested in tests/gpu.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet18

import streammodels
from streammodels import Keeping, Labels, StreamedModule
from streammodels.backprop.bptt import ImagePass
from streammodels.core.pools import masked
from streammodels.models.pool_names import make_pool

DEVICE = "npu"
READ_ON_HOST = {
    "_local_scalar_dense", "nonzero", "argwhere", "masked_select", "equal", "is_nonzero", "bincount", "_unique",
    "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
POOLS = ("avg", "max", "gem", "lse", "sum", "softmax", "attention", "sigmoid-attention", "attention-gem")
PACKAGE = Path(streammodels.__file__).parent


class Waits(TorchDispatchMode):
    """Records the places in this package that make the host wait for the device.

    Attributes:
        places: "file:line operation", in the order found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        if name in READ_ON_HOST or (name.startswith("index") and _has_mask(args)):
            self.add(name)
        result = func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            source = args[name == "copy_"]
            if source.device != result.device and not (kwargs.get("non_blocking") or args[2:3] == (True,)):
                self.add(f"copy from {source.device} to {result.device}")
        return result

    def add(self, operation: str) -> None:
        """Record the innermost line of the package that is being run."""
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(f"{PACKAGE}/")]
        place = f"{Path(frames[-1].filename).relative_to(PACKAGE.parent)}:{frames[-1].lineno} {operation}"
        if place not in self.places:
            self.places.append(place)


def _has_mask(args: Sequence[Any]) -> bool:
    """Whether an index of a tensor is a mask."""
    indices = args[1] if isinstance(args[1], list | tuple) else []
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in indices)


@contextmanager
def watched(waits: Waits) -> Iterator[None]:
    """Record what happens in the loops over the strips."""

    def inside(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            with (
                waits,
                mock.patch.object(masked, "FakeTensor", ()),  # which it makes an exception for
                mock.patch.multiple(torch, tensor=noted(torch.tensor), as_tensor=noted(torch.as_tensor)),
            ):
                return function(*args, **options)

        return run

    def noted(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(data: Any, *args: Any, **options: Any) -> Tensor:
            device = torch.device(options.pop("device", None) or "cpu")
            if device.type != "cpu" and not isinstance(data, Tensor):
                waits.add(f"torch.{make.__name__} of Python's numbers")
            return make(data, *args, **options).to(device, non_blocking=True)

        return run

    def submit(_: Any, function: Callable[..., Any], *args: Any) -> Future[Any]:
        done = Future[Any]()  # of this thread, since others know no fake tensors
        done.set_result(function(*args))
        return done

    with (
        mock.patch.object(ThreadPoolExecutor, "submit", submit),
        mock.patch.object(ImagePass, "forward", inside(ImagePass.forward)),
        mock.patch.object(ImagePass, "backward", inside(ImagePass.backward)),
    ):
        yield


class Headed(nn.Module):
    """A convolution and what reads its map."""

    def __init__(self, *heads: nn.Module) -> None:
        super().__init__()
        self.net, self.heads = convolution(), nn.ModuleList(heads)

    def forward(self, image: Tensor) -> Any:
        x = self.net(image)
        return [head(x) for head in self.heads]


class WithLabels(Headed):
    """A convolution and what reads its map beside a map of labels."""

    def forward(self, image: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
        x = self.net(image)
        return [head(x, labels) for head in self.heads]


class Decoder(nn.Module):
    """A map enlarged in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = convolution(stride=2)

    def forward(self, image: Tensor) -> Tensor:
        small = self.conv(image)
        large = functional.interpolate(small, size=image.shape[-2:], mode="bilinear")
        return torch.cat([large, functional.interpolate(small, size=image.shape[-2:], mode="nearest")], dim=1)


class Gate(nn.Module):
    """Squeeze-and-excitation without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


def convolution(stride: int = 1, mode: str = "zeros") -> nn.Module:
    return nn.Conv2d(3, 3, 3, stride, 1, padding_mode=mode)


def resnet() -> nn.Module:
    """The stem, a block and the head of a ResNet-18."""
    whole = resnet18(num_classes=2)
    layers = (whole.conv1, whole.bn1, whole.relu, whole.maxpool, whole.layer2[0])
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 2)).eval()


@dataclass(frozen=True)
class Case:
    """A network, and the options it is streamed with."""

    make: Callable[[], nn.Module]
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "resnet": Case(resnet, {"keeping": Keeping(graphs=1)}),
    "resnet, few carries on the host": Case(resnet, {"keeping": Keeping(every=2, on_host=True)}),
    "frozen prefix": Case(lambda: nn.Sequential(convolution().requires_grad_(False), nn.ReLU(), convolution())),
    "average pool": Case(lambda: nn.AvgPool2d(3, 2, 1)),
    "average pool, padding not counted": Case(lambda: nn.AvgPool2d(3, 2, 1, True, False)),
    "max pool": Case(lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "reflect padding": Case(lambda: convolution(mode="reflect")),
    "replicate padding": Case(lambda: convolution(2, mode="replicate")),
    "decoder": Case(Decoder),
    "statistics of whole maps": Case(lambda: Headed(Gate()), {"global_statistics": "host"}),
    "losses of pixels": Case(
        lambda: WithLabels(
            streammodels.PixelCrossEntropy(), streammodels.PixelDice(), streammodels.PixelFocalLoss(),
            streammodels.ConfusionCounts(),
        )
    ),
    "pool of masked pixels": Case(lambda: WithLabels(streammodels.GlobalAvgPool())),
    "global pools": Case(lambda: Headed(*(make_pool(pool, 3) for pool in POOLS), streammodels.TopPixelsPool(5))),
}  # fmt: skip


def on_device(network: nn.Module) -> nn.Module:
    """The network on the device. Fake parameters cannot be moved, only replaced."""
    for layer in network.modules():
        for tensors in (layer._parameters, layer._buffers):
            for name, own in tensors.items():
                if own is not None:
                    moved = torch.empty(own.shape, dtype=own.dtype, device=DEVICE)
                    tensors[name] = nn.Parameter(moved, own.requires_grad) if isinstance(own, nn.Parameter) else moved
    return network


def places(case: Case) -> list[str]:
    """Where a network waits in every step."""
    train(streamed(case.make(), case.options), "cpu")  # for what depends on sizes, and is kept
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = streamed(on_device(case.make()), case.options)
        return steps_waits(network) and steps_waits(network)


def steps_waits(network: StreamedModule) -> list[str]:
    """Where a step of training waits."""
    waits = Waits()
    try:
        with watched(waits):
            train(network, DEVICE)
    except (DataDependentOutputException, DynamicOutputShapeException):
        waits.places.append("and there it ends, for values that are needed")
    return waits.places


def streamed(network: nn.Module, options: dict[str, Any]) -> StreamedModule:
    found = StreamedModule(network, strip_rows=32, **options)
    found.kernel_pixels = 1
    return found


def train(network: StreamedModule, device: str) -> None:
    """A step of training, in two strips."""
    image = torch.zeros(2, 3, 61, 32, device=device, requires_grad=True)
    labels = [Labels(torch.ones(2, 61, 32, dtype=torch.int64, device=device))] * isinstance(network.module, WithLabels)
    sum(result.sum() for result in pytree.tree_leaves(network(image, *labels))).backward()


def main() -> None:
    """Print the places of the networks that are named, or of all."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(DEVICE)
    getattr(torch, DEVICE).get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    torch.autograd.set_multithreading_enabled(False)  # or each device has a thread, which knows no fake tensors
    words = sys.argv[1:] or [""]
    print(json.dumps({n: places(case) for n, case in CASES.items() if any(word in n for word in words)}, indent=1))


if __name__ == "__main__":
    main()
