"""What simple statistics know of the synthetic slides, by which the generators are checked.

    python -m study.tasks.generators runs/generators docs/study --slides 240

slides_baselines.csv: AUROC, with bootstrap intervals, of logistic regressions on means and deviations of the colors,
and on histograms of a thumbnail at 4 um/px; cross-validated by patient. They have to stay at chance.
slides.png: a positive slide of each kind with outlines of its lesions, and nuclei of a mimic and a lesion.
slides_textures.csv: AUROC of a logistic regression on statistics of patches of nuclei, lesion or mimic, read back from
JPEG and shrunk to 0.5, 1, 2 and 4 um/px. It has to be near 1 at 0.5 um/px, and at chance at 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import simplejpeg
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsidata import Slide
from wsidata.annotations import Annotations
from wsidata.synthetic import write_micrometastases, write_relations
from wsidata.synthetic.lesions.looks import draw_look
from wsidata.synthetic.lesions.paint import Painter
from wsidata.synthetic.lesions.relations import Rule
from wsidata.synthetic.lesions.scene import Patch, Scene

Numbers = NDArray[np.float64]
SHRUNK = (1, 2, 4, 8)


def main(folder: Path, out: Path, slides: int = 240, side: int = 1024, seed: int = 11, patches: int = 240) -> None:
    """Write slides, and the two tables.

    Args:
        folder: Folder for the slides; those that are there are used again.
        out: Folder for the tables.
        slides: Number of slides of each kind.
        side: Their side in pixels.
        seed: Of the slides.
        patches: Number of patches, half of them of lesions.
    """
    out.mkdir(parents=True, exist_ok=True)
    textures = [texture_row(finest_um, patches) for finest_um in (1.0, 2.0)]
    pd.DataFrame(textures).to_csv(out / "slides_textures.csv", index=False)
    print(pd.DataFrame(textures).to_string(index=False), flush=True)
    rows = list[dict[str, Any]]()
    for kind in ("micrometastases", *get_args(Rule)):
        made = folder / kind
        if not (made / "slides.csv").exists():
            if kind == "micrometastases":
                write_micrometastases(made, lesion_share=(0.01, 0.03), slides=slides, side_px=side, seed=seed)
            else:
                write_relations(made, kind, slides=slides, side_px=side, seed=seed)
        rows += baseline_rows(kind, made)
        pd.DataFrame(rows).to_csv(out / "slides_baselines.csv", index=False)
    print(pd.DataFrame(rows).to_string(index=False), flush=True)
    draw(folder, out / "slides.png")


def draw(folder: Path, path: Path) -> None:
    """A positive slide of each kind, and painted nuclei."""
    figure, axes = plt.subplots(1, 5, figsize=(17, 4.2), width_ratios=(1, 1, 1, 1, 0.5), layout="constrained")
    for axis, kind in zip(axes, ("micrometastases", *get_args(Rule)), strict=False):
        with Slide(folder / kind / "images" / "slide_0003.tif") as slide:
            axis.imshow(slide.thumbnail(512).numpy(), extent=(0, slide.width, slide.height, 0))
        for outline in Annotations.read(folder / kind / "annotations" / "slide_0003.xml").outlines:
            axis.fill(*outline.parts[0][0].T, edgecolor="green", fill=False)
        axis.set_title(kind)
    axes[-1].imshow(np.concatenate([textured(4, kind, 1.0)[:96, :96] for kind in (False, True)]))
    axes[-1].set_title("mimic; lesion")
    for axis in axes:
        axis.axis("off")
    figure.savefig(path, dpi=80)


def baseline_rows(kind: str, folder: Path) -> list[dict[str, Any]]:
    """AUROC of both baselines on a folder of slides."""
    table = pd.read_csv(folder / "slides.csv")
    means, histograms = list[Numbers](), list[Numbers]()
    for name in table["image"]:
        with Slide(folder / "images" / name) as slide:
            pixels, small = slide.numpy(level=0), slide.numpy(mpp=4.0)
        means.append(np.concatenate([pixels.mean((0, 1)), pixels.std((0, 1))]))
        colors = np.concatenate([small, cv2.cvtColor(small, cv2.COLOR_RGB2HSV)[..., :2]], axis=2)
        counts = [np.histogram(colors[..., band], 16, (0, 256))[0] for band in range(5)]
        histograms.append(np.concatenate(counts) / small[..., 0].size)
    labels = (table["label"] == "positive").to_numpy()
    rows = []
    for name, features in (("mean intensity", means), ("thumbnail histogram", histograms)):
        value, low, high = auroc(np.array(features), labels, table["patient"].to_numpy())
        rows.append({"slides": kind, "baseline": name, "images": len(table), "auroc": value, "low": low, "high": high})
    return rows


def auroc(features: Numbers, labels: NDArray[np.bool_], groups: NDArray[Any]) -> tuple[float, float, float]:
    """AUROC of a cross-validated logistic regression, with the ends of its 95 % bootstrap interval."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000))
    scores = cross_val_predict(model, features, labels, groups=groups, cv=GroupKFold(10), method="decision_function")
    rng, drawn = np.random.default_rng(0), list[float]()
    for _ in range(1000):
        part = rng.integers(0, len(labels), len(labels))
        drawn.append(float(roc_auc_score(labels[part], scores[part])))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return round(float(roc_auc_score(labels, scores)), 3), round(float(low), 3), round(float(high), 3)


def texture_row(finest_um: float, patches: int, quality: int = 90) -> dict[str, float]:
    """AUROC by um/px of statistics of a patch of nuclei that fills 112 x 112 um."""
    found: dict[int, list[Numbers]] = {shrunk: [] for shrunk in SHRUNK}
    for number in range(patches):
        crop = textured(number, number % 2 == 1, finest_um)
        stored = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(crop, quality, "RGB", "420"))
        for shrunk, rows in found.items():
            small = cv2.resize(stored, None, fx=1 / shrunk, fy=1 / shrunk, interpolation=cv2.INTER_AREA)
            rows.append(statistics(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)))
    labels, groups = np.arange(patches) % 2 == 1, np.arange(patches) // 2
    areas = {f"{0.5 * one:g} um/px": auroc(np.array(rows), labels, groups)[0] for one, rows in found.items()}
    return {"finest_um": finest_um, "jpeg_quality": quality, **areas}


def textured(seed: int, is_lesion: bool, finest_um: float) -> NDArray[np.uint8]:
    """RGB of 224 x 224 pixels of 0.5 um within a patch; pairs of seeds have one look."""
    rng = np.random.default_rng([seed // 2, 9])
    patch = Patch(160, 160, np.pi * 190**2, np.zeros((4, 2)), is_lesion, seed)
    edge = np.full((40, 40), 500, dtype=np.float32)
    scene = Scene(320, 8, edge, {}, np.full_like(edge, rng.uniform(0.93, 1.07)), [patch], seed)
    painted = Painter(scene, draw_look(seed // 2 % 4, 0, rng), finest_um)(48, 48, 224)
    assert painted is not None
    return painted


def statistics(gray: NDArray[np.float32]) -> Numbers:
    """Mean, and logarithms of the variance of the patch, of its differences and of its residuals from blurs."""
    blurred = [cv2.GaussianBlur(gray, (0, 0), blur) for blur in (0.7, 1.4, 2.8)]
    residuals = [gray, np.diff(gray, axis=0), np.diff(gray, axis=1), cv2.Laplacian(gray, cv2.CV_32F)]
    residuals += [gray - one for one in blurred]
    return np.array([gray.mean(), *(np.log(one.var() + 1e-3) for one in residuals)])


if __name__ == "__main__":
    auto_cli(main)
