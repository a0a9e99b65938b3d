"""Errors for layers that cannot be streamed exactly and for images that cannot be read."""

from __future__ import annotations

GLOBAL_STATISTICS = 'Pass global_statistics="host" to stream(), with which maps wait for it in host memory'
"""The remedy for layers that read statistics of the whole map, to be followed by others."""


class UnsupportedLayerError(ValueError):
    """A layer of the network cannot be streamed with exact results.

    Attributes:
        layer: Dotted path of the layer inside the streamed module, e.g. ``"layer1.0.bn1"``.
        reason: Why strips of rows do not give the plain network's result.
        remedy: What to change.
    """

    def __init__(self, layer: str, reason: str, remedy: str) -> None:
        self.layer = layer
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"cannot stream layer '{layer}': {reason}. {remedy}")

    def __reduce__(self) -> tuple[type[UnsupportedLayerError], tuple[str, str, str]]:
        return type(self), (self.layer, self.reason, self.remedy)


class EmptyMaskError(ValueError):
    """A mask leaves no pixel of an image to pool.

    Attributes:
        image: Number of the image in its batch.
        name: Name of the batch; None if it has none.
    """

    def __init__(self, image: int, name: str | None = None) -> None:
        self.image = image
        self.name = name
        where = f"image {image} of the batch" if name is None else name
        super().__init__(
            f"the mask of {where} has no pixel on the map that is pooled, so there is nothing to pool. Leave the image "
            "out, or give a mask with tissue; one that is finer than the map may lose areas smaller than a pixel of it."
        )

    def __reduce__(self) -> tuple[type[EmptyMaskError], tuple[int, str | None]]:
        return type(self), (self.image, self.name)


class ImageReadError(RuntimeError):
    """Rows of a lazy image could not be read; the message names the image and the rows."""
