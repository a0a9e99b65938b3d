"""Preparation of tensors, with frozen batch normalization folded in and types that gradients fit.

The gradients of biases and of other tensors with one value per channel are summed in at least float32, by operations
that get these tensors in float32 though the maps have a shorter type.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from streammodels.core.network import Node, Tensors
from streammodels.core.operations import Convolution, FrozenBatchNorm, NormalizedConvolution
from streammodels.core.reductions import GeneralizedMean, LogMeanExponential, sum_dtype
from streammodels.core.row_plan import users_of


def fold_batch_norms(nodes: list[Node], boundary: set[int]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """Fold each batch normalization that alone reads a convolution; see `NormalizedConvolution`.

    Args:
        nodes: The network in topological order.
        boundary: Nodes whose result leaves the network.

    Returns:
        The remaining nodes, and the new index of every old node.
    """
    readers = users_of([node.inputs for node in nodes])
    folded: list[Node] = []
    moved: dict[int, int] = {}
    for index, node in enumerate(nodes):
        source = node.inputs[0] if node.inputs else 0
        alone = readers[source] == [index] and source not in boundary
        if isinstance(node.rule, FrozenBatchNorm) and type(nodes[source].rule) is Convolution and alone:
            moved[index] = moved[source]
            folded[moved[index]] = _normalized(folded[moved[index]], node.tensors, node.rule.epsilon)
            continue
        moved[index] = len(folded)
        folded.append(replace(_with_long_vectors(node), inputs=tuple(moved[i] for i in node.inputs)))
    return tuple(folded), moved


def _with_long_vectors(node: Node) -> Node:
    """The same node, whose tensors of one value per channel have at least float32, if its rule allows."""
    tensors = node.tensors
    if type(node.rule) not in (Convolution, FrozenBatchNorm, GeneralizedMean, LogMeanExponential):
        return node
    return replace(
        node, tensors=lambda: [t.to(sum_dtype(t.dtype)) if t is not None and t.ndim < 2 else t for t in tensors()]
    )


def _normalized(node: Node, norm: Tensors, epsilon: float) -> Node:
    """A convolution with the batch normalization behind it."""
    rule, convolution = node.rule, node.tensors
    assert isinstance(rule, Convolution)

    def tensors() -> list[Tensor | None]:
        weight, bias = convolution()
        mean, variance, gamma, beta = norm()
        assert weight is not None
        assert mean is not None
        assert variance is not None
        precise = sum_dtype(weight.dtype)
        scale = torch.rsqrt(variance.to(precise) + epsilon)
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if bias is None else (bias - mean.to(precise)) * scale
        folded = [weight * scale[:, None, None, None], shift if beta is None else shift + beta]
        # The values of these are used, not their gradients; as views they show it if they are changed in place.
        plain = [None if t is None else t.detach() for t in (weight, bias, mean, variance, gamma, beta)]
        return [*plain, *folded]

    geometry = (rule.window, rule.columns, rule.dilation, rule.groups)
    return replace(node, rule=NormalizedConvolution(*geometry, epsilon), tensors=tensors)
