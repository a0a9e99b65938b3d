"""What of torch's global state a strip depends on: autocast and random numbers.

The recomputation of a strip has to see what its first computation saw, as in `torch.utils.checkpoint`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streammodels.core.network import Network
from streammodels.core.operations import ChannelDropout


@dataclass
class Surroundings:
    """What of torch's global state a strip depends on, kept so that its recomputation sees the same.

    Attributes:
        autocast: (device type, enabled, dtype) for each device type involved.
        seeds: One seed for every node that drops whole channels, drawn once per pass.
        random_states: Random-number states at the start of every strip, if a layer draws numbers.
    """

    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    seeds: dict[int, int]
    random_states: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    @classmethod
    def capture(cls, network: Network, device: torch.device) -> Surroundings:
        """Read the state of the calling thread."""
        kinds = {"cpu", device.type}
        autocast = tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        dropping = [index for index, node in enumerate(network.nodes) if isinstance(node.rule, ChannelDropout)]
        return cls(autocast, {index: int(torch.randint(2**62, ()).item()) for index in dropping})

    def note_random_state(self, device: torch.device) -> None:
        """Remember the random state at the start of the next strip."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self.random_states.append((torch.get_rng_state(), on_device))

    def restore(self, stack: ExitStack, strip: int, device: torch.device) -> None:
        """Enter the state of a strip; leaving `stack` ends it."""
        self.enter_autocast(stack)
        if self.random_states:
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            on_host, on_device = self.random_states[strip]
            torch.set_rng_state(on_host)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, device)

    def enter_autocast(self, stack: ExitStack) -> None:
        """Enter autocast as it was, without its cache: a weight cast here must not be found by code outside."""
        for kind, enabled, dtype in self.autocast:
            stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
