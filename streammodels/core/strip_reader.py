"""Readers of strips in the order of a pass, the next ones read by background threads."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from zlib import crc32

import torch
from torch import Tensor

from streammodels.core.image_rows import ImageRows, scale_to_unit
from streammodels.errors import ImageReadError


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
    """Yields strips of an image in a given order, on the device that computes; floats, unless they are labels.

    Args:
        source: The image.
        device: The device that computes.
        dtype: Type of the floats.
        memory_format: That of the weights. Only a tensor whose channels are last keeps its own, as in plain PyTorch.
    """

    def __init__(
        self,
        source: ImageRows,
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.source = source
        self.device = device
        self.dtype = dtype
        keeps = source.is_decoded and memory_format == torch.contiguous_format
        self.memory_format = None if keeps else memory_format
        self._checksums: dict[range, int] = {}

    def strips(self, requested: Sequence[range]) -> Generator[SingleUseTensor, None, None]:
        """The rows of each range in turn. The next are read in the background, unless they are on the device already.

        Raises:
            ImageReadError: If rows cannot be read, or differ from those of an earlier read.
        """
        source = self.source
        if source.is_decoded and source.device == self.device:
            return (SingleUseTensor(self._values(source.read(rows.start, rows.stop))) for rows in requested)
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
        """The values on the device that computes, floats made late because bytes take a quarter of the memory."""
        # A copy from pinned memory runs beside the computation, and torch keeps the memory until it has ended.
        # In the other direction nothing would wait for the copy to end.
        return self._values(pixels.to(self.device, non_blocking=self.device.type == "cuda"))

    def _values(self, pixels: Tensor) -> Tensor:
        return scale_to_unit(pixels, self.dtype, self.memory_format) if self.source.is_scaled else pixels

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


class InputReader:
    """Yields strips of all inputs of a network.

    Attributes:
        readers: The reader of each input, by node.
        device: The device that computes.
    """

    def __init__(self, readers: Mapping[int, StripReader], device: torch.device) -> None:
        self.readers = readers
        self.device = device

    def set_tensors(self, tensors: Sequence[Tensor | None]) -> None:
        """Set what the inputs that are in memory read, in the order of `readers`; None while autograd holds it."""
        for reader, tensor in zip(self.readers.values(), tensors, strict=True):
            reader.source.tensor = tensor

    def strips(self, requested: Sequence[Mapping[int, range]]) -> Generator[dict[int, SingleUseTensor], None, None]:
        """The rows of every step, by node: those that are requested, without empty ranges.

        Raises:
            ImageReadError: If rows cannot be read, or differ from those of an earlier read.
        """
        with ExitStack() as stack:
            strips = {}
            for node, reader in self.readers.items():
                ranges = [step[node] for step in requested if step.get(node)]
                strips[node] = stack.enter_context(closing(reader.strips(ranges)))
            for step in requested:
                yield {node: next(strips[node]) for node, rows in step.items() if rows}
