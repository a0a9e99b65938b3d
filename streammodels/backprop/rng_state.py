"""Random-number and autocast state of a strip, restored when the strip is computed again.

As in `torch.utils.checkpoint`, the recomputation has to draw the same numbers and cast to the same types.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streammodels.core.network import Network
from streammodels.core.operations import ChannelDropout


@dataclass
class RngState:
    """Random-number and autocast state of a forward pass.

    Attributes:
        autocast: (device type, enabled, dtype) for each device type in use.
        seeds: One seed for every node that drops channels, drawn once per pass.
        generators: States of the host's and the device's generators at the start of every strip, if a layer draws
            random numbers strip by strip.
    """

    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    seeds: dict[int, int]
    generators: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    @classmethod
    def capture(cls, network: Network, device: torch.device) -> RngState:
        """The state of the calling thread."""
        kinds = {"cpu", device.type}
        autocast = tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        dropping = [index for index, node in enumerate(network.nodes) if isinstance(node.rule, ChannelDropout)]
        return cls(autocast, {index: int(torch.randint(2**62, ()).item()) for index in dropping})

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """The type that autocast computes convolutions in on a device; None without autocast."""
        return next((dtype for kind, enabled, dtype in self.autocast if enabled and kind == device.type), None)

    def append_strip(self, device: torch.device) -> None:
        """Record the states of the generators at the start of the next strip."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self.generators.append((torch.get_rng_state(), on_device))

    def restore(self, stack: ExitStack, strip: int, device: torch.device) -> None:
        """Enter the state of a strip, until `stack` is left."""
        self.enter_autocast(stack)
        if self.generators:
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            on_host, on_device = self.generators[strip]
            torch.set_rng_state(on_host)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, device)

    def enter_autocast(self, stack: ExitStack) -> None:
        """Enter autocast as in the forward pass, without its cache, which code outside would find these weights in."""
        for kind, enabled, dtype in self.autocast:
            stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
