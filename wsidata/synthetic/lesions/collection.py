"""A folder of slides painted from scenes, with a table of labels and outlines of the lesions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely

from wsidata.synthetic.lesions.cells import FINEST_UM, MPP
from wsidata.synthetic.lesions.looks import draw_look
from wsidata.synthetic.lesions.paint import Painter
from wsidata.synthetic.lesions.pyramid import write_blocks
from wsidata.synthetic.lesions.scene import Scene
from wsidata.utils.files import write_text

LABELS = ("negative", "positive")
TRIES = 60

Draw = Callable[[bool, np.random.Generator], "Scene | None"]
"""A scene of a label, or None where what was drawn did not fit on the slide."""


def write_collection(
    folder: str | Path, draw: Draw, *, slides: int, side_px: int, finest_um: float, sites: int, quality: int, seed: int
) -> Path:
    """Write slides of which every second is positive, in pairs of one patient and site.

    Args:
        folder: Where to write; created if missing.
        draw: Draws a scene.
        slides: Number of slides.
        side_px: Side of level 0: 256, 512, or a multiple of 1024.
        finest_um: Scale of the texture; see `nuclei`.
        sites: Number of sites.
        quality: JPEG quality.
        seed: Of everything.

    Raises:
        ValueError: for arguments no slide could have, or if scenes do not fit.
    """
    folder = Path(folder)
    if side_px not in (256, 512) and (side_px < 1024 or side_px % 1024):
        raise ValueError(f"side_px={side_px} must be 256, 512, or a multiple of 1024.")
    if not FINEST_UM[0] <= finest_um <= FINEST_UM[1]:
        raise ValueError(
            f"finest_um={finest_um} must lie between {FINEST_UM[0]} and {FINEST_UM[1]}: finer clumps are lost at "
            f"{MPP} um/px, and coarser ones are as large as a nucleus."
        )
    if slides < 1 or sites < 1:
        raise ValueError(f"slides={slides} and sites={sites} must be at least 1.")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    rows = list[dict[str, Any]]()
    for number in range(slides):
        patient, is_positive = number // 2, number % 2 == 1
        rng = np.random.default_rng([seed, number])
        scene = _drawn(draw, is_positive, rng)
        site = int(np.random.default_rng([seed, 1_000_004, patient]).integers(sites))
        look = draw_look(site, seed, rng)
        name = f"slide_{number:04d}"
        paint = Painter(scene, look, finest_um)
        write_blocks(folder / "images" / f"{name}.tif", side_px, paint, glass=look.glass_color, quality=quality)
        outlines = folder / "annotations" / f"{name}.xml"
        if scene.lesions:
            scene.outlines().write(outlines)
        else:
            outlines.unlink(missing_ok=True)
        known = {"image": f"{name}.tif", "label": LABELS[is_positive], "site": f"site_{site}"}
        rows.append({**known, "patient": f"patient_{patient:04d}", **_truth(scene), "finest_um": finest_um})
    write_text(folder / "slides.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    return folder


def _drawn(draw: Draw, is_positive: bool, rng: np.random.Generator) -> Scene:
    for _ in range(TRIES):
        if (scene := draw(is_positive, rng)) is not None:
            return scene
    raise ValueError(
        f"in {TRIES} tries, lesions and mimics found no room on the tissue. Make them fewer or smaller, or the slide "
        "larger with side_px=."
    )


def _truth(scene: Scene) -> dict[str, Any]:
    """What is known of a scene, for the table."""
    lesions = [shapely.Polygon(one.ring) for one in scene.lesions]
    between = [one.distance(other) for number, one in enumerate(lesions) for other in lesions[:number]]
    return {
        "lesion_share": round(sum(one.area for one in lesions) / scene.tissue_px, 8),
        "lesions": len(lesions),
        "mimics": len(scene.patches) - len(lesions),
        "patch_share": round(sum(one.area_px for one in scene.patches) / scene.tissue_px, 8),
        "nearest_um": round(min(between) * MPP, 2) if between else "",
        "tissue_share": round(scene.tissue_px / scene.side_px**2, 6),
        "side_px": scene.side_px,
    }
