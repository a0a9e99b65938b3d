"""Streaming on a CUDA device, exact and without a wait in the loops over strips; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpu.blocks import Setting
from gpu.check import BLOCKS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("block", ["exact", "waits", "parallel", "random networks", "precision"])
def test_block_passes_on_the_gpu(block: str, tmp_path: Path) -> None:
    """Each raises where something is not exact, less precise than plain training, or makes the host wait."""
    assert list(BLOCKS[block].run(Setting(torch.device("cuda"), False, tmp_path)))
