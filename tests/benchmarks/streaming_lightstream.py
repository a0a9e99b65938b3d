"""lightstream 1.0.7, on a CPU without the call that moves the model to CUDA unconditionally.

Nothing else of lightstream is changed. It is built the way its own `StreamingResNet` builds it (`StreamingConstructor`,
BatchNorm kept, normalization layers frozen), and trained the way its documentation says: the loss's gradient with
respect to the feature map, then `stream_network.backward(image, gradient)`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

CPU = torch.device("cpu")


@contextlib.contextmanager
def _no_cuda() -> Iterator[None]:
    def stay(self: nn.Module, device: object = None) -> nn.Module:
        return self

    with mock.patch.object(nn.Module, "cuda", stay):
        yield


def build(trunk: nn.Module, tile_px: int, device: torch.device = CPU) -> Any:
    """Let lightstream probe and convert a trunk.

    Args:
        trunk: Layers from the image to the feature map, BatchNorm in eval mode and frozen.
        tile_px: Side of the tile, pixels.
        device: Where the trunk is.

    Returns:
        lightstream's `StreamingCNN`. It holds parameters of its own, with the trunk's values.
    """
    constructor = importlib.import_module("lightstream.core.constructor").StreamingConstructor(
        trunk,
        tile_px,
        verbose=False,
        copy_to_gpu=False,
        statistics_on_cpu=True,
        normalize_on_gpu=False,
        add_keep_modules=[nn.BatchNorm2d],
    )
    cuda = _no_cuda() if device == CPU else contextlib.nullcontext()
    with cuda, contextlib.redirect_stdout(io.StringIO()):  # it prints its progress whatever verbose says
        streaming = constructor.prepare_streaming_model()
    streaming.device = device
    # Its backward opens torch.autocast("cuda"), which without CUDA disables itself and says so for each tile.
    warnings.filterwarnings("ignore", message=".*device_type of 'cuda', but CUDA is not available.*")
    return streaming
