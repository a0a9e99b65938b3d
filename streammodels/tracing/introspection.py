"""Search of a forward's source for questions that a placeholder answers otherwise than a tensor.

``isinstance(x, Tensor)``, ``type(x)``, ``torch.is_tensor(x)``, ``callable(x)`` and ``x.dtype is torch.float32`` cannot
be intercepted while the forward runs, and would silently take the other branch.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1024)
def questioned_names(function: Callable[..., Any]) -> frozenset[str]:
    """Variables of a function whose type it asks for; none if its source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return frozenset()
    return frozenset(name for node in ast.walk(tree) for name in _questioned(node))


def _questioned(node: ast.AST) -> list[str]:
    """Variables whose type one expression asks for."""
    if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
        sides = [side.value for side in (node.left, *node.comparators) if isinstance(side, ast.Attribute)]
        return [side.id for side in sides if isinstance(side, ast.Name)]
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Name):
        return []
    called = getattr(node.func, "id", getattr(node.func, "attr", ""))
    asks = called in ("type", "callable", "is_tensor")
    asks |= called == "isinstance" and "Tensor" in ast.dump(node.args[-1])
    return [node.args[0].id] if asks else []
