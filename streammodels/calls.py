"""Calls of a streamed module, one for each image of a list, and their results put together.

A list may hold lists: the images of a *case*, which are one sample with one result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from streammodels.core.image_rows import Image, ImageRows, Labels, as_image_rows, is_image, scale_to_unit
from streammodels.errors import EmptyMaskError
from streammodels.tracing.fx_graph import Arguments, TracedInput

Images = Image | Sequence[Image | Sequence[Image]]
"""An image, or a list of images and of cases, the lists of images that are one sample."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a module, for one image or batch of images of one size.

    Attributes:
        args: The arguments by position; the first is the image.
        kwargs: The arguments by name.
        name: Name of the image, for errors.
        of_case: Number of the image within its case, and of images in the case; None if it is a sample of its own.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str = "the image"
    of_case: tuple[int, int] | None = None

    @property
    def ends_sample(self) -> bool:
        """Whether it is the only or last image of its sample."""
        return self.of_case is None or self.of_case[0] == self.of_case[1] - 1

    @property
    def image(self) -> Any:
        """The image."""
        return self.args[0]

    def named(self, error: EmptyMaskError) -> EmptyMaskError:
        """The error with the name of the image, or of the whole case that has an empty mask."""
        if self.of_case is not None:
            return EmptyMaskError(error.image, f"all images of {self.name.rpartition(' of ')[2]}")
        own = getattr(self.image, "name", None)
        name = self.name if own is None else repr(str(own))
        return error if own is None and self.name == "the image" else EmptyMaskError(error.image, name)

    def _replaced(self, replace: Callable[[Any, str], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with ``replace(value, name)`` in place of the image and of others that strips read."""
        names = [self.name, *(f"input {i}" for i in range(1, len(self.args)))]
        own = [is_image(value) or not index for index, value in enumerate(self.args)]
        args = [replace(*pair) if read else pair[0] for read, *pair in zip(own, self.args, names, strict=True)]
        named = {key: replace(value, f"'{key}'") if is_image(value) else value for key, value in self.kwargs.items()}
        return tuple(args), named

    def sources(self) -> list[ImageRows]:
        """The rows of the image and of further inputs.

        Raises:
            TypeError: If the image is none.
            ValueError: If the inputs are not of one batch.
        """
        found: list[ImageRows] = []
        self._replaced(lambda value, name: found.append(_rows(value, name, bool(found))))
        image, *others = found
        for other in others:
            if other.shape[0] != image.shape[0]:
                raise ValueError(
                    f"{other.name} is a batch of {other.shape[0]}, and {image.name} one of {image.shape[0]}. Give both "
                    "of the same batch."
                )
        return found

    def arguments(self, sources: Sequence[ImageRows], dtype: torch.dtype) -> Arguments:
        """What the forward of the module is recorded with; `dtype` is the type of its floats."""
        remaining = iter(sources)

        def traced(_: Any, name: str) -> TracedInput:
            source = next(remaining)
            return TracedInput(
                "image" if name == self.name else name, source.shape, dtype if source.is_scaled else source.dtype
            )

        args, named = self._replaced(traced)
        return Arguments(args, named)

    def whole(self, module: nn.Module) -> Any:
        """The result of the plain module on the whole image; lazy images are read at once."""
        parameter = next(module.parameters(), torch.empty(0))

        def read(value: Any, name: str) -> Tensor:
            if isinstance(value, Tensor) and 0 in value.shape[:1]:
                pixels, scaled = value, True
            else:
                source = _rows(value, name, name != self.name)
                pixels, scaled = source.read(0, source.shape[2]), source.is_scaled
            pixels = pixels.to(parameter.device)
            return scale_to_unit(pixels, parameter.dtype) if scaled else pixels

        args, named = self._replaced(read)
        return module(*args, **named)


def _rows(value: Any, name: str, is_further: bool) -> ImageRows:
    """The rows of an input. Whole numbers other than uint8 are labels, but not as the image, which needs a scale."""
    labels = is_further and isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.uint8
    return as_image_rows(value, name, is_scaled=not labels)


def calls_of(image: Images, further: Sequence[Any], options: Mapping[str, Any]) -> list[Call]:
    """The calls for an image, or for each of a list of images and cases.

    Args:
        image: The image or images; a list in the list is a case.
        further: Further arguments. Beside a list of images a list has one for each, nested alike, and a tensor that
            strips do not read has one in each row.
        options: Likewise, by name.

    Raises:
        TypeError: If images of a case come with something else than images for each.
        ValueError: If a list is empty or of another length, or images of a case are batches.
    """
    if isinstance(image, Tensor | str | Labels) or not isinstance(image, Sequence):
        return [Call((image, *further), options)]
    number = len(image)
    if not number:
        raise ValueError("the list of images is empty. Give at least one.")
    calls = []
    for index in range(number):
        args = [_one_of(value, index, number, f"input {i}") for i, value in enumerate(further, 1)]
        named = {key: _one_of(value, index, number, f"'{key}'") for key, value in options.items()}
        own = image[index]
        if isinstance(own, list | tuple):
            lists = [isinstance(value, list | tuple) for value in further]
            named_lists = {key: isinstance(value, list | tuple) for key, value in options.items()}
            calls += _calls_of_case(own, index, args, lists, named, named_lists)
        else:
            calls.append(Call((add_batch_dimension(own), *args), named, f"image {index}"))
    return calls


def _calls_of_case(
    images: Sequence[Image],
    case: int,
    args: Sequence[Any],
    lists: Sequence[bool],
    named: Mapping[str, Any],
    named_lists: Mapping[str, bool],
) -> list[Call]:
    """The calls for the images of a case; `lists` says which arguments are lists of one for each image."""
    if not images:
        raise ValueError(f"case {case} has no images. Give at least one, or leave it out.")

    def of_image(value: Any, is_list: bool, index: int, name: str) -> Any:
        if not is_list:
            return value
        if not isinstance(value, list | tuple) or len(value) != len(images):
            raise ValueError(f"{name} of case {case} is not nested as its {len(images)} images. Give one for each.")
        one = add_batch_dimension(value[index])
        if not is_image(one):  # the tail, which runs once, could read no more than one of them
            raise TypeError(
                f"{name} of case {case} has a {type(one).__name__} for each image, and only images may differ within a "
                "case. Give one for the case."
            )
        return one

    calls = []
    for index, image in enumerate(images):
        name = f"image {index} of case {case}"
        own = add_batch_dimension(image)
        if isinstance(own, Tensor) and own.ndim == 4 and len(own) != 1:
            raise ValueError(
                f"{name} is a batch of {len(own)}, and a case is one sample. Give its images one by one, as (C, H, W)."
            )
        further = [
            of_image(value, is_list, index, f"input {i}")
            for i, (value, is_list) in enumerate(zip(args, lists, strict=True), 1)
        ]
        options = {key: of_image(value, named_lists[key], index, f"'{key}'") for key, value in named.items()}
        calls.append(Call((own, *further), options, name, (index, len(images))))
    return calls


def flat_images(images: Any) -> list[Any]:
    """All images of an image, a list of images, or a list of cases."""
    if isinstance(images, Tensor | str | Labels) or not isinstance(images, Sequence):
        return [images]
    return [image for one in images for image in flat_images(one)]


def has_cases(images: Any) -> bool:
    """Whether images are a list with lists in it."""
    return isinstance(images, list | tuple) and any(isinstance(one, list | tuple) for one in images)


def _one_of(value: Any, index: int, number: int, name: str) -> Any:
    """The part of an argument that goes with one image of a list."""
    if isinstance(value, list | tuple):
        if len(value) != number:
            raise ValueError(f"{name} is a list of {len(value)} beside {number} images. Give one for each image.")
        return add_batch_dimension(value[index])
    if is_image(value):
        raise ValueError(f"{name} is one image beside a list of {number}. Give a list, with one for each image.")
    if isinstance(value, Tensor) and value.ndim and len(value) == number:
        return value[index : index + 1]
    return value


def add_batch_dimension(image: Any) -> Any:
    """An image of a list, with a batch dimension if it is a (C, H, W) tensor."""
    return image[None] if isinstance(image, Tensor) and image.ndim == 3 else image


def compute_whole(module: nn.Module, images: Sequence[Image]) -> Any:
    """The results of a plain module on each whole image, concatenated; lazy images are read at once."""
    calls = [Call((add_batch_dimension(image),), {}, f"image {index}") for index, image in enumerate(images)]
    return concatenate([call.whole(module) for call in calls])


def concatenate(results: Sequence[Any]) -> Any:
    """The results of several images along the batch dimension; raises `ValueError` if they differ in shape."""
    if len(results) == 1:
        return results[0]
    flat = [pytree.tree_flatten(result) for result in results]
    forms = [form for _, form in flat]
    if any(form != forms[0] for form in forms):
        raise ValueError(
            "the module returns other things for some images of the list than for others. Call it on each."
        )
    return pytree.tree_unflatten([_stacked(leaves) for leaves in zip(*(own for own, _ in flat), strict=True)], forms[0])


def _stacked(values: Sequence[Any]) -> Any:
    """One value of the results of several images."""
    if not isinstance(values[0], Tensor):
        return values[0]
    shapes = sorted({tuple(value.shape[1:]) for value in values})
    if len(shapes) > 1:
        raise ValueError(
            f"the images of the list give results of different shapes, {shapes}, which cannot be stacked. End the "
            "module in a global pool, or call it on one image after the other."
        )
    if values[0].ndim == 0:
        raise ValueError(
            "the module returns one number for an image, and several images of a list cannot be concatenated to one. "
            "Return a number for each image, of shape (B,), or call it on one image after the other."
        )
    return torch.cat([*values])
