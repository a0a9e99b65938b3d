"""Warning of the unrelated distribution `wsidata` of PyPI, which installs into the same folder."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path


class OtherDistributionWarning(UserWarning):
    """Another distribution has installed a package of the same name into the same folder."""


@cache
def warn_of_other_distribution(site_packages: Path = Path(__file__).parents[2]) -> None:
    """Warn if the distribution `wsidata` is installed where this package is; once a process.

    Each overwrites files of the other, and uninstalling either removes them. The folder is listed, no metadata is read.

    Args:
        site_packages: The folder that this package lies in.

    Warns:
        OtherDistributionWarning: naming the other distribution, and what to do.
    """
    other = next(site_packages.glob("wsidata-*.dist-info"), None)
    if other is not None:
        warnings.warn(
            f"'{other}' belongs to an unrelated distribution, whose package is called 'wsidata', too: it and "
            "slidestream overwrite files of each other. Use an environment for each. To mend this one: "
            "pip uninstall wsidata, then pip install --force-reinstall --no-deps slidestream.",
            OtherDistributionWarning,
            stacklevel=3,
        )
