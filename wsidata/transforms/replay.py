"""Records of the operations applied to a sample, saved as JSON and replayed to the same pixels.

sample = transform.run(Sample(image, masks=(mask,)), rng)
text = Record.of(sample).to_json()
again = Record.from_json(text).replay(Sample(image, masks=(mask,)))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wsidata.transforms.adapters.functions import ForeignCall, as_foreign
from wsidata.transforms.base import Operation, Sample, TransformError, describe
from wsidata.transforms.color import stain, stain_normalize, tone
from wsidata.transforms.geometry import affine, crop, dropout, elastic

VERSION = 1

_OPERATIONS = (affine, crop, dropout, elastic, stain, stain_normalize, tone)
"""Modules whose operations a record may hold; importing them makes these known to `Operation.from_plain`."""


@dataclass(frozen=True)
class Record:
    """Operations, and the image they were applied to.

    Attributes:
        start: Width, height, bands and number format of the image before.
        operations: The operations, in order.
    """

    start: tuple[int, int, int, str]
    operations: tuple[Operation, ...]

    @classmethod
    def of(cls, sample: Sample) -> Record:
        """The record of a sample."""
        return cls(sample.start or describe(sample.image), sample.operations)

    def to_json(self) -> str:
        """As JSON text, in which floats keep every bit."""
        operations = [operation.plain() for operation in self.operations]
        return json.dumps({"version": VERSION, "start": self.start, "operations": operations})

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what `to_json` wrote.

        Raises:
            TransformError: if the text is something else, or from a later version.
        """
        try:
            content = json.loads(text)
            version, start, operations = (content[name] for name in ("version", "start", "operations"))
            width, height, bands, number_format = start
        except (ValueError, TypeError, KeyError) as error:
            raise TransformError(
                f"this is no record of operations ({type(error).__name__}: {error}). Write it with Record.to_json()."
            ) from error
        if version != VERSION:
            raise TransformError(f"the record is of version {version}, and {VERSION} is known. Update slidestream.")
        return cls((width, height, bands, number_format), tuple(Operation.from_plain(one) for one in operations))

    def replay(self, sample: Sample, foreign: Sequence[Any] = ()) -> Sample:
        """Apply the same operations to the same image, or to other masks and points of it.

        Args:
            sample: The image as it was before.
            foreign: The functions and albumentationsxl pipelines among the steps, in order: a record holds only their
                seeds.

        Raises:
            TransformError: for an image of another kind, or if a function is missing.
        """
        if describe(sample.image) != self.start:
            raise TransformError(
                f"the record belongs to an image of (width, height, bands, format) {self.start}, and this one is "
                f"{describe(sample.image)}. Read it at the resolution it had."
            )
        functions = iter(foreign)
        for operation in self.operations:
            if not isinstance(operation, ForeignCall):
                sample = sample.after(operation)
                continue
            function = next(functions, None)
            if function is None:
                raise TransformError(
                    f"the record has a step that is not ours ({operation.name}). Pass it in replay(foreign=[...])."
                )
            sample = as_foreign(function).call(sample, operation)
        return sample
