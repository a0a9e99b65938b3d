"""Slides whose class is a small lesion, told from benign mimics by the texture of its nuclei alone.

Both classes hold patches of crowded nuclei, of equal number, area, density and color. On negative slides all are
mimics; on positive ones some are lesions: the clumps of chromatin in their nuclei are half again as wide. The texture
is plain at 0.5 um/px and averages out at 4 um/px.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsidata.synthetic.lesions.collection import write_collection
from wsidata.synthetic.lesions.scene import LEAST_AREA_PX, Field, Placement, Scene, cell_side, noise, pieces

LEAST_TISSUE = 0.25


def write_micrometastases(
    folder: str | Path,
    *,
    slides: int = 40,
    side_px: int = 1024,
    lesion_share: tuple[float, float] = (0.003, 0.03),
    finest_um: float = 1.0,
    lesions: tuple[int, int] = (1, 3),
    mimics: tuple[int, int] = (4, 8),
    sites: int = 2,
    quality: int = 90,
    seed: int = 0,
) -> Path:
    """Write slides of 0.5 um/px with or without lesions, a table, and outlines.

        folder/slides.csv                    image,label,site,patient,lesion_share,lesions,mimics,...
        folder/images/slide_0000.tif ...     pyramids of JPEG tiles
        folder/annotations/slide_0001.xml    outlines of the lesions of each positive slide, for ASAP, class Tumor

    Every second slide is positive; a patient has a slide of each class, from the same site. Where a positive slide has
    lesions, a negative one has as many further mimics of the same sizes. Sites differ in stain and in the scanner's
    blur and light. A slide of 32,768 pixels takes about a minute and less than 2 GB of memory.

    Args:
        folder: Where to write; created if missing. Slides of the same names are replaced.
        slides: Number of slides.
        side_px: Side of level 0 in pixels: 256, 512, or a multiple of 1024.
        lesion_share: Least and greatest share of the tissue that is lesion, on positive slides, from 0.00001 to 0.03;
            drawn evenly on a logarithmic scale.
        finest_um: Width of a clump of chromatin in lesions, in um, from 0.7 to 4. At 1, the texture is gone at 4 um/px;
            the width at which it is gone grows with it.
        lesions: Least and greatest number of lesions on a positive slide; less where they would be smaller than a cell.
        mimics: Least and greatest number of mimics, besides those a negative slide has for lesions.
        sites: Number of sites.
        quality: JPEG quality, 1 to 100.
        seed: The same arguments and seed give the same files; further slides leave the others alike.

    Returns:
        The folder.

    Raises:
        ValueError: for a lesion smaller than one cell, or patches that find no room.
    """
    least, most = lesion_share
    if not 0 < least <= most <= 0.2:
        raise ValueError(f"lesion_share={lesion_share} must be two shares in order, above 0 and up to 0.2.")
    if not (1 <= lesions[0] <= lesions[1] and 0 <= mimics[0] <= mimics[1]):
        raise ValueError(f"lesions={lesions} and mimics={mimics} must be two numbers in order, lesions from 1.")
    if least * LEAST_TISSUE * side_px**2 < LEAST_AREA_PX:
        raise ValueError(
            f"a lesion of {least:g} of the tissue is smaller than one cell on a slide of side_px={side_px}. Begin "
            f"lesion_share at {1.05 * LEAST_AREA_PX / (LEAST_TISSUE * side_px**2):.2g}, or make slides larger."
        )

    def draw(is_positive: bool, rng: np.random.Generator) -> Scene | None:
        edge = pieces(side_px, rng)
        tissue_px = float((edge > 0).sum()) * cell_side(side_px) ** 2
        areas = _areas(tissue_px, lesion_share, lesions, rng)
        count, own = len(areas), int(rng.integers(mimics[0], mimics[1], endpoint=True))
        while len(areas) < count + own:
            areas += _areas(tissue_px, lesion_share, lesions, rng)
        areas = areas[: count + own]
        placement, order = Placement(edge, side_px, rng), np.argsort(areas)[::-1].tolist()
        if any(placement.place(areas[number]) is None for number in order):
            return None
        scene = Scene(
            side_px, cell_side(side_px), edge, _types(side_px, rng), thickness(side_px, rng), placement.placed,
            int(rng.integers(1 << 31)),
        )  # fmt: skip
        return scene.labeled([is_positive and number < count for number in order])

    return write_collection(
        folder, draw, slides=slides, side_px=side_px, finest_um=finest_um, sites=sites, quality=quality, seed=seed
    )


def thickness(side_px: int, rng: np.random.Generator) -> Field:
    """Uneven thickness of a section, as `Scene.thickness`."""
    cells = side_px // cell_side(side_px)
    thick: Field = np.clip(1 + 0.07 * noise(cells, max(5, side_px / 700), rng), 0.75, 1.25).astype(np.float32)
    return thick


def _areas(
    tissue_px: float, share: tuple[float, float], numbers: tuple[int, int], rng: np.random.Generator
) -> list[float]:
    """Areas of the pieces of one lesion in pixels of level 0."""
    whole = tissue_px * float(np.exp(rng.uniform(*np.log(share))))
    count = int(rng.integers(numbers[0], numbers[1], endpoint=True))
    count = max(1, min(count, int(whole / (2 * LEAST_AREA_PX))))
    parts = rng.dirichlet(np.full(count, 4.0))
    least = min(1.0, LEAST_AREA_PX * count / whole)
    return [float(whole * (least / count + (1 - least) * part)) for part in parts]


def _types(side_px: int, rng: np.random.Generator) -> dict[str, Field]:
    """Regions of lymphocytes and of glands."""
    cells, knots = side_px // cell_side(side_px), float(np.clip(side_px / 500, 5, 30))
    return {
        kind: np.clip((noise(cells, knots, rng) - least) / 0.15 + 0.5, 0, 1).astype(np.float32)
        for kind, least in (("glands", 0.8), ("lymphoid", 1.1))
    }
