"""The errors a user of `stream` meets: a layer that cannot be streamed exactly, and an image that cannot be read."""

from __future__ import annotations


class UnsupportedLayerError(ValueError):
    """A layer of the network cannot be streamed with exact results, so it is refused.

    Attributes:
        layer: Dotted path of the layer inside the streamed module, e.g. ``"layer1.0.bn1"``.
        reason: Why strips of rows cannot give the plain network's result there.
        remedy: What to change.
    """

    def __init__(self, layer: str, reason: str, remedy: str) -> None:
        self.layer = layer
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"cannot stream layer '{layer}': {reason}. {remedy}")

    def __reduce__(self) -> tuple[type[UnsupportedLayerError], tuple[str, str, str]]:
        return type(self), (self.layer, self.reason, self.remedy)


class ImageReadError(RuntimeError):
    """Rows of a lazily read image could not be had; the message names the image and the rows."""
