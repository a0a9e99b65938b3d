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


@pytest.fixture(scope="session")
def exports(camelyon: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export of each layout, `files` and `parquet`; read only."""
    from wsidata import WSIDataModule, export

    root = tmp_path_factory.mktemp("exports")
    for layout in ("files", "parquet"):
        dm = WSIDataModule(
            camelyon / "evaluation" / "reference.csv", camelyon / "images", test_prefix="test_", level=1,
            image_size=64, num_workers=0,
        )  # fmt: skip
        export(dm, root / layout, layout=layout, quiet=True, say=lambda _: None)
    return root
