"""The rows of an image, of a tensor or decoded on demand.

A slide of 100,000 x 80,000 pixels does not have to be in memory to be trained on. Any object with `shape`, `dtype` and
``rows(start, stop)`` is an image (`LazyRows`). `ImageRows` reads either kind of image; `strip_reader.py` reads it in
the order of the strips.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from numbers import Integral
from os import PathLike
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from streammodels.core.tensors.memory_format import dense, format_of, proper
from streammodels.errors import ImageReadError


@runtime_checkable
class LazyRows(Protocol):
    """An image whose rows are decoded on demand.

    An attribute ``name`` is used in error messages. An object that also has ``columns(start, stop)``, returning
    (C, H, columns), lets strips run along the width where that is the longer side.

    Attributes:
        shape: (C, H, W).
        dtype: `torch.uint8` (0..255, scaled to 0..1), or a floating type (not scaled).

    The strips of both passes are compared by checksums, unless an object has an attribute ``pixel_version`` that is not
    None. It promises that its rows come in memory that is not written again, with the same pixels whenever they are
    read, as long as ``pixel_version`` is the same: a constant for pixels that never change, or facts of the file. It is
    looked at before the first and after every read.
    """

    @property
    def shape(self) -> Sequence[int]:
        """(C, H, W)."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the pixels."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start .. stop-1``, (C, stop - start, W) of type `dtype`, in host memory. Called from a thread.

        A training step reads every row twice or more, and has to get the same pixels.
        """
        ...


class Labels:
    """A map of class labels, or a mask, that a streamed module reads beside the image, in its own integer or bool type.

    Without it, rows of uint8 are those of an image and scaled to 0..1.

    Args:
        source: (H, W), (B, H, W) or (B, C, H, W) tensor, or an object with `shape` (C, H, W) or (H, W), `dtype` and
            ``rows(start, stop)``.
    """

    def __init__(self, source: Tensor | LazyRows) -> None:
        if not isinstance(source, Tensor | LazyRows):
            raise TypeError(
                f"Labels takes a tensor or an object with shape, dtype and rows(start, stop), got "
                f"{type(source).__name__}.{_remedy(source)}"
            )
        if isinstance(source, Tensor):
            source = source[None, None] if source.ndim == 2 else source[:, None] if source.ndim == 3 else source
        self.source = source

    @property
    def shape(self) -> Sequence[int]:
        """That of the source; a batch of tensors has a channel dimension."""
        return self.source.shape

    def to(self, *args: Any, **options: Any) -> Labels:
        """The same labels on another device; lazy ones stay where they are read."""
        return Labels(self.source.to(*args, **options)) if isinstance(self.source, Tensor) else self


Image = Tensor | LazyRows | Labels
"""A (B, C, H, W) tensor, or an object that decodes rows on demand."""


def is_image(value: object) -> bool:
    """Whether an argument of a module is an image that strips read: a tensor of four dimensions, or read by rows."""
    return value.ndim == 4 if isinstance(value, Tensor) else isinstance(value, Labels | LazyRows)


class ImageRows(ABC):
    """A batch of images of one size, read by rows, or by columns when sideways.

    Attributes:
        name: Its name in error messages.
        shape: (B, C, H, W).
        dtype: Type of the pixels.
        device: Where its pixels are.
        has_columns: Whether it can be read by columns.
        sideways: Whether `read` returns columns, as rows of the image with height and width swapped.
        is_decoded: Whether its pixels are in memory.
        is_scaled: Whether its pixels become floats, those of uint8 on the scale 0..1.
        tensor: The pixels in memory; None while autograd holds them, which may free them.
    """

    is_decoded: ClassVar[bool]

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        has_columns: bool,
        is_scaled: bool = True,
    ) -> None:
        batch, channels, height, width = (int(size) for size in shape)
        self.name = name
        self.shape = (batch, channels, height, width)
        self.dtype = dtype
        self.device = device
        self.has_columns = has_columns
        self.is_scaled = is_scaled
        self.sideways = False
        self.tensor: Tensor | None = None
        if 0 in self.shape:
            raise ValueError(f"{name} has no pixels: shape {self.shape}. Every side has to be at least 1.")
        if is_scaled and dtype != torch.uint8 and not dtype.is_floating_point:
            raise TypeError(
                f"{name} has pixels of {dtype}, whose scale is unknown. Give uint8 (0..255 become 0..1), scale it to "
                "floats yourself, or wrap labels and masks beside the image in streammodels.Labels."
            )

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width as the strips see them."""
        height, width = self.shape[2:]
        return (width, height) if self.sideways else (height, width)

    @property
    def needs_grad(self) -> bool:
        """Whether it is a tensor that needs a gradient."""
        return self.tensor is not None and self.tensor.requires_grad

    def version(self) -> Hashable | None:
        """What is equal as long as the pixels are the same; None if that is unknown."""
        return None

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """(B, C, stop - start, width as the strips see it)."""


class TensorRows(ImageRows):
    """Rows of a (B, C, H, W) tensor."""

    is_decoded = True

    def __init__(self, image: Tensor, name: str, is_scaled: bool = True) -> None:
        if image.ndim != 4:
            remedy = "Add the batch dimension with image[None]." if image.ndim == 3 else "Reshape it."
            raise ValueError(f"expected a (B, C, H, W) image, got shape {tuple(image.shape)}. {remedy}")
        super().__init__(name, image.shape, image.dtype, image.device, has_columns=True, is_scaled=is_scaled)
        self.tensor = image

    def read(self, start: int, stop: int) -> Tensor:
        """A view of the tensor, or a copy of its columns."""
        assert self.tensor is not None
        if not self.sideways:
            return self.tensor[:, :, start:stop]
        return dense(self.tensor[:, :, :, start:stop].transpose(2, 3))

    def new_grad(self) -> tuple[Tensor, Tensor]:
        """Memory for the gradient of the tensor, and a view of it as the strips see it."""
        assert self.tensor is not None
        grad = torch.empty_like(self.tensor)
        return grad, grad.transpose(2, 3) if self.sideways else grad


class DecodedRows(ImageRows):
    """Rows of an image that decodes them on demand, checked for shape and type."""

    is_decoded = False

    def __init__(self, image: LazyRows, name: str, is_scaled: bool = True) -> None:
        own = getattr(image, "name", None)
        name = repr(str(own)) if own else name
        shape = tuple(image.shape)
        self.has_channels = is_scaled or len(shape) != 2  # labels may come as (H, W)
        shape = shape if self.has_channels else (1, *shape)
        if len(shape) != 3 or not all(isinstance(size, Integral) for size in shape):
            raise ValueError(
                f"{name} has shape {tuple(image.shape)}; an image read by rows has shape (C, H, W), whole numbers."
            )
        dtype = _torch_dtype(image.dtype, name)
        super().__init__(name, (1, *shape), dtype, torch.device("cpu"), hasattr(image, "columns"), is_scaled)
        self.image = image

    def version(self) -> Hashable | None:
        """See `ImageRows.version`."""
        found: Hashable | None = getattr(self.image, "pixel_version", None)
        return found

    def read(self, start: int, stop: int) -> Tensor:
        """Decode the rows.

        Raises:
            MemoryError: If the image raises it.
            ImageReadError: If the image raises anything else, or returns another shape or type than its own.
        """
        kind = "columns" if self.sideways else "rows"
        where = f"{kind} {start}..{stop - 1} of {self.name}"
        read: Callable[[int, int], Any] = getattr(self.image, kind)
        try:
            pixels = torch.as_tensor(_as_torch_reads(read(start, stop)))
            pixels = pixels if self.has_channels else pixels[None]
        except (MemoryError, torch.OutOfMemoryError) as error:
            error.add_note(f"while reading {where}")
            raise
        except Exception as error:
            raise ImageReadError(f"{where} could not be read: {type(error).__name__}: {error}") from error
        _, channels, height, width = self.shape
        expected = (channels, height, stop - start) if self.sideways else (channels, stop - start, width)
        if tuple(pixels.shape) != expected or pixels.dtype != self.dtype:
            got = f"{tuple(pixels.shape)} of {pixels.dtype}, not {expected} of {self.dtype}"
            raise ImageReadError(f"{where} came as {got}. Correct its {kind}(start, stop), or its shape and dtype.")
        return dense(pixels[None].transpose(2, 3)) if self.sideways else pixels[None]


def as_image_rows(image: object, name: str = "the image", is_scaled: bool = True) -> ImageRows:
    """The rows of a tensor or a lazy image; those of `Labels`, or if not `is_scaled`, in their own type.

    Raises:
        TypeError: If it is neither, or its pixels are of a type that has no scale.
        ValueError: If its shape is not that of an image, or it has no pixels.
    """
    if isinstance(image, Labels):
        return as_image_rows(image.source, name, is_scaled=False)
    if isinstance(image, Tensor):
        return TensorRows(image, name, is_scaled)
    if isinstance(image, LazyRows):
        return DecodedRows(image, name, is_scaled)
    raise TypeError(
        f"{name} is of type {type(image).__name__}. Give a (B, C, H, W) tensor, an object with shape, dtype and "
        f"rows(start, stop), or a list of these.{_remedy(image)}"
    )


def _remedy(image: object) -> str:
    """What to do with an object that is often taken for an image."""
    if isinstance(image, str | PathLike):
        return " Read the file first."
    if type(image).__module__.startswith("numpy"):
        return " torch.from_numpy(array) makes one; its channels come first: .permute(2, 0, 1)[None] of (H, W, C)."
    if type(image).__module__.startswith("PIL"):
        return " torchvision.transforms.functional.pil_to_tensor(image)[None] makes one."
    return ""


def _as_torch_reads(pixels: Any) -> Any:
    """A copy of an array of numpy that is read-only, or read backwards, which torch would warn of or refuse."""
    if hasattr(pixels, "flags") and hasattr(pixels, "strides"):
        return pixels if pixels.flags.writeable and min(pixels.strides, default=0) >= 0 else pixels.copy()
    return pixels


def _torch_dtype(dtype: Any, name: str) -> torch.dtype:
    """The type of torch for one of torch or numpy."""
    kind = getattr(dtype, "__name__", str(dtype))  # numpy.uint8, or its dtype
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, kind.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name} has pixels of type {dtype}, which torch does not have. Use torch.uint8 or a float.")
    return found


def scale_to_unit(image: Tensor, dtype: torch.dtype, memory_format: torch.memory_format | None = None) -> Tensor:
    """The image in `dtype`, uint8 0..255 scaled to 0..1; of an image of floats only the memory format may change.

    Args:
        image: (B, C, H, W).
        dtype: A floating type.
        memory_format: That of the result; None for that of the image.
    """
    own = memory_format or format_of(image)
    if image.dtype == torch.uint8:
        return torch.empty(image.shape, dtype=dtype, device=image.device, memory_format=own).copy_(image).div_(255)
    return proper(image) if own == format_of(image) else image.contiguous(memory_format=own)
