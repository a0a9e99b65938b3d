"""Names of the files of a heat map."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

KINDS = {"class activation map": "cam", "Grad-CAM": "gradcam", "attention": "attention", "gradient": "saliency"}
"""What stands for a method in the name of a file."""

SUFFIXES = (".png", ".tif", "_colors.tif", ".geojson", "_regions.png")

_LONGEST_BYTES = 80


def safe_name(text: str) -> str:
    """A text as a part of a file's name: letters of any script, digits, spaces, `-`, `.` and `_`, 80 bytes at most."""
    kept = re.sub(r"[^\w. -]+", "_", text).strip("._ ")
    return kept.encode()[:_LONGEST_BYTES].decode(errors="ignore") or "_"


def unique_names(paths: Sequence[str | Path]) -> list[str]:
    """A name for each image, from its file's; those that would be alike are numbered."""
    seen, names = Counter[str](), []
    for path in paths:
        name = safe_name(Path(path).stem)
        seen[name.casefold()] += 1
        count = seen[name.casefold()]
        names.append(name if count == 1 else f"{name}-{count}")
    return names


def existing_files(out: Path, names: Sequence[str], class_names: Sequence[str]) -> list[Path]:
    """Files that heat maps of these images and classes would replace."""
    ends = [
        f"_{safe_name(one)}_{kind}{suffix}" for one in class_names for kind in KINDS.values() for suffix in SUFFIXES
    ]
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    return [out / f"{name}{end}" for name in names for end in ends if f"{name}{end}" in there]
