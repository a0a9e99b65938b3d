"""Versions of slidestream and of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "slidestream", "torch", "torchvision", "lightning", "torchmetrics", "pyvips-binary", "albumentationsxl", "tifffile",
    "imagecodecs", "simplejpeg", "numpy", "pandas", "scikit-learn", "openslide-python", "timm", "datasets",
    "huggingface_hub",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Version of Python and of each installed package of `PACKAGES`, by name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra that is not installed, or a source tree
            continue
    return found


def describe_versions() -> str:
    """The versions as text, one a line."""
    found = versions()
    width = max(map(len, found))
    return "\n".join(f"{name:<{width}}  {number}" for name, number in found.items())
