"""Which places of an image speak for a class, at the resolution of the last feature map: class activation maps.

The map of features is never whole in memory. Its channels are weighed strip by strip, by a 1x1 convolution that takes
the place of the global pool, so that one number a place is all that is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streammodels.core.image_rows import Image, as_image_rows
from streammodels.explain.attention import attention_map
from streammodels.explain.feature_map import PooledMap, is_affine
from streammodels.explain.heatmap import Heatmap, Method
from streammodels.explain.target import ClassIndex, Explained, choose, differentiable, score_of
from streammodels.memory.shapes import ValueShape, value_shapes
from streammodels.streaming import StreamedModule

_MAPS_AT_ONCE = 16  # up to so many classes all their maps are cheaper than a pass that finds the class beforehand

Found = tuple[Tensor, Tensor, Tensor]
"""Values (B, h, w), class (B,), scores (B, K)."""


def class_activation_map(
    trunk: StreamedModule, image: Image, class_index: ClassIndex = None, *, head: nn.Module | None = None
) -> Heatmap:
    """What each pixel of the last feature map adds to the score of a class.

    Behind average pooling and a linear head the score is a mean over the map's pixels, and the class activation map
    holds what is averaged (Zhou et al., https://arxiv.org/abs/1512.04150; with the bias, which they leave out):

        value[y, x] = sum_k weight[class, k] feature[k, y, x] + bias[class]        score[class] = mean(value)

    Behind gated attention it is the attention weight, that of the class where there is a head for each, else the one
    there is; all pixels together have 1. For every other pooling or head it is Grad-CAM (Selvaraju et al.,
    https://arxiv.org/abs/1610.02391) at that map:

        value[y, x] = relu(sum_k alpha[k] feature[k, y, x])        alpha[k] = mean over y, x of d score / d feature[k]

    The first costs one forward pass (two with more than 16 classes), the second two, the third three. The network is
    explained as it predicts, in eval mode, and left as it was.

    Args:
        trunk: Maps images to feature vectors, or to scores; it ends in global pooling of one map.
        image: (B, C, H, W), float, or uint8; or one image read by rows.
        class_index: The class, one for all images or one for each; None for the one with the highest score.
        head: Maps the feature vectors (B, F) to scores (B, K); None if the trunk's result is the scores.

    Returns:
        Values of shape (B, h, w), at the resolution of the last feature map.

    Raises:
        ValueError: If the class does not exist, or the network does not end in global pooling.
    """
    explained, (_, _, height, width) = Explained(trunk, head), as_image_rows(image).shape
    with explained.predicting():
        pooled = PooledMap.of(trunk.module, trunk._trace().network)
        shape = value_shapes(pooled.network, height, width)[pooled.node]
        method: Method
        if pooled.is_average and pooled.tail_is_affine() and (head is None or is_affine(head)):
            method, found = "class activation map", _affine_map(explained, pooled, image, class_index, shape.channels)
        elif pooled.is_attention:
            method, found = _attention(explained, pooled, image, class_index, shape)
        else:
            method, found = "Grad-CAM", _grad_cam(explained, pooled, image, class_index, shape)
    values, chosen, scores = found
    return Heatmap(values, chosen, scores, method, pooled.grid, (height, width))


def _affine_map(explained: Explained, pooled: PooledMap, image: Image, class_index: ClassIndex, channels: int) -> Found:
    """Behind average pooling and an affine head. The derivative of an affine function, anywhere, is its weight."""
    vector = pooled.rules[0].whole(explained.zeros(1, channels, 1, 1)).requires_grad_()
    with torch.enable_grad():
        at_zero = explained.scores_of(pooled.network.finish([vector]))[0]
        weight = torch.stack([torch.autograd.grad(one, vector, retain_graph=True)[0].flatten() for one in at_zero])
    bias = at_zero.detach().to(weight.dtype)
    with torch.no_grad():
        if len(weight) <= _MAPS_AT_ONCE:
            maps: Tensor = explained.with_end(pooled.projected(weight, bias)).trunk(image)
            scores = maps.mean(dim=(2, 3))
            chosen = choose(scores, class_index)
            return _at(maps, chosen), chosen, scores
        scores = explained.scores(image)
        chosen = choose(scores, class_index)
        maps = explained.with_end(pooled.projected(weight[chosen], bias[chosen])).trunk(image)
    return _own(maps), chosen, scores


def _grad_cam(
    explained: Explained, pooled: PooledMap, image: Image, class_index: ClassIndex, shape: ValueShape
) -> Found:
    """For any pooling and head: adding a number to a channel of the map changes the score by the sum of gradients."""
    shifted = pooled.shifted(explained.zeros(as_image_rows(image).shape[0], shape.channels, 1, 1))
    with torch.enable_grad():
        scores = explained.with_end(shifted).scores(differentiable(image))
        chosen = choose(scores, class_index)
        (summed,) = torch.autograd.grad(score_of(scores, chosen), [shifted.get_parameter("shift")])
    alpha = summed.flatten(1) / (shape.rows * shape.width)
    with torch.no_grad():
        maps = explained.with_end(pooled.projected(alpha, alpha.new_zeros(len(alpha)))).trunk(image)
    return _own(maps).relu(), chosen, scores.detach()


def _attention(
    explained: Explained, pooled: PooledMap, image: Image, class_index: ClassIndex, shape: ValueShape
) -> tuple[Method, Found]:
    """Behind gated attention. Several heads which are no classes say nothing of one class; then Grad-CAM does."""
    with torch.no_grad():
        maps: Tensor = attention_map(explained.trunk, image)
        scores = explained.scores(image)
    chosen, heads = choose(scores, class_index), maps.shape[1]
    if heads not in (1, scores.shape[1]):
        return "Grad-CAM", _grad_cam(explained, pooled, image, class_index, shape)
    return "attention", (_at(maps, chosen) if heads > 1 else maps[:, 0], chosen, scores)


def _at(maps: Tensor, classes: Tensor) -> Tensor:
    """Of a map for each class of each image, (B, K, h, w), that for the image's class."""
    return maps[torch.arange(len(maps), device=maps.device), classes]


def _own(maps: Tensor) -> Tensor:
    """Of a map for each image's class of each image, (B, B, h, w), that for the image's own class."""
    return maps.diagonal(dim1=0, dim2=1).permute(2, 0, 1)
