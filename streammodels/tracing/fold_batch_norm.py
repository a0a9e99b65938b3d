"""TODOC streammodels/tracing/fold_batch_norm.py."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from streammodels.core.network import Node, Tensors
from streammodels.core.operations import Convolution, FrozenBatchNorm


def fold_batch_norms(nodes: list[Node], boundary: set[int]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """Fold each batch normalisation into the convolution before it; returns the nodes and where old ones went."""
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for source in node.inputs:
            readers.setdefault(source, []).append(index)
    folded: list[Node] = []
    moved: dict[int, int] = {}
    for index, node in enumerate(nodes):
        convolution = nodes[node.inputs[0]] if node.inputs else None
        alone = bool(node.inputs) and readers[node.inputs[0]] == [index] and node.inputs[0] not in boundary
        foldable = convolution is not None and isinstance(convolution.rule, Convolution) and alone
        if isinstance(node.rule, FrozenBatchNorm) and foldable:
            moved[index] = moved[node.inputs[0]]
            merged = folded[moved[index]]
            tensors = _folded_tensors(merged.tensors, node.tensors, node.rule.epsilon)
            folded[moved[index]] = replace(merged, tensors=tensors)
            continue
        moved[index] = len(folded)
        folded.append(replace(node, inputs=tuple(moved[i] for i in node.inputs)))
    return tuple(folded), moved


def _folded_tensors(convolution: Tensors, norm: Tensors, epsilon: float) -> Tensors:
    """Weight and bias of a convolution with the frozen batch normalisation behind it multiplied in."""

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
