"""Features of the tiles of slides by a pretrained encoder, a file for each slide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from slidestream.trained import import_named
from streammodels.models.networks import LIBRARIES, build_network
from streammodels.models.normalize import Normalize
from wsidata import Slide, TileDataModule
from wsidata.datamodules.restore import as_table
from wsidata.datasets.loader import make_loader
from wsidata.datasets.tiles import TileDataset
from wsidata.tables.find_slides import FEATURE_SUFFIX
from wsidata.tiles.facts import tile_facts
from wsidata.tiles.features import FeatureFileError, TileFeatures, feature_facts
from wsidata.tiles.grid import Tiles
from wsidata.transforms.describe import described
from wsidata.utils.messages import check_choice

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What an encoder computes in; features are stored as float32."""


@dataclass(frozen=True)
class Encoded:
    """What became of the slides.

    Attributes:
        written: Files that were written.
        kept: Files that were there already.
        skipped: Why slides have none, by path.
    """

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    skipped: Mapping[str, str]


def encode_slides(
    images: Sequence[str | Path],
    out: str | Path,
    encoder: str | nn.Module = "torchvision/resnet18",
    *,
    weights: str | None = "DEFAULT",
    image_dir: str | Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
    precision: str = "float32",
    overwrite: bool = False,
    done: Callable[[Path, int], None] | None = None,
    **tiles: Any,
) -> Encoded:
    """Encode the tiles of slides on a grid, and write a file for each slide as soon as it is complete.

    A run that was interrupted goes on with the slides that have no file yet, if its tiles, its precision and all
    weights of its encoder are those of the files that are there. Files have the names of the slides; see
    `wsidata.tiles.features`.

    Args:
        images: One table or folder of slides, or slides.
        out: Folder of the files.
        encoder: "torchvision/" or "timm/" and a name there, whose last layer is left out; the name of a function or
            class of your own, "package.module.name", that is called without arguments; or a module. It maps float
            images in 0..1, (B, 3, h, w), to features (B, F).
        weights: Weights of an encoder that is named: "DEFAULT" for what its library publishes, a file, or None for
            random ones.
        image_dir: Folder of the slides of a table.
        batch_size: Tiles at a time.
        device: Such as "cuda". None: that where there is one.
        precision: "float32", "bfloat16" or "float16".
        overwrite: Replace files that are there.
        done: Called with each file that was written, and its number of tiles.
        **tiles: Arguments of `TileDataModule`, such as `mpp=0.5`, `tile_size=256`, `stride=`, `min_tissue=`,
            `num_workers=` and `on_error=`.

    Raises:
        FeatureFileError: if a file is there with other settings, or features are not finite.
        SlideCheckError: naming slides that cannot be read.
        ValueError: for an encoder that is not known, or does not make features.
    """
    check_choice("precision", precision, tuple(PRECISIONS))
    given: Any = images[0] if len(images) == 1 else list(images)
    is_table = len(images) == 1 and (Path(given).is_dir() or Path(given).suffix.lower() in _TABLES)
    table, folder = as_table(given if is_table else list(images), image_dir, tiles.get("image_column", "image"))
    data = TileDataModule(
        table, folder, label_column=None, predict_on="all", leaks="off", batch_size=batch_size, **tiles
    )
    name = encoder if isinstance(encoder, str) else f"{type(encoder).__module__}.{type(encoder).__qualname__}"
    settings = _settings(data, name, weights if isinstance(encoder, str) else "DEFAULT") | {"precision": precision}
    data.setup("predict")
    rows = data.tables["predict"]
    files = [Path(out) / f"{one}{FEATURE_SUFFIX}" for one in rows["image_id"]]
    dataset = cast(TileDataset, data.datasets["predict"])
    missing = [
        number
        for number, (file, plan) in enumerate(zip(files, dataset.plans, strict=True))
        if overwrite or not _is_there(file, plan.tiles, settings)
    ]
    written: list[Path] = []
    if missing:
        network = (encoder if isinstance(encoder, nn.Module) else make_encoder(encoder, weights)).eval()
        settings["encoder_digest"] = _digest(network)
        for number in set(range(len(files))) - set(missing):
            _is_there(files[number], dataset.plans[number].tiles, settings)
        network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        for number, features in _encoded(data, dataset, missing, network, PRECISIONS[precision]):
            tiles_of = dataset.plans[number].tiles
            with Slide.from_options(rows["path"].iloc[number], data._options) as slide:
                facts = tile_facts(slide, data.grid, tiles_of)
            TileFeatures(features, tiles_of.coords_lv0, {**facts, **settings}).write(files[number])
            written.append(files[number])
            if done is not None:
                done(files[number], len(features))
    kept = tuple(file for number, file in enumerate(files) if number not in set(missing))
    skipped = dict(zip(data.skipped["path"], data.skipped["reason"], strict=True))
    return Encoded(tuple(written), kept, skipped)


_TABLES = {".csv", ".tsv", ".txt", ".parquet", ".pq"}


def make_encoder(name: str, weights: str | None = "DEFAULT") -> nn.Module:
    """The encoder of a name; see `encode_slides`.

    Raises:
        ValueError: if there is none.
    """
    if name.partition("/")[0] in LIBRARIES:
        built = build_network(name, 1000, weights)
        return nn.Sequential(Normalize(built.mean, built.std), built.trunk)
    try:
        made = import_named(name)
    except ImportError as error:
        raise ValueError(f"an encoder is 'torchvision/...', 'timm/...' or your own, and {error}") from error
    encoder = made if isinstance(made, nn.Module) else made()
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"encoder '{name}' gave a {type(encoder).__name__}; it must give a torch.nn.Module.")
    return encoder


def _encoded(
    data: TileDataModule, dataset: TileDataset, slides: Sequence[int], network: nn.Module, dtype: torch.dtype | None
) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """Numbers of slides with the features of their tiles, in order."""
    rows = [
        row
        for slide in slides
        for row in range(dataset.first_of(slide), dataset.first_of(slide) + len(dataset.plans[slide].tiles))
    ]
    loader = make_loader(
        dataset, batch_size=data.batch_size, rows=rows, num_workers=data.num_workers, worker_start=data.worker_start,
        pin_memory=data.pin_memory, read_timeout_s=data.read_timeout_s,
    )  # fmt: skip
    parts: list[np.ndarray[Any, Any]] = []
    waiting = iter(slides)
    slide = next(waiting)
    for images, _ in loader:
        features = _features(network, images, dtype)
        while len(features):
            wanted = len(dataset.plans[slide].tiles) - sum(map(len, parts))
            parts.append(features[:wanted])
            features = features[wanted:]
            if len(parts[-1]) == wanted:
                yield slide, np.concatenate(parts)
                parts, slide = [], next(waiting, slide)


@torch.inference_mode()
def _features(network: nn.Module, images: Tensor, dtype: torch.dtype | None) -> np.ndarray[Any, Any]:
    """Features (B, F) of a batch."""
    device = next((one.device for one in network.parameters()), torch.device("cpu"))
    images = images.to(device, non_blocking=True)
    images = images.float().div_(255) if images.dtype == torch.uint8 else images
    cast_to: AbstractContextManager[Any] = nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    with cast_to:
        features = network(images)
    if isinstance(features, Tensor) and features.ndim == 4 and features.shape[2:] == (1, 1):
        features = features.flatten(1)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"the encoder made {got} of {len(images)} tiles; it must make features (B, F).")
    found: np.ndarray[Any, Any] = features.float().cpu().numpy()
    return found


def _settings(data: TileDataModule, encoder: str, weights: str | None) -> dict[str, Any]:
    """What all features of a study have in common, as attributes of the files."""
    (height, width), (down, right) = data.grid.size, data.grid.step
    overlap = [height - down, width - right]
    method = described(data.tissue_method, digests=True) if data.grid.min_tissue else "find_tissue"
    return {
        "encoder": encoder if weights == "DEFAULT" else f"{encoder} {weights or 'random'}",
        "resolution": json.dumps(dict(data.resolution)),
        "patch_size": height if height == width else [height, width],
        "overlap": overlap[0] if overlap[0] == overlap[1] else overlap,
        "border": data.grid.border,
        "min_tissue": data.grid.min_tissue,
        **({} if method == "find_tissue" else {"tissue_method": method}),
    }


def _digest(network: nn.Module) -> str:
    """A digest of all weights of an encoder: random ones, and files that were replaced, are told apart."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _is_there(path: Path, tiles: Tiles, settings: Mapping[str, Any]) -> bool:
    """Whether a file holds what is to be written to it.

    Raises:
        FeatureFileError: if it is something else, or damaged.
    """
    if not path.exists():
        return False
    try:
        (count, _), found = feature_facts(path)
    except FeatureFileError as error:
        raise FeatureFileError(f"{error} Remove it, or replace all that is there with overwrite=True.") from error
    found["tiles"] = int(count)
    expected = {
        "tissue_method": None,
        **settings,
        "downsample": [tiles.downsample_x, tiles.downsample_y],
        "tiles": len(tiles),
    }
    other = {name: found.get(name) for name, value in expected.items() if found.get(name) != value}
    if other:
        expected = {name: expected[name] for name in other}
        raise FeatureFileError(
            f"'{path}' is there already, with {other} instead of {expected}. Name another folder with out=, or replace "
            "what is there with overwrite=True."
        )
    return True
