"""Outlines drawn in ASAP, ImageScope or QuPath, and masks from them."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.annotations.annotations import Annotations as Annotations
    from wsidata.annotations.grid import Grid as Grid
    from wsidata.annotations.masks import OutlineMask as OutlineMask
    from wsidata.annotations.outline import AnnotationError as AnnotationError
    from wsidata.annotations.outline import AnnotationRepairWarning as AnnotationRepairWarning
    from wsidata.annotations.outline import Outline as Outline
    from wsidata.annotations.outline import OutlineClass as OutlineClass

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "annotations": ["Annotations"],
        "grid": ["Grid"],
        "masks": ["OutlineMask"],
        "outline": ["AnnotationError", "AnnotationRepairWarning", "Outline", "OutlineClass"],
    },
)
