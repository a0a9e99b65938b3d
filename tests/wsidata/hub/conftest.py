"""Fixture of a local Hub; helper modules of this folder can be imported by its tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # where `local_hub` is

from local_hub import LocalHub

collect_ignore_glob = [] if find_spec("datasets") else ["*test_*.py"]  # they need slidestream[hub]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    """An empty `LocalHub`, in a process of its own."""
    with LocalHub(tmp_path / "hub") as running:
        yield running
        assert "Traceback" not in running.errors()
