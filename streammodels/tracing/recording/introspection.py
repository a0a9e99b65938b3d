"""Search of source code for questions that a placeholder answers otherwise than a tensor.

``type(x)``, ``callable(x)`` and ``x.grad is None`` cannot be intercepted while a forward runs, and would
silently take the other branch, so they are looked for in the source of the forward. ``isinstance(x, Tensor)`` and
``Function.apply(x)`` ask the placeholder for its class, and the line that runs tells which of them does.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from tokenize import TokenError
from types import FrameType
from typing import Any, Literal

import torch
from torch import fx

from streammodels.tracing.recording.sizes import SIZES, TYPES


@lru_cache(maxsize=1024)
def questioned_names(function: Callable[..., Any]) -> frozenset[str]:
    """Variables of a function whose type it asks for; none if its source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, TokenError):  # the lines of its file may be other ones by now
        return frozenset()
    nodes = [*ast.walk(tree)]
    # g = x.grad; g is None
    copies = {
        target.id: node.value
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return frozenset(name for node in nodes for name in _questioned(node, copies))


def _questioned(node: ast.AST, copies: Mapping[str, ast.expr]) -> list[str]:
    """Variables whose type one expression asks for."""
    if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
        sides = [copies.get(side.id, side) if isinstance(side, ast.Name) else side
                 for side in (node.left, *node.comparators)]  # fmt: skip
        values = [side.value for side in sides if isinstance(side, ast.Attribute) and side.attr not in SIZES | TYPES]
        return [value.id for value in values if isinstance(value, ast.Name)]
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Name):
        return []
    return [node.args[0].id] if _called(node) in ("type", "callable") else []


def _called(call: ast.Call) -> str:
    """The last name of what is called."""
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def asked_at(frame: FrameType) -> Literal["type", "function"] | None:
    """Why a running line asks a value for its class.

    Args:
        frame: The frame that asks.

    Returns:
        "type" if it asks whether it is a tensor, "function" if it passes it to a `torch.autograd.Function`, None for
        anything else, such as the checks of torch's own operations.
    """
    name = str(frame.f_globals.get("__name__", ""))
    if name == "torch" or name.startswith("torch."):
        if frame.f_code.co_name == "is_tensor":
            return "type"
        return "function" if name == "torch._functorch.utils" else None  # where torch looks at a Function's arguments
    for call in _calls(frame.f_code.co_filename).get(frame.f_lineno, ()):
        if _called(call) == "isinstance" and len(call.args) == 2 and _names_tensor(call.args[1], frame):
            return "type"
        if _called(call) == "apply" or _is_function(_value(call.func, frame)):
            return "function"
    return None


def _names_tensor(node: ast.expr, frame: FrameType) -> bool:
    """Whether an expression for a type, or for several, includes `torch.Tensor`."""
    value = _value(node, frame)
    return "Tensor" in ast.dump(node) or value is torch.Tensor or (isinstance(value, tuple) and torch.Tensor in value)


def _is_function(value: Any) -> bool:
    """Whether a value is the ``apply`` of a `torch.autograd.Function`."""
    owner = getattr(value, "__self__", None)
    return isinstance(owner, type) and issubclass(owner, torch.autograd.Function)


def _value(node: ast.expr, frame: FrameType) -> Any:
    """The value of a dotted name in a frame; None for any other expression."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if not isinstance(node, ast.Attribute):
        return None
    owner = _value(node.value, frame)
    return None if issubclass(type(owner), fx.Proxy) else getattr(owner, node.attr, None)


@lru_cache(maxsize=256)
def _calls(path: str) -> Mapping[int, list[ast.Call]]:
    """All calls in a file by the lines that they stand in; none if its source is not at hand."""
    found: defaultdict[int, list[ast.Call]] = defaultdict(list)
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found[line].append(node)
    return dict(found)
