"""The annotations of a slide, read from and written to the files of ASAP, ImageScope and QuPath."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray

from wsidata.annotations.aperio import read_aperio
from wsidata.annotations.asap import EXCLUSIONS, asap_text, read_asap
from wsidata.annotations.geojson import geojson_text, read_geojson
from wsidata.annotations.grid import Grid
from wsidata.annotations.outline import (
    AnnotationError,
    AnnotationRepairWarning,
    Area,
    Color,
    Outline,
    OutlineClass,
    only_areas,
)
from wsidata.annotations.safe_xml import parse
from wsidata.annotations.tracing import rings_of, trace
from wsidata.formats.limits import check_limit
from wsidata.utils.files import write_text
from wsidata.utils.messages import bullets, name_some

_REMEDY = "Correct it there, or draw and export it again in the program it comes from."


@dataclass(frozen=True, eq=False)
class Annotations:
    """The outlines on one slide, in pixels of level 0.

    Attributes:
        outlines: In the order of the file.
        classes: The classes that the file states or its outlines have, in its order.
        path: The file they were read from; empty if none.

    Example:
        >>> annotations = Annotations.read("annotations/tumor_001.xml")
        >>> annotations.class_names
        ('Tumor', 'Exclusion')
        >>> annotations.area("Tumor").area
        1843200.0
    """

    outlines: tuple[Outline, ...]
    classes: tuple[OutlineClass, ...] = ()
    path: str = ""

    def __post_init__(self) -> None:
        known = {one.name for one in self.classes}
        further = dict.fromkeys(one.class_name for one in self.outlines if one.class_name not in {"", *known})
        object.__setattr__(self, "outlines", tuple(self.outlines))
        object.__setattr__(self, "classes", (*self.classes, *map(OutlineClass, further)))

    @classmethod
    def read(cls, path: str | Path, *, exclusions: Collection[str] = EXCLUSIONS, skip_empty: bool = False) -> Self:
        """Read a file of ASAP (XML, as of Camelyon16), Aperio ImageScope (XML) or QuPath (GeoJSON).

        What kind of file it is, its content says. Polygons that cross themselves are repaired, with a warning.

        Args:
            path: The file.
            exclusions: Names of classes whose areas are taken away from all others: those of Camelyon16 by default;
                `("normal",)` for Camelyon17.
            skip_empty: Leave polygons without area (clicks by mistake) out, with a warning, instead of an error.

        Raises:
            AnnotationError: naming the file and the line or feature, if it is malformed, or a polygon has no area.
            LimitExceededError: if the file is larger than `max_annotation_bytes`; see `wsidata.formats.limits`.
            OSError: if it cannot be read.
        """
        path = Path(path)
        size = path.stat().st_size
        check_limit("max_annotation_bytes", size, path, f"{size:,} bytes of annotations")
        try:
            outlines, classes = _parsed(path.read_bytes())
        except AnnotationError as error:
            raise AnnotationError(f"'{path}', {error}. {_REMEDY}") from None
        found = cls(
            tuple(replace(one, removes="all") if one.class_name in exclusions else one for one in outlines),
            tuple(classes),
            str(path),
        )
        return found._checked(skip_empty)

    @classmethod
    def of_mask(
        cls,
        mask: NDArray[np.bool_],
        grid: Grid,
        class_name: str,
        *,
        color: Color | None = None,
        size_lv0: tuple[float, float] | None = None,
    ) -> Self:
        """The pieces of a mask, outlined along the borders of their pixels, so that the area stays the same.

        Args:
            mask: (height, width) booleans, the pixels of `grid`.
            grid: Where they lie, such as `Grid.of(slide, mpp=8.0)`.
            class_name: Class of the outlines.
            color: Its color.
            size_lv0: Width and height of the slide, which the last column and row reach to. None: what the grid says.

        Raises:
            ValueError: if the mask is no array of booleans, or of another size than the grid.
        """
        pieces = trace(mask, grid, size_lv0)
        outlines = [
            Outline((tuple(rings_of(piece)),), class_name, f"{class_name} {number}")
            for number, piece in enumerate(pieces, start=1)
        ]
        return cls(tuple(outlines), (OutlineClass(class_name, color),))

    def _checked(self, skip_empty: bool) -> Self:
        empty = [one for one in self.outlines if one.kind == "polygon" and not one.shape.area > 0]
        if empty and not skip_empty:
            listed = bullets([one.label for one in empty], 10)
            raise AnnotationError(
                f"'{self.path}' has {_counted(empty)} without area:{listed}\n{_REMEDY} Or write a file without them: "
                "Annotations.read(path, skip_empty=True).write(new_path)."
            )
        said = [f"{one.label}: has no area, left out" for one in empty]
        said += [f"{one.label}: {one.fault}, repaired" for one in self.outlines if one.fault and one not in empty]
        if said:
            where = f"'{self.path}' has {_counted(said)} not valid:{bullets(said, 10)}"
            warnings.warn(
                f"{where}\nLook at them, and draw them again where this is wrong.", AnnotationRepairWarning, 3
            )
        return replace(self, outlines=tuple(one for one in self.outlines if one not in empty))

    def write(self, path: str | Path) -> None:
        """Write a file that ASAP (suffix .xml) or QuPath (.geojson or .json) opens, whole or not at all.

        GeoJSON keeps everything. ASAP has neither holes nor regions that are taken away from one class alone, nor
        outlines of several polygons: these become annotations of their own, of the group Exclusion or numbered.

        Raises:
            AnnotationError: if an ASAP file would mean something else, or the suffix is another.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".xml", ".geojson", ".json"):
            raise AnnotationError(f"'{path}' has no suffix of annotations. Use .xml for ASAP, .geojson for QuPath.")
        text = asap_text if suffix == ".xml" else geojson_text
        write_text(path, text(self.outlines, self.classes))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the file."""
        return tuple(one.name for one in self.classes)

    def area(self, *names: str) -> Area:
        """What classes cover together, in pixels of level 0: their outlines without what is taken away from them.

        Args:
            names: Classes; each with the classes that are part of it. "" is that of outlines without a class. None: all
                outlines.

        Raises:
            AnnotationError: if there is no such class.
        """
        taken_away = {one.class_name for one in self.outlines if one.removes == "all"}
        if asked := [name for name in names if name in taken_away]:
            raise AnnotationError(
                f"'{self.path or 'annotations'}': {name_some(asked)} is taken away from the other classes, and covers "
                "nothing itself. Name another class, or read the file with exclusions=()."
            )
        wanted = self._with_parts(names)
        areas = [self._of_class(name) for name in wanted]
        removed = shapely.union_all([one.shape for one in self.outlines if one.removes == "all"])
        return only_areas(shapely.difference(shapely.union_all(areas), removed))

    def _of_class(self, name: str) -> shapely.Geometry:
        own = [one for one in self.outlines if one.class_name == name and one.removes != "all"]
        added = shapely.union_all([one.shape for one in own if not one.removes])
        return shapely.difference(added, shapely.union_all([one.shape for one in own if one.removes == "class"]))

    def _with_parts(self, names: Collection[str]) -> list[str]:
        known = ["", *self.class_names]
        if unknown := [name for name in names if name not in known]:
            raise AnnotationError(
                f"'{self.path or 'annotations'}' has no class {name_some(unknown)}, but {name_some(self.class_names)}. "
                f"Check the spelling, upper and lower case included."
            )
        wanted = list(dict.fromkeys(names or known))
        for name in wanted:  # grows while it is gone through: parts of parts
            wanted += [one.name for one in self.classes if one.parent == name != "" and one.name not in wanted]
        return wanted


def _counted(polygons: Sequence[object]) -> str:
    return "1 polygon" if len(polygons) == 1 else f"{len(polygons)} polygons"


def _parsed(content: bytes) -> tuple[list[Outline], list[OutlineClass]]:
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return read_geojson(content)
    root = parse(content)
    if root.tag == "ASAP_Annotations":
        return read_asap(root)
    if root.tag == "Annotations":
        return read_aperio(root)
    raise AnnotationError(
        f"line {root.line}: <{root.tag}> is neither <ASAP_Annotations> of ASAP nor <Annotations> of ImageScope"
    )
