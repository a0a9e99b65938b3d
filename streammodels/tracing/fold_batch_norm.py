"""Folding of frozen batch normalization into the convolution before it, under autograd.

    weight' = weight * gamma / sqrt(var + eps)        bias' = beta + (bias - mean) * gamma / sqrt(var + eps)

The strips compute with weight' and bias' only. Their gradients reach weight, gamma and beta by the chain rule, once per
image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from streammodels.core.network import Node, Tensors
from streammodels.core.operations import Convolution, FrozenBatchNorm
from streammodels.core.row_plan import users_of


def fold_batch_norms(nodes: list[Node], boundary: set[int]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """Fold each batch normalization that alone reads a convolution.

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
        if isinstance(node.rule, FrozenBatchNorm) and isinstance(nodes[source].rule, Convolution) and alone:
            moved[index] = moved[source]
            convolution = folded[moved[index]]
            tensors = _folded_tensors(convolution.tensors, node.tensors, node.rule.epsilon)
            folded[moved[index]] = replace(convolution, tensors=tensors)
            continue
        moved[index] = len(folded)
        folded.append(replace(node, inputs=tuple(moved[i] for i in node.inputs)))
    return tuple(folded), moved


def _folded_tensors(convolution: Tensors, norm: Tensors, epsilon: float) -> Tensors:
    """Weight and bias of a convolution with the batch normalization behind it folded in."""

    def tensors() -> list[Tensor | None]:
        weight, bias = convolution()
        mean, variance, gamma, beta = norm()
        assert weight is not None
        assert mean is not None
        assert variance is not None
        scale = torch.rsqrt(variance + epsilon)
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if bias is None else (bias - mean) * scale
        return [weight * scale[:, None, None, None], shift if beta is None else shift + beta]

    return tensors
