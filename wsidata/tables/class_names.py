"""Which number a class gets decides what a trained model means; it is fixed here once, never by the order of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ClassNames = Sequence[str] | Mapping[str, str] | Mapping[str, int]


@dataclass(frozen=True)
class ClassMap:
    """Labels as they are written in the table, and what they mean.

    Attributes:
        class_names: Name of class 0, 1, ...
        renames: Label in the table -> class name.
    """

    class_names: tuple[str, ...]
    renames: dict[str, str]


def class_map(labels: Sequence[str], class_names: ClassNames | None = None) -> ClassMap:
    """Decide the classes and their order.

    Args:
        labels: The labels in the table; empty ones are ignored.
        class_names: None: the labels found, sorted (as numbers if all are whole numbers). A sequence: the classes in
            this order. A mapping to numbers, `{"normal": 0, "tumor": 1}`: the same, spelled out. A mapping to names,
            `{"Tumor": "tumor", "itc": "tumor", "neg": "normal"}`: renames and merges; classes come in the order in
            which the mapping first names them.

    Returns:
        The classes. Labels that `class_names` does not know are not in `renames`.

    Raises:
        ValueError: if `class_names` is empty, repeats a name, or its numbers are not 0, 1, ..., n-1.
    """
    if class_names is None:
        found = _sort_labels({label for label in labels if label})
        return ClassMap(tuple(found), {name: name for name in found})
    if isinstance(class_names, Mapping):
        given = {str(key).strip(): value for key, value in class_names.items()}
        if all(isinstance(value, int) and not isinstance(value, bool) for value in given.values()):
            ordered = sorted(given, key=lambda name: int(given[name]))
            if [given[name] for name in ordered] != list(range(len(given))):
                raise ValueError(
                    f"class_names={dict(class_names)!r} must number the classes 0, 1, ..., each once. "
                    "To merge labels into one class, map them to names: {'itc': 'tumor', 'macro': 'tumor'}."
                )
            renames = {name: name for name in given}
        else:
            renames = {key: str(value).strip() for key, value in given.items()}
            ordered = list(dict.fromkeys(renames.values()))
    else:
        if isinstance(class_names, str):
            raise ValueError(f"class_names={class_names!r} is one text; pass a list such as ['normal', 'tumor'].")
        ordered = [str(name).strip() for name in class_names]
        renames = {name: name for name in ordered}
    if not ordered or len(set(ordered)) != len(ordered):
        raise ValueError(f"class_names={class_names!r} must name at least one class, and each once.")
    return ClassMap(tuple(ordered), renames)


def _sort_labels(labels: set[str]) -> list[str]:
    """Whole numbers in their order (2 before 10), anything else alphabetically."""
    if all(label.lstrip("-").isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
