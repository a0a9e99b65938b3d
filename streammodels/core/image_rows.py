"""The rows of an image, of a tensor or decoded on demand.

A slide of 100,000 x 80,000 pixels does not have to be in memory to be trained on. Any object with `shape`, `dtype` and
``rows(start, stop)`` is an image (`LazyRows`). `ImageRows` reads either kind of image, and `StripReader` yields its
strips in the order of the forward or backward pass, the next one read by a background thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from os import PathLike
from typing import Any, ClassVar, Protocol, runtime_checkable
from zlib import crc32

import torch
from torch import Tensor

from streammodels.errors import ImageReadError


@runtime_checkable
class LazyRows(Protocol):
    """An image whose rows are decoded on demand.

    An attribute ``name`` is used in error messages. An object that also has ``columns(start, stop)``, returning
    (C, H, columns), lets strips run along the width where that is the longer side.

    Attributes:
        shape: (C, H, W).
        dtype: `torch.uint8` (0..255, scaled to 0..1), or a floating type (not scaled).
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


Image = Tensor | LazyRows
"""A (B, C, H, W) tensor, or an object that decodes rows on demand."""


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
        tensor: The pixels in memory; None while autograd holds them, which may free them.
    """

    is_decoded: ClassVar[bool]

    def __init__(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device, has_columns: bool
    ) -> None:
        batch, channels, height, width = (int(size) for size in shape)
        self.name = name
        self.shape = (batch, channels, height, width)
        self.dtype = dtype
        self.device = device
        self.has_columns = has_columns
        self.sideways = False
        self.tensor: Tensor | None = None
        if 0 in self.shape:
            raise ValueError(f"{name} has no pixels: shape {self.shape}. Every side has to be at least 1.")
        if dtype != torch.uint8 and not dtype.is_floating_point:
            raise TypeError(
                f"{name} has pixels of {dtype}, whose scale is unknown. Give uint8 (0..255 become 0..1), or scale it "
                "to floats yourself."
            )

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width as the strips see them."""
        height, width = self.shape[2:]
        return (width, height) if self.sideways else (height, width)

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """(B, C, stop - start, width as the strips see it)."""


class TensorRows(ImageRows):
    """Rows of a (B, C, H, W) tensor."""

    is_decoded = True

    def __init__(self, image: Tensor, name: str) -> None:
        if image.ndim != 4:
            remedy = "Add the batch dimension with image[None]." if image.ndim == 3 else "Reshape it."
            raise ValueError(f"expected a (B, C, H, W) image, got shape {tuple(image.shape)}. {remedy}")
        super().__init__(name, image.shape, image.dtype, image.device, has_columns=True)
        self.tensor = image

    def read(self, start: int, stop: int) -> Tensor:
        """A view of the tensor, or a copy of its columns."""
        assert self.tensor is not None
        if not self.sideways:
            return self.tensor[:, :, start:stop]
        return self.tensor[:, :, :, start:stop].transpose(2, 3).contiguous()


class DecodedRows(ImageRows):
    """Rows of an image that decodes them on demand, checked for shape and type."""

    is_decoded = False

    def __init__(self, image: LazyRows, name: str) -> None:
        own = getattr(image, "name", None)
        name = repr(str(own)) if own else name
        if len(image.shape) != 3 or not all(isinstance(size, Integral) for size in image.shape):
            raise ValueError(
                f"{name} has shape {tuple(image.shape)}; an image read by rows has shape (C, H, W), whole numbers."
            )
        dtype = _torch_dtype(image.dtype, name)
        super().__init__(name, (1, *image.shape), dtype, torch.device("cpu"), hasattr(image, "columns"))
        self.image = image

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
        return pixels.transpose(1, 2).contiguous()[None] if self.sideways else pixels[None]


def as_image_rows(image: object, name: str = "the image") -> ImageRows:
    """The rows of a tensor or a lazy image.

    Raises:
        TypeError: If it is neither, or its pixels are of a type that has no scale.
        ValueError: If its shape is not that of an image, or it has no pixels.
    """
    if isinstance(image, Tensor):
        return TensorRows(image, name)
    if isinstance(image, LazyRows):
        return DecodedRows(image, name)
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


class SingleUseTensor:
    """A tensor that is taken once, so that the caller's reference does not keep it in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor: Tensor | None = tensor

    def take(self) -> Tensor:
        """The tensor, which is not kept here."""
        tensor, self._tensor = self._tensor, None
        assert tensor is not None, "the tensor was taken before"
        return tensor


class StripReader:
    """Yields strips of an image in a given order, as floats on the device that computes."""

    def __init__(self, source: ImageRows, device: torch.device, dtype: torch.dtype) -> None:
        self.source = source
        self.device = device
        self.dtype = dtype
        self._checksums: dict[range, int] = {}

    def strips(self, requested: Sequence[range]) -> Generator[SingleUseTensor, None, None]:
        """The rows of each range in turn. The next are read in the background, unless they are on the device already.

        Raises:
            ImageReadError: If rows cannot be read, or differ from those of an earlier read.
        """
        source, dtype = self.source, self.dtype
        if source.is_decoded and source.device == self.device:
            return (SingleUseTensor(scale_to_unit(source.read(rows.start, rows.stop), dtype)) for rows in requested)
        return self._prefetched(requested)

    def _prefetched(self, requested: Sequence[range]) -> Generator[SingleUseTensor, None, None]:
        if not requested:
            return
        with ThreadPoolExecutor(1, thread_name_prefix="rows") as thread:
            pending = [thread.submit(self._fetch, rows) for rows in requested[:1]]
            for following in [*requested[1:], None]:
                fetched = SingleUseTensor(pending.pop().result())
                if following is not None:
                    pending.append(thread.submit(self._fetch, following))
                yield SingleUseTensor(self._to_device(fetched.take()))

    def _to_device(self, pixels: Tensor) -> Tensor:
        """Floats on the device that computes, made late because bytes take a quarter of the memory."""
        # A copy from pinned memory runs beside the computation, and torch keeps the memory until it has ended.
        # In the other direction nothing would wait for the copy to end.
        return scale_to_unit(pixels.to(self.device, non_blocking=self.device.type == "cuda"), self.dtype)

    def _fetch(self, rows: range) -> Tensor:
        """In the background thread."""
        with torch.no_grad():
            pixels = self.source.read(rows.start, rows.stop)
            if not self.source.is_decoded:
                pixels = pixels.clone()  # the image may decode the next rows into the same memory
                self._check_unchanged(rows, pixels)
            return pixels.pin_memory() if self.device.type == "cuda" and pixels.device.type == "cpu" else pixels

    def _check_unchanged(self, rows: range, pixels: Tensor) -> None:
        """Check that the backward pass sees the pixels of the forward pass, without which gradients are wrong."""
        checksum = crc32(pixels.cpu().contiguous().view(torch.uint8).numpy().data)
        if self._checksums.setdefault(rows, checksum) != checksum:
            raise ImageReadError(
                f"rows {rows.start}..{rows.stop - 1} of {self.source.name} came with other pixels than when they were "
                "read before. An image has to return the same pixels whenever it is asked: draw random numbers of an "
                "augmentation once for each image, and do not write to its file."
            )


def scale_to_unit(image: Tensor, dtype: torch.dtype) -> Tensor:
    """The image in `dtype`, uint8 0..255 scaled to 0..1; an image of floats is returned unchanged."""
    return image.to(dtype).div_(255) if image.dtype == torch.uint8 else image
