"""Parametrized layers, whose tensors are computed whenever they are read.

Reading may have effects: `torch.nn.utils.parametrizations.spectral_norm` in training mode takes a step of its power
iteration. So a streamed module reads them once for each image, as the plain one does, and forecasts undo the effects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize


def is_parametrized(module: nn.Module) -> bool:
    """Whether a layer of the module has a parametrization."""
    return any(parametrize.is_parametrized(layer) for layer in module.modules())


@contextmanager
def reading_undone(module: nn.Module) -> Iterator[None]:
    """Leave the buffers of a parametrized module and the random numbers as they were.

    Within the context the module has copies of its buffers; other threads should not use it meanwhile.
    """
    if not is_parametrized(module):
        yield
        return
    buffers = [
        (layer._buffers, name, buffer)
        for layer in module.modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None
    ]
    devices = {tensor.device for tensor in module.parameters() if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices):
            for own, name, buffer in buffers:
                own[name] = buffer.clone()
            yield
    finally:
        for own, name, buffer in buffers:
            own[name] = buffer
