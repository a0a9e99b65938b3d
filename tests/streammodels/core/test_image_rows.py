"""Lazy images and lists of images give the results of tensors, and read errors name image and rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streammodels import GatedAttention, GeM, GlobalMaxPool, ImageReadError, Keeping, LogSumExp, stream
from streammodels.core import strip_reader
from streammodels.core.image_rows import as_image_rows
from streammodels.core.strip_reader import StripReader


@dataclass
class Decoded:
    """An image read by rows, which records reads and threads."""

    pixels: Tensor
    name: str = "slide_7"
    reads: list[range] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.pixels.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        self.reads.append(range(start, stop))
        self.threads.add(threading.current_thread().name)
        return self.pixels[:, start:stop]


class DecodedByColumns(Decoded):
    def columns(self, start: int, stop: int) -> Tensor:
        self.reads.append(range(start, stop))
        return self.pixels[:, :, start:stop]


class Shaped:
    dtype = torch.uint8

    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def rows(self, start: int, stop: int) -> Tensor:
        raise AssertionError("not read")


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, 2, 2), nn.ReLU(), nn.MaxPool2d((3, 2), 2, 1), nn.Conv2d(4, 5, (1, 3), padding=(0, 1)),
        nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1),
    ).double()  # fmt: skip


def pixels(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def gradients(module: nn.Module, output: Tensor) -> list[Tensor]:
    module.zero_grad()
    (output * torch.arange(1.0, output.numel() + 1).view_as(output)).sum().backward()
    return [output.detach(), *(parameter.grad for parameter in module.parameters() if parameter.grad is not None)]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [(61, 23), (23, 61)])
@pytest.mark.parametrize("kind", [Decoded, DecodedByColumns])
def test_image_read_by_rows_gives_what_the_tensor_gives(size: tuple[int, int], kind: type[Decoded]) -> None:
    module, image = network(), kind(pixels(*size))
    expected = gradients(module, module(image.pixels[None].double() / 255))
    assert_same(gradients(module, stream(module, strip_rows=8, keeping=Keeping())(image)), expected)
    side = 61 if kind is DecodedByColumns else size[0]
    down = [range(start, min(start + 8, side)) for start in range(0, side, 8)]
    assert image.reads == [*down, *reversed(down)]
    assert threading.current_thread().name not in image.threads


def test_a_strip_whose_graph_is_kept_is_read_once() -> None:
    image = Decoded(pixels(24, 20))
    stream(network(), strip_rows=8)(image).sum().backward()
    assert image.reads == [range(8), range(8, 16), range(16, 24), range(8, 16), range(8)]


def test_floats_are_taken_as_they_are() -> None:
    module, image = network(), Decoded(torch.randn(3, 40, 30, dtype=torch.float64))
    torch.testing.assert_close(stream(module, strip_rows=7)(image), module(image.pixels[None]))


def test_rows_may_come_as_numpy_arrays() -> None:
    class Numpy:
        shape, dtype = (3, 40, 30), np.dtype("uint8")
        values = np.random.default_rng(0).integers(0, 256, (3, 40, 30), dtype=np.uint8)

        def rows(self, start: int, stop: int) -> np.ndarray:
            return self.values[:, start:stop]

    module, image = network(), Numpy()
    torch.testing.assert_close(
        stream(module, strip_rows=7)(image), module(torch.from_numpy(image.values)[None].double() / 255)
    )


def test_list_of_images_of_any_sizes() -> None:
    module = network()
    images = [Decoded(pixels(40, 20)), pixels(20, 50), Decoded(pixels(33, 33)), pixels(15, 17)[None]]
    whole = [image.pixels if isinstance(image, Decoded) else image.view(3, *image.shape[-2:]) for image in images]
    expected = gradients(module, torch.cat([module(image[None].double() / 255) for image in whole]))
    assert_same(gradients(module, stream(module, strip_rows=9)(images)), expected)


def test_maps_of_different_size_cannot_be_put_together() -> None:
    trunk = stream(nn.Conv2d(3, 2, 3), strip_rows=9)
    assert trunk([torch.rand(3, 20, 20), torch.rand(3, 20, 20)]).shape == (2, 2, 18, 18)
    with pytest.raises(ValueError, match=r"different shapes.*End the module in a global pool"):
        trunk([torch.rand(3, 20, 20), torch.rand(3, 20, 21)])


@pytest.mark.parametrize("training", [True, False])
def test_failing_read_names_image_and_rows(training: bool) -> None:
    class Broken(Decoded):
        def rows(self, start: int, stop: int) -> Tensor:
            if start >= 16:
                raise OSError("disk on fire")
            return super().rows(start, stop)

    trunk = stream(network().requires_grad_(training), strip_rows=8)
    with pytest.raises(ImageReadError, match=r"rows 16..23 of 'slide_7' could not be read: OSError: disk on fire"):
        trunk(Broken(pixels(40, 20)))
    assert trunk(Decoded(pixels(40, 20))).shape == (1, 5, 1, 1)  # and the next image is read as ever


def test_read_that_fails_in_the_backward_pass_is_named_too() -> None:
    image = Decoded(pixels(40, 20))
    output = stream(network(), strip_rows=8, keeping=Keeping())(image).sum()
    image.pixels = image.pixels[:, :30]
    with pytest.raises(ImageReadError, match=r"rows 32..39 of 'slide_7' came as \(3, 0, 20\)"):
        output.backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :-1], r"rows 0..7 of 'slide_7' came as \(3, 7, 20\) of torch.uint8, not \(3, 8, 20\)"),
        (lambda rows: rows.float(), "of torch.float32, not"),
        (lambda rows: rows[None], r"came as \(1, 3, 8, 20\)"),
        (lambda rows: None, "could not be read"),
    ],
)
def test_rows_that_are_not_what_was_promised_are_refused(change: object, message: str) -> None:
    class Wrong(Decoded):
        def rows(self, start: int, stop: int) -> Tensor:
            return change(super().rows(start, stop))  # type: ignore[operator, no-any-return]  # whatever the case is

    with pytest.raises(ImageReadError, match=message):
        stream(network(), strip_rows=8)(Wrong(pixels(40, 20)))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((1, 3, 9, 9)), TypeError, r"the image is of type ndarray. Give a .*torch.from_numpy"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.int32), TypeError, "torch.int32, whose scale is unknown"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.bool), TypeError, "scale is unknown"),
        (Decoded(torch.zeros(3, 9, 9, dtype=torch.int16)), TypeError, "'slide_7' has pixels of torch.int16"),
        (Decoded(torch.zeros(1, 3, 9, 9)), ValueError, r"'slide_7' has shape \(1, 3, 9, 9\)"),
        (Decoded(torch.zeros(3, 0, 9)), ValueError, "'slide_7' has no pixels"),
        (Shaped((3, 9.5, 9)), ValueError, r"shape \(3, 9.5, 9\).*whole numbers"),
        (Shaped(("C", None, 9)), ValueError, "whole numbers"),
        ("slide.tif", TypeError, "the image is of type str.*Read the file first"),
        ([], ValueError, "the list of images is empty"),
        ([torch.zeros(3, 30, 30), torch.zeros(30, 30)], ValueError, r"expected a \(B, C, H, W\) image"),
        ([torch.zeros(3, 30, 30), "slide.tif"], TypeError, "image 1 is of type str.*Read the file first"),
    ],
)
def test_what_is_no_image_is_refused(image: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stream(network().float(), strip_rows=4)(image)


def test_next_strip_is_read_while_this_one_is_computed() -> None:
    image = Decoded(pixels(40, 20))
    strips = StripReader(as_image_rows(image), torch.device("cpu"), torch.float32).strips([range(8), range(8, 16)])
    assert next(strips).take().shape == (1, 3, 8, 20)
    torch.testing.assert_close(next(strips).take(), image.pixels[None, :, 8:16].float() / 255)
    assert len(image.reads) == 2
    assert list(strips) == []


def test_reading_ends_with_the_pass() -> None:
    before = set(threading.enumerate())  # some of which may end meanwhile
    stream(network(), strip_rows=8)(Decoded(pixels(40, 20))).sum().backward()
    assert set(threading.enumerate()) <= before


def test_image_gradient_strip_by_strip() -> None:
    module, image = network(), torch.rand(2, 3, 40, 50, dtype=torch.float64, requires_grad=True)
    score = module(image).square().sum()
    (expected,) = torch.autograd.grad(score, image)
    found = torch.full_like(expected, torch.nan)

    def take(rows: range, grad: Tensor) -> None:
        assert found[:, :, rows.start : rows.stop].isnan().all()
        found[:, :, rows.start : rows.stop] = grad

    trunk = stream(module, strip_rows=7)
    with torch.no_grad():
        value = trunk.image_gradient(image.detach(), lambda output: output.square().sum(), take)
    torch.testing.assert_close(value, score.detach())
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def test_image_gradient_of_an_image_read_by_rows() -> None:
    module, image = network(), Decoded(pixels(40, 50))
    whole = (image.pixels[None].double() / 255).requires_grad_()
    (expected,) = torch.autograd.grad(module(whole)[:, 1].sum(), whole)
    parts: list[Tensor] = []
    stream(module, strip_rows=7).image_gradient(image, lambda y: y[:, 1].sum(), lambda rows, grad: parts.append(grad))
    torch.testing.assert_close(torch.cat(parts[::-1], dim=2), expected, rtol=1e-11, atol=1e-13)


class Overwritten(Decoded):
    """Decodes into the same memory every time."""

    def rows(self, start: int, stop: int) -> Tensor:
        if not hasattr(self, "memory"):
            self.memory = torch.empty_like(self.pixels[:, : stop - start])
        self.memory[:, : stop - start] = super().rows(start, stop)
        return self.memory[:, : stop - start]


def test_an_image_may_decode_into_the_same_memory_again() -> None:
    module, image = network(), Overwritten(torch.randn(3, 61, 23, dtype=torch.float64))
    expected = gradients(module, module(image.pixels[None]))
    assert_same(gradients(module, stream(module, strip_rows=8, keeping=Keeping())(image)), expected)


class Noisy(Decoded):
    """Draws noise whenever it is read."""

    def rows(self, start: int, stop: int) -> Tensor:
        return super().rows(start, stop) + torch.rand(3, stop - start, self.shape[2])


def test_pixels_that_change_between_forward_and_backward_pass_are_noticed() -> None:
    output = stream(network().float(), strip_rows=8)(Noisy(torch.zeros(3, 40, 30)))
    with pytest.raises(ImageReadError, match=r"'slide_7' came with other pixels.*augmentation once for each image"):
        output.sum().backward()


class Versioned(Decoded):
    """States a version of its pixels, which may change at a read."""

    versions: tuple[object, ...] = ("first",)

    @property
    def pixel_version(self) -> object:
        return self.versions[min(len(self.reads), len(self.versions) - 1)]


def test_pixels_of_a_known_version_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise AssertionError("a checksum was computed")

    module, image = network(), Versioned(pixels(40, 20))
    expected = gradients(module, module(image.pixels[None].double() / 255))
    monkeypatch.setattr(strip_reader, "crc32", refuse)
    assert_same(gradients(module, stream(module, strip_rows=8, keeping=Keeping())(image)), expected)
    image.reads.clear()
    image.versions = (None, "first")  # unknown at first: compared by checksums
    with pytest.raises(AssertionError, match="checksum"):
        stream(module, strip_rows=8)(image)


@pytest.mark.parametrize("versions", [("first", "second"), ("first",) * 7 + (None,), ("first",) * 9 + ("second",)])
def test_another_version_of_the_pixels_is_noticed(versions: tuple[object, ...]) -> None:
    image = Versioned(pixels(40, 20))  # five strips, the last of which is not recomputed
    image.versions = versions
    with pytest.raises(ImageReadError, match="'slide_7' came with other pixels"):
        stream(network(), strip_rows=8)(image).sum().backward()


def test_pixels_in_another_memory_order_are_the_same() -> None:
    class Reordered(Decoded):
        """Decodes every other time with its channels last."""

        def rows(self, start: int, stop: int) -> Tensor:
            rows = super().rows(start, stop)
            return rows.permute(1, 2, 0).contiguous().permute(2, 0, 1) if len(self.reads) % 2 else rows

    module, image = network(), Reordered(pixels(48, 20))
    expected = gradients(module, module(image.pixels[None].double() / 255))
    assert_same(gradients(module, stream(module, strip_rows=8, keeping=Keeping())(image)), expected)


def test_strips_of_one_pixel_are_compared_in_any_memory_order() -> None:
    class Last(Decoded):
        """Decodes floats with their channels last."""

        def rows(self, start: int, stop: int) -> Tensor:
            return super().rows(start, stop).permute(1, 2, 0).contiguous().permute(2, 0, 1)

    module, image = nn.Conv2d(3, 2, (3, 1), padding=(1, 0)).double(), Last(pixels(9, 1).double())
    expected = gradients(module, module(image.pixels[None]))
    assert_same(gradients(module, stream(module, strip_rows=4, keeping=Keeping())(image)), expected)


@pytest.mark.parametrize("training", [True, False])
def test_no_thread_outlives_an_error_that_is_held(training: bool) -> None:
    module = network().requires_grad_(training)
    with pytest.raises(RuntimeError) as held:
        stream(module, strip_rows=8)(Decoded(torch.zeros(3, 40, 30, dtype=torch.float16)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rows")]
    assert "layer '0'" in held.value.__notes__[0]


@pytest.mark.parametrize("pool", [GatedAttention(5, 4), GeM(), LogSumExp(), GlobalMaxPool()])
def test_image_gradient_through_any_pool(pool: nn.Module) -> None:
    module = nn.Sequential(network()[:-1], pool).double()
    image = torch.rand(1, 3, 40, 30, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(module(image).square().sum(), image)
    parts: list[Tensor] = []
    trunk = stream(module, strip_rows=7)
    trunk.image_gradient(image.detach(), lambda y: y.square().sum(), lambda rows, grad: parts.append(grad))
    torch.testing.assert_close(torch.cat(parts[::-1], dim=2), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (30, 30)])
def test_images_of_a_list_get_their_gradient(size: tuple[int, int]) -> None:
    module = network()
    images = [torch.rand(3, *size, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights = torch.randn(2, 5, 1, 1, dtype=torch.float64)
    expected = torch.autograd.grad((module(torch.stack(images)) * weights).sum(), images)
    found = torch.autograd.grad((stream(module, strip_rows=9)(images) * weights).sum(), images)
    assert_same(list(found), list(expected))


def test_images_of_a_list_share_the_folded_weights() -> None:
    module = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.AdaptiveAvgPool2d(1)).eval()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape == (64, 3, 3, 3):
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = stream(module, strip_rows=9)([pixels(20, 16) for _ in range(5)])
    assert result.requires_grad
    assert len(kept) <= 2  # the weight, and the folded one


def _read_only(rows: Any) -> Any:
    rows.flags.writeable = False
    return rows


@pytest.mark.parametrize(
    "arrange",
    [
        _read_only,
        lambda rows: rows[:, ::-1].copy()[:, ::-1],
        lambda rows: rows[:, :, ::-1].copy()[:, :, ::-1],
        lambda rows: np.asfortranarray(rows),
        lambda rows: np.ascontiguousarray(rows.transpose(1, 2, 0)).transpose(2, 0, 1),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", np.uint8, np.dtype("uint8"), torch.uint8])
def test_arrays_of_every_layout_are_read(arrange: Callable[[Any], Any], dtype: Any) -> None:
    class Arrays(Decoded):
        @property
        def dtype(self) -> Any:
            return dtype

        def rows(self, start: int, stop: int) -> Any:
            return arrange(super().rows(start, stop).numpy().copy())

    image, trunk = Arrays(pixels(24, 10)), stream(network(), strip_rows=8)
    torch.testing.assert_close(trunk(image), trunk(image.pixels[None]))
