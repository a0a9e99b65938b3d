"""`StreamingConvNeXt`, a `StreamingNetwork` that takes the names of ConvNeXts alone."""

from __future__ import annotations

from typing import Any

from torchvision import models

from streammodels.training.streaming_network import StreamingNetwork


class StreamingConvNeXt(StreamingNetwork):
    """A ConvNeXt of torchvision or timm that trains end to end on images too large for memory.

    Args:
        model_name: Those of torchvision are "convnext_tiny", "convnext_small", "convnext_base" and "convnext_large".
            Others are timm's, such as "convnext_atto", "convnext_pico_ols", "convnext_tiny_hnf" and
            "convnext_tiny.fb_in22k", for which timm has to be installed. ConvNeXt V2 reads statistics of whole maps
            and needs ``global_statistics="host"``. A library in front decides: "timm/convnext_tiny".
        tile_size: Upper bound for strips, and so for memory, as the side of a square tile in pixels: see `stream`.
        options: Further arguments of `StreamingNetwork`.

    Raises:
        ValueError: If the name is that of another network; otherwise as `StreamingNetwork`.

    Example:
        >>> model = StreamingConvNeXt("convnext_tiny", num_classes=3, weights=None)
        >>> model(torch.zeros(1, 3, 300, 200, dtype=torch.uint8)).shape
        torch.Size([1, 3])
    """

    def __init__(self, model_name: str = "convnext_tiny", tile_size: int | None = None, **options: Any) -> None:
        library, _, name = model_name.rpartition("/")
        if not name.startswith("convnext"):
            raise ValueError(f"model_name '{model_name}' is no ConvNeXt. Use StreamingNetwork('timm/{name}', ...).")
        known = models.list_models(include="convnext*")
        super().__init__(f"{library or ('torchvision' if name in known else 'timm')}/{name}", tile_size, **options)
        del self.hparams["network"]  # which follows from `model_name`
