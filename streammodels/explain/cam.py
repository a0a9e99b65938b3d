"""Class activation maps, Grad-CAM and attention at the resolution of the last feature map.

The feature map is never held whole: a 1x1 convolution in place of the global pool weights its channels strip by strip,
so that one value per location is kept.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from streammodels.core.image_rows import Image, as_image_rows
from streammodels.explain.attention import attention_map
from streammodels.explain.feature_map import PooledFeatureMap, is_affine
from streammodels.explain.heatmap import Heatmap, Method, Unit
from streammodels.explain.target import ClassIndex, ExplainedModel, as_normal_tensor, target_classes, target_score
from streammodels.memory.shapes import ValueShape, value_shapes
from streammodels.streaming import StreamedModule

_MAPS_AT_ONCE = 16  # up to this many classes, computing all maps is cheaper than another pass to choose the class

Found = tuple[Tensor, Tensor, Tensor]
"""Values (B, h, w), target class (B,) and scores (B, K)."""

Link = Literal["softmax", "sigmoid"]
"""From logits to probabilities, of one class among all or of each class by itself."""


def class_activation_map(
    trunk: StreamedModule,
    image: Image,
    class_index: ClassIndex = None,
    *,
    head: nn.Module | None = None,
    probability: Link | None = None,
) -> Heatmap:
    """A class activation map, the contribution of each pixel of the last feature map to a class score.

    With average pooling and a linear head (Zhou et al., https://arxiv.org/abs/1512.04150, plus the bias):

        value[y, x] = sum_k weight[class, k] feature[k, y, x] + bias[class]        score[class] = mean(value)

    With gated attention, the attention weights: those of the class if there is a head per class, or those of the only
    head. They sum to 1. With any other pooling or head, Grad-CAM (Selvaraju et al., https://arxiv.org/abs/1610.02391):

        value[y, x] = relu(sum_k alpha[k] feature[k, y, x])        alpha[k] = mean over y, x of d score / d feature[k]

    The first costs one forward pass (two with more than 16 classes), the second two, the third three. The network is
    run in eval mode and left unchanged.

    Args:
        trunk: Maps images to feature vectors, or to scores; it ends in global pooling of one map.
        image: (B, C, H, W), float, or uint8; or one image read by rows.
        class_index: The class, one for all images or one per image; None for the one with the highest score.
        head: Maps the feature vectors (B, F) to scores (B, K); None if the trunk returns the scores.
        probability: None for logits. "softmax" or "sigmoid" of the logits of each location: the probability of the
            class, were all of the image like that location. Only with average pooling and a linear head; the map of
            every class is then held.

    Returns:
        Values of shape (B, h, w), at the resolution of the last feature map.

    Raises:
        ValueError: If the class does not exist, the network does not end in global pooling, or its locations have no
            probability.
    """
    model, (_, _, height, width) = ExplainedModel(trunk, head), as_image_rows(image).shape
    with model.eval_mode():
        pooled = PooledFeatureMap.of(trunk.module, trunk._trace().network)
        tensors = [node.tensors() for node in pooled.network.nodes]
        shape = value_shapes(pooled.network, tensors, height, width)[pooled.node]
        method: Method
        unit: Unit = "probability" if probability else "logit"
        if pooled.is_average and pooled.tail_is_affine() and (head is None or is_affine(head)):
            found = _linear_cam(model, pooled, image, class_index, shape.channels, probability)
            method = "class activation map"
        elif probability:
            raise ValueError(
                "only average pooling followed by a linear head has a logit, and so a probability, at every location; "
                "this network has another pool or head. Leave probability out."
            )
        elif pooled.is_attention:
            method, found = _attention(model, pooled, image, class_index, shape)
        else:
            method, found = "Grad-CAM", _grad_cam(model, pooled, image, class_index, shape)
    return Heatmap(*found, method, pooled.grid, (height, width), unit)


def _linear_cam(
    model: ExplainedModel,
    pooled: PooledFeatureMap,
    image: Image,
    class_index: ClassIndex,
    channels: int,
    link: Link | None,
) -> Found:
    """For average pooling and an affine head, whose weight is its derivative and whose bias its value at zero."""
    vector = pooled.reductions[0].whole(model.zeros(1, channels, 1, 1)).requires_grad_()
    with torch.enable_grad():
        at_zero = model.scores_of(pooled.network.finish([vector]))[0]
        weight = torch.stack([torch.autograd.grad(one, vector, retain_graph=True)[0].flatten() for one in at_zero])
    bias = at_zero.detach().to(weight.dtype)
    with torch.no_grad():
        if link or len(weight) <= _MAPS_AT_ONCE:
            maps: Tensor = model.with_trunk(pooled.projected(weight, bias)).trunk(image)
            scores = maps.mean(dim=(2, 3))
            chosen = target_classes(scores, class_index)
            if link:
                maps = maps.softmax(dim=1) if link == "softmax" else maps.sigmoid()
            return _select_class(maps, chosen), chosen, scores
        scores = model.scores(image)
        chosen = target_classes(scores, class_index)
        maps = model.with_trunk(pooled.projected(weight[chosen], bias[chosen])).trunk(image)
    return _own(maps), chosen, scores


def _grad_cam(
    model: ExplainedModel, pooled: PooledFeatureMap, image: Image, class_index: ClassIndex, shape: ValueShape
) -> Found:
    """For any pooling and head: the gradient of a shift of a channel is the channel's gradient summed over pixels."""
    shifted = pooled.shifted(model.zeros(as_image_rows(image).shape[0], shape.channels, 1, 1))
    with torch.enable_grad():
        scores = model.with_trunk(shifted).scores(as_normal_tensor(image))
        chosen = target_classes(scores, class_index)
        (summed,) = torch.autograd.grad(target_score(scores, chosen), [shifted.get_parameter("shift")])
    alpha = summed.flatten(1) / (shape.rows * shape.width)
    with torch.no_grad():
        maps = model.with_trunk(pooled.projected(alpha, alpha.new_zeros(len(alpha)))).trunk(image)
    return _own(maps).relu(), chosen, scores.detach()


def _attention(
    model: ExplainedModel, pooled: PooledFeatureMap, image: Image, class_index: ClassIndex, shape: ValueShape
) -> tuple[Method, Found]:
    """For gated attention; Grad-CAM if there are several heads, but not one per class."""
    with torch.no_grad():
        maps: Tensor = attention_map(model.trunk, image)
        scores = model.scores(image)
    chosen, heads = target_classes(scores, class_index), maps.shape[1]
    if heads not in (1, scores.shape[1]):
        return "Grad-CAM", _grad_cam(model, pooled, image, class_index, shape)
    return "attention", (_select_class(maps, chosen) if heads > 1 else maps[:, 0], chosen, scores)


def _select_class(maps: Tensor, classes: Tensor) -> Tensor:
    """Each image's map (B, h, w) of its target class, from the maps (B, K, h, w) of all classes."""
    return maps[torch.arange(len(maps), device=maps.device), classes]


def _own(maps: Tensor) -> Tensor:
    """Each image's map (B, h, w) of its own class, from the maps (B, B, h, w) of every image's class."""
    return maps.diagonal(dim1=0, dim2=1).permute(2, 0, 1)
