"""Dataclasses from JSON of unknown origin, with every value checked against its field's type."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

MAX_INTEGER = 2**63 - 1
"""Largest integer of a field; larger ones are no counts of anything, and overflow in tables."""

_Kind = TypeVar("_Kind")


class PlainJSONError(ValueError):
    """Text is no JSON object, or not of the expected fields; the message names the field."""


def json_object(text: str) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises:
        PlainJSONError: if it is anything else, too deeply nested, or holds NaN or infinity.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise PlainJSONError("it is nested too deeply") from error
    except ValueError as error:
        raise PlainJSONError(f"it is no JSON ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(content, dict):
        raise PlainJSONError(f"it holds {_shown(content)} where an object of names and values belongs")
    return content


def from_plain(kind: type[_Kind], content: Any, name: str = "") -> _Kind:
    """A dataclass from the plain values of its fields; lists become tuples, and objects dataclasses.

    Args:
        kind: A dataclass whose fields are plain values, tuples, dicts or dataclasses.
        content: As `json.loads` returns it.
        name: Its name in messages.

    Raises:
        PlainJSONError: naming the first field that is missing, unknown, or of another type.
    """
    if not isinstance(content, Mapping):
        raise PlainJSONError(f"{name or 'it'} is {_shown(content)} where an object of names and values belongs")
    known, required = _fields(kind)  # type: ignore[arg-type]  # classes are hashable
    missing = [one for one in required if one not in content]
    unknown = [one for one in content if one not in known]
    if missing or unknown:
        what = f"lacks '{missing[0]}'" if missing else f"has {_shown(unknown[0])}, which is unknown"
        raise PlainJSONError(f"{name or 'it'} {what}")
    start = f"{name}." if name else ""
    return kind(**{key: _checked(known[key], value, start + key) for key, value in content.items()})


@cache
def _fields(kind: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Types of all fields by name, and the names of those without a default."""
    hints = get_type_hints(kind)
    found = [one for one in fields(kind) if one.init]
    required = tuple(one.name for one in found if one.default is MISSING and one.default_factory is MISSING)
    return {one.name: hints[one.name] for one in found}, required


def _checked(kind: Any, value: Any, name: str) -> Any:
    """A value of a type, or an error that names it."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first_fitting(inner, value, name)
    if origin is tuple and isinstance(value, list):
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) == len(value):
            pairs = zip(inner, value, strict=True)
            return tuple(_checked(one, part, f"{name}[{at}]") for at, (one, part) in enumerate(pairs))
    if origin is dict and isinstance(value, dict):
        return {key: _checked(inner[1], part, f"{name}.{key}") for key, part in value.items()}
    if is_dataclass(kind):
        return from_plain(kind, value, name)  # type: ignore[arg-type]  # of a class, not of an instance
    if not (value in inner if origin is Literal and isinstance(value, str) else _is_plain(kind, value)):
        expected = " or ".join(map(repr, inner)) if origin is Literal else getattr(kind, "__name__", str(kind))
        raise PlainJSONError(f"{name} is {_shown(value)}, and not {expected}")
    return value


def _first_fitting(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    """The value as the first type of a union that it fits; None first, so that other messages are of the real type."""
    if value is None and type(None) in kinds:
        return None
    last: PlainJSONError | None = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _checked(kind, value, name)
            except PlainJSONError as error:
                last = error
    raise last or PlainJSONError(f"{name} is {_shown(value)}")


def _is_plain(kind: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) <= MAX_INTEGER and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and abs(value) <= MAX_INTEGER
    return kind is str and isinstance(value, str)


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = "null" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
