"""Readers of strips in the order of a pass, the next ones read by background threads."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from zlib import crc32

import torch
from torch import Tensor

from streammodels.core.image_rows import ImageRows, scale_to_unit
from streammodels.core.tensors.copies import Arrival, CopyStream, Uploads, copy_stream
from streammodels.core.tensors.memory_format import format_of
from streammodels.errors import ImageReadError

_UNREAD = object()


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
        self._checksums: dict[range, tuple[torch.memory_format, int]] = {}
        self._version: Hashable = _UNREAD

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
        copies = copy_stream(self.device)
        fetch = partial(self._fetch, None if copies is None else Uploads(copies))
        with ThreadPoolExecutor(1, thread_name_prefix="rows") as thread:
            pending = [thread.submit(fetch, rows) for rows in requested[:1]]
            for following in [*requested[1:], None]:
                fetched = [pending.pop().result()]
                if following is not None:
                    pending.append(thread.submit(fetch, following))
                yield SingleUseTensor(self._on_device(fetched.pop(), copies))

    def _on_device(self, fetched: Tensor | Arrival, copies: CopyStream | None) -> Tensor:
        """The values on the device that computes, floats made late because bytes take a quarter of memory and copy."""
        if isinstance(fetched, Arrival):
            assert copies is not None
            (pixels,) = copies.take(fetched)
            return self._values(pixels)
        return self._values(fetched.to(self.device))

    def _values(self, pixels: Tensor) -> Tensor:
        return scale_to_unit(pixels, self.dtype, self.memory_format) if self.source.is_scaled else pixels

    @torch.no_grad()
    def _fetch(self, uploads: Uploads | None, rows: range) -> Tensor | Arrival:
        """In the background thread."""
        source = self.source
        if self._version is _UNREAD:
            self._version = source.version()  # before any row is read
        pixels = source.read(rows.start, rows.stop)
        if not source.is_decoded:
            self._check_unchanged(rows, pixels)
        if uploads is not None and pixels.device.type == "cpu":
            return uploads.send(pixels)
        # An image that states no version may decode the next rows into the same memory.
        return pixels if source.is_decoded or self._version is not None else pixels.clone()

    def _check_unchanged(self, rows: range, pixels: Tensor) -> None:
        """Check that the backward pass sees the pixels of the forward pass, without which gradients are wrong."""
        if self._version is not None:
            is_same = self.source.version() == self._version
        else:
            last = self._checksums.get(rows, (format_of(pixels), 0))[0]
            found = last, _checksum(pixels, last)
            is_same = self._checksums.setdefault(rows, found) == found
        if not is_same:
            raise ImageReadError(
                f"rows {rows.start}..{rows.stop - 1} of {self.source.name} came with other pixels than when they were "
                "read before. An image has to return the same pixels whenever it is asked: draw random numbers of an "
                "augmentation once for each image, and do not write to its file."
            )


def _checksum(pixels: Tensor, memory_format: torch.memory_format) -> int:
    """The checksum of the pixels in the order of a memory format."""
    ordered = pixels.cpu().contiguous(memory_format=memory_format)
    ordered = ordered.permute(0, 2, 3, 1) if memory_format == torch.channels_last else ordered
    # Strides of sides of one pixel mean nothing, but a view as bytes asks for them.
    return crc32(ordered.as_strided((ordered.numel(),), (1,)).view(torch.uint8).numpy().data)


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
