"""Cases, several images that are one sample and are pooled as if they were one.

A global pool combines the partial results of strips, and does not ask which image a strip is of. So the images of a
case are streamed one by one, and what comes behind the pools is computed once, of the strips of all images:

    strips of image 0 -> partial results -+
    strips of image 1 -> partial results -+-> combine -> tail -> result of the case
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streammodels.backprop.bptt import ImagePass
from streammodels.core.engine import NodeTensors
from streammodels.core.network import Network
from streammodels.core.reductions import Reduction
from streammodels.errors import UnsupportedLayerError


@dataclass(frozen=True)
class ImageOfCase:
    """What is known of one image of a case when its strips are computed.

    Attributes:
        network: The network that computed it.
        image_pass: Its pass.
        values: The result of `ImagePass.forward`, connected by autograd.
        tensors: The tensors of every node, connected to the parameters.
    """

    network: Network
    image_pass: ImagePass
    values: Sequence[Tensor]
    tensors: NodeTensors


def check_poolable(network: Network) -> None:
    """Check that a network pools all that it returns.

    Raises:
        UnsupportedLayerError: If not.
    """
    if network.vectors is not None:
        node = network.nodes[min(network.vectors.read)]
        reason = "it reads statistics of a whole map, and of which images of a case is not defined"
        raise UnsupportedLayerError(node.path, reason, "Pass the images as a list that is not nested: [a, b, c].")
    for index in network.boundary:
        node = network.nodes[index]
        if not isinstance(node.rule, Reduction):
            reason = "its map is a result, or read behind a global pool, and every image of a case has its own"
            remedy = "End the module in a global pool, or pass the images as a list that is not nested: [a, b, c]."
            raise UnsupportedLayerError(node.path, reason, remedy)


def finish_case(images: Sequence[ImageOfCase]) -> Any:
    """What the module returns for a case.

    Raises:
        ValueError: If the operations behind the pools depend on the size of an image.
    """
    first, *others = images
    for other in others:
        check_same_tail(first.network, other.network)
    remaining = [iter(image.values) for image in images]
    results = []
    for nodes in zip(*(image.network.boundary for image in images), strict=True):
        states = [image.image_pass.reductions[index] for image, index in zip(images, nodes, strict=True)]
        parts = tuple(torch.cat([next(own) for own in remaining]) for _ in range(states[0].number))
        pixels = sum(state.pixels for state in states)
        results.append(first.image_pass.combine(nodes[0], parts, pixels, first.tensors))
    return first.network.finish(results)


def check_same_tail(one: Network, other: Network) -> None:
    """Check that a module computes the same of what it pools for images of two sizes.

    Raises:
        ValueError: If not.
    """
    if not _same_tail(one, other):
        raise ValueError(
            "what the module computes in and behind its global pools depends on the size of the image, and of a case "
            "the images are pooled together. Use a pool that does this itself, such as a mean in place of a sum "
            "divided by height times width, or pass the images as a list that is not nested: [a, b, c]."
        )


def _same_tail(one: Network, other: Network) -> bool:
    """Whether two networks compute the same of what they pool."""
    if one is other:
        return True
    (calls, constants), (calls_other, constants_other) = _tail(one), _tail(other)
    same_pools = _pools(one) == _pools(other)
    return same_pools and calls == calls_other and all(map(_is_same, constants, constants_other))


def _pools(network: Network) -> list[tuple[str, type]]:
    """The layers that pool."""
    nodes = [network.nodes[index] for index in network.boundary]
    return [(node.path, type(node.rule)) for node in nodes]


def _tail(network: Network) -> tuple[list[tuple[Any, ...]], list[Tensor]]:
    """The operations that are not streamed, and the tensors among them."""
    streamed = {*network.streamed_names}
    nodes = [node for node in network.streamed_names[0].graph.nodes if node not in streamed]
    reads = {source for node in nodes if node.op != "get_attr" for source in node.all_input_nodes}
    calls = [(node.op, str(node.target), repr(node.args), repr(node.kwargs)) for node in nodes if node.op != "get_attr"]
    named = [str(node.target) for node in nodes if node.op == "get_attr" and node in reads]
    return calls, [network.constants[name] for name in named if name in network.constants]


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool(torch.equal(one, other)))
