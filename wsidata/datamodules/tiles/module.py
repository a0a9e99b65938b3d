"""Lightning DataModule for tiles of slides, with table, split and checks of `WSIDataModule`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyvips
from torch import Tensor

from wsidata.annotations.annotations import Annotations
from wsidata.annotations.outline import AnnotationError
from wsidata.datamodules.checkpoint import plain
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import Geometry
from wsidata.datamodules.survey import MASKS_AT_ONCE, map_files
from wsidata.datamodules.tiles.plans import plan_tiles
from wsidata.datamodules.tiles.predicted import TileSamples
from wsidata.datamodules.tiles.tables import tile_rows, write_tiles
from wsidata.datamodules.wsi import WSIDataModule
from wsidata.datasets.tiles import Balance, TileBagDataset, TileDataset
from wsidata.errors import SlideError
from wsidata.formats.vips import thread_count
from wsidata.remote.address import shown
from wsidata.slides.tissue.mask import check_sees_colors
from wsidata.slides.tissue.methods import TissueMethod, find_tissue
from wsidata.stats.class_weights import class_weights
from wsidata.stats.compute import stats_of
from wsidata.stats.result import ChannelStats
from wsidata.stats.tile_sums import TileStatsJob
from wsidata.tables.find_slides import MaskFolder
from wsidata.tables.parts import Part, SplitError
from wsidata.tables.targets import ONE_CLASS, Target
from wsidata.tiles.grid import Border, TileGrid, Tiles
from wsidata.tiles.labels import BACKGROUND, LabelRule, OutlinedAreas
from wsidata.tiles.plan import TilePlan
from wsidata.transforms.describe import described
from wsidata.transforms.geometry.crop import check_size
from wsidata.utils.messages import check_choice, describe_problems
from wsidata.utils.processes import raise_system_fault


class TileDataModule(WSIDataModule):
    """DataModule for tiles of slides, with the table, splits, folds, leak checks and checkpoints of `WSIDataModule`.

    Batches of the train, validation and test loaders are `(tiles, target)`: tiles (B, 3, h, w), and the target of the
    slide, or the class (B,) of the annotations under the tile. The predict loader yields `(tiles, places)`: (B, 3)
    int64, the number of the slide in `tables["predict"]`, and x and y of the tile in pixels of level 0. All are those
    of a `TileGrid`, slide by slide; training tiles may lie at random places instead. A tile has the pixels of the same
    region of the whole slide, to the last bit.

    With `bags=True` a sample is all tiles of a slide: batches are `(list of (N, 3, h, w), targets)`, and for
    prediction `(list of (N, 3, h, w), list of (N, 2))`, the latter x and y.

    Args:
        table: As for `WSIDataModule`, like all arguments that are not listed here: a row per slide.
        image_dir: Folder of the slides.
        tile_size: Height and width of a tile in pixels of the resolution; one number for a square.
        stride: Rows and columns from one tile of the grid to the next. None: `tile_size`.
        border: Tiles that reach beyond the right or lower edge: "drop", "pad" or "shift"; see `TileGrid`.
        min_tissue: Least share of a tile that is tissue, 0 to 1; exact areas of the tissue mask.
        tissue_method: Finds the tissue; see `Slide.tissue_mask`.
        train_tiles: "grid", or "random": places drawn anew each epoch, centered uniformly on tissue, with `min_tissue`.
        tiles_per_epoch: Random places in an epoch.
        balance: What random places are drawn equally often from: a unit of area of the "tissue", "slides" (and in each
            uniformly over its tissue), "classes" of slides, or labels of "annotations".
        annotation_dir: Folder of annotation files (ASAP, ImageScope, GeoJSON) with the names of the slides. Targets are
            then the classes of tiles, 0 for what is not outlined ("background") and 1, 2, ... as in `outline_classes`.
        outline_classes: Class of each class of outlines, such as `{"_0": "tumor", "_1": "tumor"}`, or the classes. None
            as a class leaves out its tiles. Where outlines overlap, the one named last lies on top.
        annotation_share: Share of a tile's area that a class has to cover. Of two, `(low, high)`, tiles are background
            up to `low`, and left out in between, as at borders. Exact areas of polygons.
        unannotated: Classes of the table whose slides need no annotation file, such as `["normal"]`.
        bags: A sample is a slide with all its tiles.
        max_tiles: The most tiles of a bag: drawn anew each epoch in training, else spread evenly. None: all.
        **options: Further arguments of `WSIDataModule`, among them the resolution, such as `mpp=0.5`.

    Raises:
        SlideCheckError: in `setup`, naming all slides that cannot be read, have no such tile or no annotations.
        ValueError: for arguments that do not go together.

    Example:
        >>> dm = TileDataModule("slides.csv", "slides", mpp=0.5, tile_size=256, batch_size=64)
        >>> trainer.fit(model, datamodule=dm)
    """

    kept_arguments = ("stride", "border", "min_tissue", "tissue_method", "bags", "max_tiles")

    def __init__(
        self,
        table: str | Path | pd.DataFrame,
        image_dir: str | Path | None = None,
        *,
        tile_size: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        border: Border = "drop",
        min_tissue: float = 0.25,
        tissue_method: TissueMethod = find_tissue,
        train_tiles: Literal["grid", "random"] = "grid",
        tiles_per_epoch: int | None = None,
        balance: Balance = "tissue",
        annotation_dir: str | Path | None = None,
        outline_classes: Mapping[str, str | None] | Sequence[str] | None = None,
        annotation_share: float | tuple[float, float] = 0.5,
        unannotated: Sequence[str] = (),
        bags: bool = False,
        max_tiles: int | None = None,
        **options: Any,
    ) -> None:
        sizes = {
            check_size(one, "tile_size") for one in (tile_size, options.pop("image_size", None)) if one is not None
        }
        if len(sizes) != 1:  # a checkpoint says it as image_size
            raise ValueError(f"TileDataModule needs tile_size=, the side of a tile in pixels (got {sizes or 'none'}).")
        tile_size = next(iter(sizes))
        table, image_dir = map(plain, (table, image_dir))
        annotation_dir = None if annotation_dir is None else str(annotation_dir)
        for name in ("lazy", "crop"):
            if options.get(name):
                raise ValueError(f"{name}= is for whole slides: tiles are chosen by min_tissue=. Leave it out.")
        if options.get("case_column") is not None:
            raise ValueError(
                "case_column= is for whole slides (WSIDataModule) and features (FeatureBagDataModule). Tiles have the "
                "label of their slide: leave it out, and pass group_column= to keep patients in one split."
            )
        numbers, names, ignored = outline_numbers(outline_classes if annotation_dir else None)
        mapping = outline_classes if isinstance(outline_classes, Mapping) else None
        super().__init__(table, image_dir, image_size=tile_size, outline_classes=mapping, **options)
        for name in ("tissue_method", "image_size"):
            self.hparams.pop(name, None)
        # Loggers merge these with a model's, whose own tile_size means another thing; checkpoints have `hparams`.
        self._hparams_initial.pop("tile_size", None)  # type: ignore[attr-defined]
        self.grid = TileGrid(
            tile_size, stride, border=border, min_tissue=min_tissue,
            **{name: value for name, value in self.resolution.items() if name != "tolerance"},
        )  # fmt: skip
        self.tissue_method = tissue_method
        self._random = _random_tiles(train_tiles, tiles_per_epoch, balance, annotation_dir, bags, self.sampling)
        self._balance_of: Balance = balance
        if (min_tissue or self._random) and not self._options.has_colors:
            check_sees_colors(tissue_method, "min_tissue= and random places: tissue")
        if max_tiles is not None and (not bags or max_tiles < 1):
            raise ValueError(f"max_tiles={max_tiles} is the most tiles of a bag: at least 1, with bags=True.")
        self.bags, self.max_tiles = bags, max_tiles
        self._annotation_dir = annotation_dir
        self._rule: LabelRule | None = None
        self._outline_numbers, self._tile_classes = numbers, names
        if annotation_dir is not None:
            if bags or options.get("target", "class") == "mask":
                raise ValueError("annotation_dir= labels single tiles: leave out bags= and target='mask'.")
            if len(names) < 2:
                raise ValueError("annotation_dir= needs outline_classes=, such as {'Tumor': 'tumor'}.")
            self._rule = LabelRule.of(annotation_share, ignored)
        elif outline_classes and options.get("target") != "mask" and options.get("label_column", "class") is not None:
            raise ValueError("outline_classes= needs annotation_dir=, the folder of the outlines that label tiles.")

    def geometry(self) -> Geometry:
        """How slides are read, which tiles they have, and by what method tissue is found, if any is."""
        grid = self.grid
        tiles: Geometry = {"stride": list(grid.step), "border": grid.border, "min_tissue": float(grid.min_tissue)}
        if grid.min_tissue or self._random:
            tiles["tissue_method"] = described(self.tissue_method, digests=True)
        return super().geometry() | tiles

    @property
    def is_annotated(self) -> bool:
        """Whether tiles have the classes of annotations, and not those of their slides."""
        return self._rule is not None

    # -- classes -------------------------------------------------------------------------------------------------------

    @property
    def _own_class_names(self) -> tuple[str, ...]:
        return super()._own_class_names if self._rule is None else self._tile_classes

    @property
    def target(self) -> Target:
        """Kind of the targets: "class" if annotations label tiles, else that of the table."""
        return super().target if self._rule is None else "class"

    @property
    def class_weights(self) -> Tensor:
        """Class weights inversely proportional to class frequency among the training tiles of the grid, or bags."""
        if self.bags:
            return super().class_weights
        return class_weights(self.tile_table("train", labeled=True), self.target, self.class_names)

    # -- checks and plans ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check every slide, and plan its tiles."""
        super().check()
        if self._random and self._balance_of == "classes" and self.labels.target not in ONE_CLASS:
            raise SplitError(f"balance='classes' needs one class a slide, not targets of kind '{self.labels.target}'.")
        problems = self._planned[1] if self.on_error == "raise" else {}
        if problems:
            remedy = (
                "Lower min_tissue=, pass another tissue_method= or border='pad', name classes without annotations with "
                "unannotated=, take the slides out of the table, or go on without them with on_error='skip'."
            )
            raise SlideCheckError(describe_problems("tiles of slides", list(problems.values()), remedy))

    def find_unreadable(self) -> dict[str, str]:
        """Slides that cannot be read as requested, or have no tiles."""
        return super().find_unreadable() | self._planned[1]

    @cached_property
    def _planned(self) -> tuple[dict[str, TilePlan], dict[str, str]]:
        """The tiles of each slide that can be read, and why others have none, by `image_id`."""
        readable = set(self._survey.sizes["image_id"])
        rows = [row for row in self.labels.frame.to_dict("records") if row["image_id"] in readable]
        with_tissue = bool(self.grid.min_tissue or self._random)

        def plan(row: dict[str, Any]) -> TilePlan | str:
            try:
                areas = None if self._rule is None else self._areas(row)
                found = plan_tiles(row["path"], self._options, self.grid, self.tissue_method if with_tissue else None)
                if not len(found.tiles):
                    return f"{shown(row['path'])}: {self._why_none(found.tiles)}"
            except (SlideError, OSError, pyvips.Error, ValueError) as error:
                raise_system_fault(error, row["path"])
                return f"{shown(row['path'])}: {type(error).__name__}: {error}"
            return found if areas is None or self._rule is None else found.labeled_by(areas, self._rule)

        is_first = self.trainer is None or self.trainer.is_global_zero
        found = map_files(plan, rows, min(MASKS_AT_ONCE, thread_count()), quiet=not is_first)
        named = list(zip((row["image_id"] for row in rows), found, strict=True))
        plans = {name: one for name, one in named if isinstance(one, TilePlan)}
        return plans, {name: one for name, one in named if isinstance(one, str)}

    def _why_none(self, tiles: Tiles) -> str:
        height, width = self.grid.size
        image_width, image_height = tiles.image_width, tiles.image_height
        if self.grid.border == "drop" and (width > image_width or height > image_height):
            return f"{image_height} x {image_width} px at this resolution are no tile of {height} x {width}"
        return f"no tile of {height} x {width} px has a share of tissue of {self.grid.min_tissue}"

    @cached_property
    def _annotation_files(self) -> MaskFolder:
        return MaskFolder(self._annotation_dir or "")

    def _areas(self, row: Mapping[str, Any]) -> OutlinedAreas:
        """What the annotations of a slide cover.

        Raises:
            AnnotationError: if it has none, and its class needs some.
        """
        folder = self._annotation_dir
        assert folder is not None
        names = dict.fromkeys((row["image_id"], Path(row["path"]).name))
        path = next(filter(None, map(self._annotation_files.find_outlines, names)), None)
        if path is None and row["label_name"] not in self.arguments["unannotated"]:
            raise AnnotationError(
                f"there is no annotation file of '{row['image_id']}' ({row['label_name'] or 'without a class'}) in "
                f"'{folder}'"
            )
        annotations = None if path is None else Annotations.read(path)
        size, numbers = self._survey.level_0[row["image_id"]], self._outline_numbers
        return OutlinedAreas.of(annotations, size, numbers, max(numbers.values()))

    # -- datasets ------------------------------------------------------------------------------------------------------

    def make_dataset(self, part: Part) -> Any:
        """Dataset of one split: tiles, or bags of them."""
        tiles = self._tile_dataset(part)
        if len(self.tables[part]) and not len(tiles):
            raise SplitError(f"the {part} split has no labeled tile. Choose other annotation_share=, or another split.")
        return TileBagDataset(self.tables[part], tiles, self.max_tiles) if self.bags else tiles

    def _tile_dataset(self, part: Part) -> TileDataset:
        table, plans = self.tables[part], self._planned[0]
        is_train = part == "train"
        return TileDataset(
            table,
            [plans[name] for name in table["image_id"]],
            self.grid,
            self._train_transform if is_train else self._eval_transform,
            rule=self._rule,
            random_tiles=self._random if is_train else None,
            balance=self._balance_of,
            with_places=part == "predict",
            dtype=self.arguments["dtype"],
            options=self._options,
            fresh_epochs=is_train,
            mask_classes=self._mask_classes,
            stage=self.stage,
        )

    def tile_table(self, part: Part, *, labeled: bool = False) -> pd.DataFrame:
        """The tiles of the grid of a split, in the order in which the loaders for evaluation yield them.

        Args:
            part: "train", "val", "test" or "predict".
            labeled: Leave out tiles without a label, at borders of annotations, as all loaders but that for prediction.

        Returns:
            Columns `image_id`, `path`, `x_lv0` and `y_lv0` (upper left corner in pixels of level 0), `tissue` (share of
            the area; NaN without a rule about it), `label`, `label_name`, and perhaps `target`.
        """
        plans = {name: self._planned[0][name] for name in self.tables[part]["image_id"]}
        plans = {name: plan.labeled if labeled else plan for name, plan in plans.items()}
        return tile_rows(self.tables[part], plans, self.class_names)

    def save_tiles(self, path: str | Path, part: Part = "predict", *, labeled: bool = False) -> None:
        """Write the tiles of a split as Parquet, with the names that other programs have for what is said of them.

        The columns, which are empty where a slide does not state something:

        - `name`, `path`: the slide;
        - `x`, `y`: upper left corner in pixels of level 0, as `coords` of TRIDENT and CLAM;
        - `patch_size` and `overlap` in pixels that are read, `patch_size_level0` in pixels of level 0 (TRIDENT; empty
          where tiles are no squares);
        - `width`, `height`, `stride_width`, `stride_height` in pixels that are read; `base_width`, `base_height` in
          pixels of level 0 (LazySlide);
        - `patch_level` (CLAM): the level, where one is read without resampling;
        - `downsample_x`, `downsample_y`: level-0 pixels per pixel; `mpp_x`, `mpp_y`: um per pixel that is read;
        - `level0_width`, `level0_height`, `level0_magnification`, `target_magnification` (TRIDENT);
        - `tissue`, `label`, `label_name` and perhaps `target`, as `tile_table` has them.

        Args:
            path: The file; its folder is created.
            part: As for `tile_table`.
            labeled: As for `tile_table`.

        Raises:
            OSError: if it cannot be written; a file that was there is as it was.
        """
        write_tiles(path, self.tile_table(part, labeled=labeled), self._planned[0], self.grid, self._options)

    def compute_stats(self, executor: Executor | None = None, share: str | Path | None = None) -> ChannelStats:
        """Channel statistics of the pixels of all training tiles of the grid, as often as tiles have them."""
        job = TileStatsJob(False, None, None, self.resolution, self._options, None, self.grid, self.tissue_method)
        return stats_of(job, list(self.tables["train"]["path"]), executor=executor, share=share)

    def predicted(self) -> Any:
        """What `PredictionWriter` writes a row of each: the slides, if samples are bags; else their tiles."""
        return self if self.bags else TileSamples(self)

    def shown(self, part: Part, max_images: int) -> tuple[TileDataset, pd.DataFrame]:
        """Tiles, also where samples are bags of them."""
        dataset = self._tile_dataset(part)
        if self._random is None or part != "train":
            return dataset, self.tile_table(part, labeled=part != "predict")
        rows = range(min(len(dataset), 50 * max_images))
        labels, names = [dataset.label(row) for row in rows], self.class_names
        label_names = [names[label] if label >= 0 else "" for label in labels]
        ids = [dataset.image_ids[row] for row in rows]
        return dataset, pd.DataFrame({"image_id": ids, "label": labels, "label_name": label_names})

    def _balance(self) -> list[int] | None:
        """Class of each training tile, for balanced sampling."""
        if self.bags or self.sampling == "shuffle":
            return super()._balance()
        if self.target not in ONE_CLASS:
            return super()._balance()
        return self._tile_dataset("train").tile_labels()


def outline_numbers(
    classes: Mapping[str, str | None] | Sequence[str] | None,
) -> tuple[dict[str, int], tuple[str, ...], int]:
    """The number of each class of outlines, the names of the classes from 0, and the number of those to leave out."""
    if not classes:
        return {}, (), 0
    mapping = dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}
    names = (BACKGROUND, *dict.fromkeys(name for name in mapping.values() if name not in (None, BACKGROUND)))
    number_of = {name: number for number, name in enumerate(names)}
    ignored = len(names) if None in mapping.values() else 0
    return {one: number_of.get(name or "", ignored) for one, name in mapping.items()}, names, ignored


def _random_tiles(
    train_tiles: str, count: int | None, balance: str, annotation_dir: str | None, bags: bool, sampling: str
) -> int | None:
    """Random places in an epoch; None for the grid."""
    check_choice("train_tiles", train_tiles, ("grid", "random"))
    check_choice("balance", balance, get_args(Balance))
    if train_tiles == "grid":
        if count is not None or balance != "tissue":
            raise ValueError("tiles_per_epoch= and balance= are for train_tiles='random'. For the grid: sampling=.")
        return None
    if count is None or count < 1:
        raise ValueError(f"train_tiles='random' needs tiles_per_epoch= of at least 1, such as 10000 (got {count}).")
    if bags or sampling != "shuffle":
        raise ValueError("train_tiles='random' is for single tiles, balanced by balance=: leave out bags=, sampling=.")
    if balance == "annotations" and annotation_dir is None:
        raise ValueError("balance='annotations' needs annotation_dir= and outline_classes=.")
    return count
