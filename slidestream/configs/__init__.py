"""Configurations of `slidestream fit`, by name; each is a YAML file beside this one."""

from __future__ import annotations

from pathlib import Path


def config_names() -> list[str]:
    """Names of the configurations."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def config_path(name: str) -> Path:
    """The file of a configuration.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in config_names():
        raise ValueError(f"'{name}' is no file, and no configuration. There are {', '.join(config_names())}.")
    return Path(__file__).with_name(f"{name}.yaml")


def config_titles() -> dict[str, str]:
    """What each configuration is for: its first line, a comment."""
    return {name: config_path(name).read_text().partition("\n")[0].lstrip("# ") for name in config_names()}
