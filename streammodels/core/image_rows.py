"""Where the rows of an image come from: a tensor, or an object that decodes them when they are asked for.

A slide of 100,000 x 80,000 pixels does not have to be whole in memory to be trained on. Whatever has `shape`, `dtype`
and ``rows(start, stop)`` is an image here; the strip that is needed next is read by a background thread while the
present one is computed - downwards in the forward pass, upwards in the backward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeGuard, runtime_checkable
from zlib import crc32

import torch
from torch import Tensor

from streammodels.errors import ImageReadError


class Handover:
    """A tensor that can be taken once.

    Args:
        rows: The tensor; the caller had better keep no other reference.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows: Tensor | None = rows

    def take(self) -> Tensor:
        """The tensor, which is forgotten here."""
        rows, self._rows = self._rows, None
        assert rows is not None, "the rows were taken before"
        return rows


def taken(handover: Handover | None) -> Tensor | None:
    """The tensor handed over, if any is."""
    return None if handover is None else handover.take()


@runtime_checkable
class LazyRows(Protocol):
    """An image whose rows are decoded when asked for.

    An attribute ``name`` is used in error messages. An object that also has ``columns(start, stop)``, returning
    (C, H, columns), lets strips run along the width where that is the longer side.

    Attributes:
        shape: (C, H, W).
        dtype: `torch.uint8` (0..255, scaled to 0..1), or a floating type (taken as it is).
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
        """Rows ``start .. stop-1``: (C, stop - start, W) of type `dtype`, in host memory. Called from a thread.

        A training step reads every row twice or more, and has to get the same pixels.
        """
        ...


Image = Tensor | LazyRows
"""A (B, C, H, W) tensor, or an object that decodes its rows when asked for."""


def is_lazy(image: object) -> TypeGuard[LazyRows]:
    """Whether `image` reads its rows on demand."""
    return not isinstance(image, Tensor) and isinstance(image, LazyRows)


class ImageRows(ABC):
    """A batch of images of one size, read by rows, or by columns when turned sideways.

    Attributes:
        name: What error messages call it.
        shape: (B, C, H, W).
        dtype: Type of the pixels.
        sideways: Whether `read` hands out columns, as rows of the image with height and width swapped.
    """

    def __init__(self, name: str, shape: tuple[int, int, int, int], dtype: torch.dtype, sideways: bool = False) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.sideways = sideways

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width as strips see them."""
        height, width = self.shape[2:]
        return (width, height) if self.sideways else (height, width)

    @property
    @abstractmethod
    def turns(self) -> bool:
        """Whether it can be read by columns."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its pixels are."""

    @property
    @abstractmethod
    def is_decoded(self) -> bool:
        """Whether its pixels are there, so that reading costs nothing."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """(B, C, stop - start, width as strips see it)."""

    @abstractmethod
    def hold(self, image: Tensor | None) -> None:
        """Let go of the pixels (None), or have them again: in between somebody else may hold them, and free them."""


class TensorRows(ImageRows):
    """Rows of a (B, C, H, W) tensor."""

    def __init__(self, image: Tensor, name: str = "the image") -> None:
        if image.ndim != 4:
            remedy = "Add the batch dimension with image[None]." if image.ndim == 3 else "Reshape it."
            raise ValueError(f"expected a (B, C, H, W) image, got shape {tuple(image.shape)}. {remedy}")
        batch, channels, height, width = image.shape
        super().__init__(name, (batch, channels, height, width), image.dtype)
        _check_pixels(self)
        self.image = image

    def hold(self, image: Tensor | None) -> None:
        """See `ImageRows`."""
        self.image = torch.empty(0) if image is None else image

    @property
    def turns(self) -> bool:
        """Always."""
        return True

    @property
    def device(self) -> torch.device:
        """The tensor's."""
        return self.image.device

    @property
    def is_decoded(self) -> bool:
        """Always."""
        return True

    def read(self, start: int, stop: int) -> Tensor:
        """A view of the tensor, or a copy of its columns."""
        if not self.sideways:
            return self.image[:, :, start:stop]
        return self.image[:, :, :, start:stop].transpose(2, 3).contiguous()


class DecodedRows(ImageRows):
    """Rows of an image that decodes them on demand, checked."""

    def __init__(self, image: LazyRows, name: str = "the image") -> None:
        own = getattr(image, "name", None)
        name = repr(str(own)) if own else name
        if len(image.shape) != 3:
            raise ValueError(f"{name} has shape {tuple(image.shape)}; an image read by rows has shape (C, H, W).")
        channels, height, width = (int(size) for size in image.shape)
        super().__init__(name, (1, channels, height, width), _torch_dtype(image.dtype, name))
        _check_pixels(self)
        self.image = image

    def hold(self, image: Tensor | None) -> None:
        """There are none."""

    @property
    def turns(self) -> bool:
        """If it has a method `columns`."""
        return hasattr(self.image, "columns")

    @property
    def device(self) -> torch.device:
        """Host memory."""
        return torch.device("cpu")

    @property
    def is_decoded(self) -> bool:
        """Never."""
        return False

    def read(self, start: int, stop: int) -> Tensor:
        """Decode the rows.

        Raises:
            ImageReadError: If the image raises, or returns another shape or type than it promised.
        """
        kind = "columns" if self.sideways else "rows"
        where = f"{kind} {start}..{stop - 1} of {self.name}"
        read: Callable[[int, int], Any] = getattr(self.image, kind)
        try:
            pixels = torch.as_tensor(read(start, stop))
        except Exception as error:
            raise ImageReadError(f"{where} could not be read: {type(error).__name__}: {error}") from error
        _, channels, height, width = self.shape
        expected = (channels, height, stop - start) if self.sideways else (channels, stop - start, width)
        if tuple(pixels.shape) != expected or pixels.dtype != self.dtype:
            got = f"{tuple(pixels.shape)} of {pixels.dtype}, not {expected} of {self.dtype}"
            raise ImageReadError(f"{where} came as {got}. Correct its {kind}(start, stop), or its shape and dtype.")
        return pixels.transpose(1, 2).contiguous()[None] if self.sideways else pixels[None]


def as_image_rows(image: object, name: str = "the image") -> ImageRows:
    """A tensor or a lazy image as something to read rows from.

    Raises:
        TypeError: If it is neither, or its pixels are of a type that has no scale.
        ValueError: If its shape is not that of an image, or it has no pixels.
    """
    if isinstance(image, Tensor):
        return TensorRows(image, name)
    if is_lazy(image):
        return DecodedRows(image, name)
    raise TypeError(
        f"{name} is a {type(image).__name__}. Give a (B, C, H, W) tensor, an object with shape, dtype and "
        "rows(start, stop), or a list of these."
    )


def _torch_dtype(dtype: Any, name: str) -> torch.dtype:
    """A type as torch names it, from torch's or numpy's."""
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name} has pixels of type {dtype}, which torch does not have. Use torch.uint8 or a float.")
    return found


def _check_pixels(source: ImageRows) -> None:
    if 0 in source.shape:
        raise ValueError(f"{source.name} has no pixels: shape {source.shape}. Every side has to be at least 1.")
    if source.dtype != torch.uint8 and not source.dtype.is_floating_point:
        raise TypeError(
            f"{source.name} has pixels of {source.dtype}, whose scale is unknown. Give uint8 (0..255 become 0..1), or "
            "scale it to floats yourself."
        )


class StripReader:
    """Hands out strips of an image in a given order, on the device that computes, as floats."""

    def __init__(self, source: ImageRows, device: torch.device, dtype: torch.dtype) -> None:
        self.source = source
        self.device = device
        self.dtype = dtype
        self._seen: dict[range, int] = {}

    def strips(self, wanted: Sequence[range]) -> Generator[Handover, None, None]:
        """The rows of each range in turn; the next is read in the background unless there is nothing to wait for.

        Raises:
            ImageReadError: If rows cannot be had, or are not the same when they are read once more.
        """
        if self.source.is_decoded and self.source.device == self.device:
            return (Handover(scale_to_unit(self.source.read(rows.start, rows.stop), self.dtype)) for rows in wanted)
        return self._ahead(wanted)

    def _ahead(self, wanted: Sequence[range]) -> Generator[Handover, None, None]:
        if not wanted:
            return
        with ThreadPoolExecutor(1, thread_name_prefix="rows") as thread:
            pending = [thread.submit(self._fetch, rows) for rows in wanted[:1]]
            for following in [*wanted[1:], None]:
                fetched = Handover(pending.pop().result())
                if following is not None:
                    pending.append(thread.submit(self._fetch, following))
                yield Handover(self._scaled(fetched.take()))

    def _scaled(self, pixels: Tensor) -> Tensor:
        """Floats on the device that computes. They are made late: read ahead are bytes, a quarter of the memory."""
        # A copy from pinned memory runs beside the computation; torch keeps the memory until it has ended.
        # The other way round nobody would wait for the copy to end.
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
        """Gradients are only right if the backward pass sees the pixels that the forward pass saw."""
        checksum = crc32(pixels.cpu().contiguous().view(torch.uint8).numpy().data)
        if self._seen.setdefault(rows, checksum) != checksum:
            raise ImageReadError(
                f"rows {rows.start}..{rows.stop - 1} of {self.source.name} came with other pixels than when they were "
                "read before. An image has to return the same pixels whenever it is asked: draw random numbers of an "
                "augmentation once for each image, and do not write to its file."
            )


def scale_to_unit(image: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 0..255 to 0..1 in `dtype`; an image of floats stays as it is."""
    return image.to(dtype).div_(255) if image.dtype == torch.uint8 else image
