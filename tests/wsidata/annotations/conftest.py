from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wsidata.annotations import Annotations

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of this name and content."""

    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


@pytest.fixture
def read(write: Write) -> Callable[..., Annotations]:
    """Reads content as a file of this name."""
    return lambda name, content, **options: Annotations.read(write(name, content), **options)
