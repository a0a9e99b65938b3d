"""Public names of a package, imported on first use.

Importing a package thus costs next to nothing, and importing one of its modules does not import the others.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's `__getattr__`, `__dir__` and `__all__` (PEP 562).

    Args:
        package: Its `__name__`.
        homes: The names each module offers, by the module's name within the package; of "", its sub-packages.
    """
    home_of = {name: f"{package}.{module}" if module else package for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(
                f"module '{package}' has no attribute '{name}'. It offers {', '.join(sorted(home_of))}."
            )
        home = home_of[name]
        value = import_module(f"{package}.{name}") if home == package else getattr(import_module(home), name)
        setattr(import_module(package), name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(import_module(package)), *home_of})

    return load, listed, sorted(home_of)
