"""Identity of a function, for deciding whether what was made with it can be reused.

It follows what the function does: its code, constants, defaults, bound arguments, and the functions and values of its
own package that it uses. It follows neither docstrings, comments, file names and memory addresses, nor the order of
sets, all of which may change where the result does not.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import types
from secrets import token_hex
from typing import Any

import numpy as np

_HAS_DOCSTRING = 0x4000000  # a flag of code objects since Python 3.13; before, it is the first constant of a `def`


def identity(value: Any) -> Any:
    """Plain values that are equal for functions that do the same.

    What cannot be identified, such as an object with open files, is never equal to anything, so that nothing made with
    it is reused.
    """
    return _identity(value, frozenset())


def _identity(value: Any, above: frozenset[int]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, complex, type(Ellipsis), slice, range)):
        return repr(value)
    if id(value) in above:
        return "itself"
    above |= {id(value)}

    def inner(one: Any) -> Any:
        return _identity(one, above)

    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(inner, value)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted((inner(one) for one in value), key=_text)]
    if isinstance(value, dict):
        return ["dict", *sorted(([inner(key), inner(one)] for key, one in value.items()), key=_text)]
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return ["array", str(value.dtype), list(value.shape), content]
    if isinstance(value, functools.partial):
        return ["partial", inner(value.func), inner(value.args), inner(value.keywords)]
    if isinstance(value, types.MethodType):
        return ["method", inner(value.__func__), inner(value.__self__)]
    if isinstance(value, types.CodeType):
        constants = value.co_consts[1:] if _has_docstring(value) else value.co_consts
        return ["code", value.co_code.hex(), [inner(one) for one in constants], list(value.co_names)]
    if isinstance(value, types.FunctionType):
        return _of_function(value, inner)
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, np.ufunc)):
        return [getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__)]
    call = inspect.getattr_static(value, "__call__", None)
    if isinstance(call, types.FunctionType):
        return ["object", type(value).__qualname__, inner(call), inner(vars(value))]
    return token_hex(16)


def _of_function(function: types.FunctionType, inner: Any) -> Any:
    """A function with the values it closes over, and the globals of its own package."""
    package = function.__module__.partition(".")[0]
    used = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    foreign = (types.ModuleType, type, types.BuiltinFunctionType, np.ufunc)
    globals_ = {
        name: [one.__module__, one.__qualname__]
        if isinstance(one, types.FunctionType) and one.__module__.partition(".")[0] != package
        else inner(one)
        for name, one in sorted(used.items())
        if not isinstance(one, foreign)
    }
    closed = inspect.getclosurevars(function).nonlocals
    parts = function.__code__, function.__defaults__, function.__kwdefaults__, closed
    return ["function", *map(inner, parts), globals_]


def _names(code: types.CodeType) -> set[str]:
    """Names that code, and functions defined in it, may look up."""
    nested = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*map(_names, nested))


def _has_docstring(code: types.CodeType) -> bool:
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & _HAS_DOCSTRING)
    return bool(code.co_consts) and isinstance(code.co_consts[0], str) and not code.co_name.startswith("<")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
