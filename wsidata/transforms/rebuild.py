"""Transforms made again from their descriptions, where these hold all that they are made of."""

from __future__ import annotations

import ast
from typing import Any

from wsidata.transforms.base import Transform, TransformError
from wsidata.transforms.color.stain_normalize import ColorFit, MacenkoNormalize, ReinhardNormalize, StainFit
from wsidata.transforms.color.tone import Blur, ToneJitter
from wsidata.transforms.compose import Compose, OneOf
from wsidata.transforms.describe import described
from wsidata.transforms.geometry.crop import CropOrPad, RandomResizedCrop

_KNOWN: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(Compose, OneOf, CropOrPad, RandomResizedCrop, ToneJitter, Blur),
        *(MacenkoNormalize, ReinhardNormalize, StainFit, ColorFit),
    )
}
"""Classes whose attributes are numbers, single words and each other."""


def rebuilt(description: str) -> Transform:
    """The transform that `described` described, with digests.

    Args:
        description: Such as a checkpoint remembers.

    Raises:
        TransformError: if it holds functions, transforms of other libraries, or values that were left out.
    """
    try:
        transform = _value(ast.parse(description, mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise TransformError(f"the transform {description} cannot be made from its description.") from error
    if not isinstance(transform, Transform) or described(transform, digests=True) != description:
        raise TransformError(f"the transform {description} cannot be made from its description.")
    return transform


def _value(node: ast.expr) -> Any:
    """The object that a part of a description stands for; `ValueError` for what is no plain value or known class."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _KNOWN and not node.args:
        kind = _KNOWN[node.func.id]
        made: Any = object.__new__(kind)  # a description holds attributes, and not arguments
        vars(made).update({str(one.arg): _value(one.value) for one in node.keywords})
        return made
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(one) for one in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    return ast.literal_eval(node)
