"""Export of a preprocessed split to a folder that `HubDataModule` and `datasets` can load.

    plan -> write images (into .export/) -> statistics -> move or pack them -> tables -> preprocessing.json -> card

The folder's layout is described in `manifest`. An interrupted export resumes; a repeated one writes only what changed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

from wsidata.datamodules.base import SplitDataModule
from wsidata.hub.card import CardText, write_card
from wsidata.hub.export.images import enough_room, item_of, keys_of, write_images
from wsidata.hub.export.journal import Entry, Journal
from wsidata.hub.export.plan import ExportError, ExportPlan, plan_export
from wsidata.hub.export.tables import (
    choose_layout,
    is_intact,
    located,
    packed_digests,
    restore_images,
    split_rows,
    write_metadata,
    write_shards,
)
from wsidata.hub.manifest import (
    CARD_FILE,
    DATA_FOLDERS,
    JOURNAL_FOLDER,
    LAYOUTS,
    PREPROCESSING_FILE,
    ExportFormatError,
    ImageFormat,
    Layout,
    Preprocessing,
)
from wsidata.hub.privacy import NAMED_COLUMNS, PrivacyError, disclosure
from wsidata.hub.secrets import Secrets, check_export, check_rows
from wsidata.jobs.claims import Results, SharedRun
from wsidata.stats.result import ChannelStats
from wsidata.utils.files import file_sha256, json_sha256
from wsidata.utils.messages import check_choice

_FINISHED, _STATS = "finished", "stats"


def export(
    dm: SplitDataModule,
    folder: str | Path,
    *,
    layout: Layout | None = None,
    image_format: ImageFormat | None = None,
    quality: int | None = None,
    opaque_ids: bool = False,
    keep_names: Sequence[str] = (),
    card: CardText | None = None,
    stats: bool = True,
    executor: Executor | None = None,
    share: bool = False,
    quiet: bool = False,
    say: Callable[[str], None] = print,
    audience: str | None = None,
    ready: Callable[[], object] | None = None,
) -> Preprocessing:
    """Write every image of every split of a data module, preprocessed but not augmented, to a folder.

    Training from the folder with `HubDataModule(folder)` equals training from `dm`, bitwise if the encoding is
    lossless. Memory: one image per thread (of lazy images, some rows).

    Args:
        dm: A `WSIDataModule` or an `ImageFolderDataModule`.
        folder: A new or empty folder, or an earlier export, of which only what changed is written again.
        layout: "files" (one file per image) or "parquet" (images in shards). None: files if images have more than 1 MB
            on average, or are pyramids.
        image_format: "png" and "tiff" (tiled pyramidal BigTIFF) are lossless; "jpeg" and "tiff-jpeg" take a quarter of
            the space. None: "tiff" for lazy images, else "png"; for photos "original", their own compressed data.
            Images above 65,500 pixels are always TIFF.
        quality: JPEG quality, 1 to 100. None: 90.
        opaque_ids: Publish "image-0001", ... instead of ids.
        keep_names: Which of "group" (patients), "site" and "case" are published by their own names, not as numbers.
        card: License, title and description for the dataset card.
        stats: Whether to publish `dm.stats`; computing them, if unknown, reads the training images once more.
        executor: Threads, `stats.process_pool(n)` or Dask's `client.get_executor(pure=False)`. None: four threads.
        share: Share the work with other jobs that export to this folder, on any machines: each writes the images that
            no other has, one of them puts the set together, and all return when it is finished.
        quiet: No progress bar.
        say: Called first with what will be published, and at the end with the size.
        audience: Who will see it, for that first line. None: the folder.
        ready: Called after that first line, before anything is done; may raise.

    Returns:
        The content of the folder's preprocessing.json.

    Raises:
        ExportError: if an image cannot be read or written (naming all of them), or `folder` holds something else.
        PrivacyError: if ids would tell paths; or if what would be published holds the home folder, the user's name, a
            folder of the data or, with `opaque_ids`, an id of the source.
        PoolError: if the executor ends, as when the system kills one of its processes.
        SharedRunError: if jobs that share the folder export something else.
        ValueError: for options that do not go together.
    """
    folder = Path(folder)
    check_choice("layout", layout, (None, *LAYOUTS))
    plan = plan_export(dm, image_format=image_format, quality=quality, opaque_ids=opaque_ids, keep_names=keep_names)
    card = card or CardText()
    secrets = _secrets(dm, plan, card)
    check_rows(plan.rows.drop(columns="place").to_dict("list"), plan.manifest.to_json(), secrets)
    audience = audience or f"In '{folder}'"
    say(disclosure(plan.rows, audience, opaque_ids=opaque_ids, class_names=plan.manifest.class_names))
    if ready is not None:
        ready()
    journal = Journal(folder)
    _refuse_other_folders(folder, journal)
    dm.check()
    takes_stats = stats and len(dm.tables["train"])
    with enough_room(folder), _shared(plan, folder, journal, layout, stats, card) if share else nullcontext() as run:
        if run is None:
            journal.begin()
            done = _reusable(plan, folder, journal)
            write_images(plan, journal, done, executor, quiet=quiet)
        else:
            write_images(plan, journal, set(), executor, run=run, quiet=quiet)
        found_stats = _stats(dm, plan, journal, executor, run) if takes_stats else None

        def finish() -> Preprocessing:
            return _put_together(plan, folder, journal, layout, found_stats, card, secrets)

        finished = finish() if run is None else _finish_once(run, finish, folder)
    size = f"{finished.image_count} images, {finished.image_bytes / 1e6:,.1f} MB"
    say(f"'{folder}' holds {size}, layout '{finished.layout}'.")
    return finished


def _put_together(
    plan: ExportPlan,
    folder: Path,
    journal: Journal,
    layout: Layout | None,
    stats: ChannelStats | None,
    card: CardText,
    secrets: Secrets,
) -> Preprocessing:
    """Make the set of the images that are written."""
    entries = [journal.entries[place] for place in plan.rows["place"]]
    chosen = choose_layout(layout, entries, lazy=bool(plan.manifest.arguments["lazy"]))
    earlier = _earlier(folder)
    finished = _finish(plan, folder, journal, chosen, stats)
    write_card(folder, finished, plan.rows, card)
    _check(folder, finished, secrets, is_new=finished != earlier)
    return finished


def _shared(
    plan: ExportPlan, folder: Path, journal: Journal, layout: Layout | None, stats: bool, card: CardText
) -> SharedRun:
    """The run of several jobs; the first of them takes up what is there."""
    keys = {place: key for split in plan.splits for place, key in keys_of(plan, split).items()}

    def prepare(run: SharedRun) -> None:
        run.forget()  # the journal has all of it, and files are looked at again
        journal.begin()
        for place in _reusable(plan, folder, journal):
            run.finish(item_of(place, keys[place]), {"entry": asdict(journal.entries[place])})

    settings = {
        "layout": layout,
        "stats": stats,
        "card": json_sha256(asdict(card)),
        "images": json_sha256(sorted(keys.items())),
        "table": json_sha256([plan.rows.to_json(orient="split"), plan.manifest.to_json()]),
    }
    return SharedRun(journal.root / "jobs", settings, prepare=prepare)


def _finish_once(run: SharedRun, finish: Callable[[], Preprocessing], folder: Path) -> Preprocessing:
    """Have one job put the set together, and the others wait for it."""

    def compute(taken: Iterator[str]) -> Results:
        for item in taken:
            finish()
            yield item, {"retry": True}  # a later run looks again whether all is there

    deque(run.outcomes(["set"], compute), maxlen=0)
    return Preprocessing.load(folder)


def _secrets(dm: SplitDataModule, plan: ExportPlan, card: CardText) -> Secrets:
    """What must not be published of this data module."""
    given = [dm.arguments.get(name) for name in ("table", "image_dir", "mask_dir", "label_names", "split", "stats")]
    folders = {Path(one) if Path(one).is_dir() else Path(one).parent for one in given if isinstance(one, (str, Path))}
    folders |= {Path(sources[0]).parent for split in plan.splits for sources in split.sources}
    columns = [name for name in ("image_id", "label_name", *NAMED_COLUMNS) if name in plan.rows.columns]
    published = {str(value) for name in columns for value in plan.rows[name].unique()}
    said = [*plan.manifest.class_names, *published, *card.tags]
    said += [text for text in (card.title, card.description, card.license) if text is not None]
    names: set[str] = set()
    if plan.manifest.opaque_ids:
        frame = dm.labels.frame
        ids = {str(name) for name in frame["image_id"]}
        names = (
            ids
            | {PurePosixPath(name).name for name in ids}
            | {str(v) for c in NAMED_COLUMNS if c in frame for v in frame[c].unique()}
        )
    return Secrets.of_machine((path for path in folders if path.is_dir()), names - published, said)


def _check(folder: Path, finished: Preprocessing, secrets: Secrets, *, is_new: bool) -> None:
    """Check what was written; what fails does not pass for a finished export."""
    try:
        check_export(folder, finished, secrets, images=is_new)
    except PrivacyError:
        if is_new:
            (folder / PREPROCESSING_FILE).unlink()
        raise


def _refuse_other_folders(folder: Path, journal: Journal) -> None:
    """Refuse folders of other origin, whose train/ or data/ would be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"'{folder}' is a file. Pass a folder.")
    inside = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if set(inside) - {CARD_FILE, JOURNAL_FOLDER} and not journal.exists:
        raise ExportError(
            f"'{folder}' is not empty ({', '.join(inside[:5])}) and was not exported from here. Pass a new or empty "
            "folder (a README.md in it is kept), or the folder of an earlier export."
        )


def _reusable(plan: ExportPlan, folder: Path, journal: Journal) -> set[str]:
    """Places whose images have the same source and are intact, in a file or in a shard."""
    keys = {place: key for split in plan.splits for place, key in keys_of(plan, split).items()}
    same = {place for place, key in keys.items() if place in journal.entries and journal.entries[place].key == key}
    packed = packed_digests(intact_shards(folder)) if same else set()
    return {place for place in same if _is_there(folder, journal, journal.entries[place], packed)}


def _is_there(folder: Path, journal: Journal, entry: Entry, packed: set[str]) -> bool:
    files = [(entry.file, entry.sha256), (entry.mask_file, entry.mask_sha256)]
    return all(
        file is None
        or (sha256 in packed and not (journal.staging / file).exists())
        or file_sha256(located(folder, journal, file)) == sha256
        for file, sha256 in files
    )


def intact_shards(folder: Path) -> list[Path]:
    """Unchanged shards of a finished export."""
    earlier = _earlier(folder)
    if earlier is None or earlier.layout != "parquet":
        return []
    return [folder / shard.path for shard in earlier.tables if is_intact(folder, shard)]


def _earlier(folder: Path) -> Preprocessing | None:
    """The manifest of the folder, if its export is finished."""
    try:
        return Preprocessing.load(folder)
    except ExportFormatError:
        return None


def _stats(
    dm: SplitDataModule, plan: ExportPlan, journal: Journal, executor: Executor | None, run: SharedRun | None
) -> ChannelStats:
    """The data module's statistics; computed only once for the same training images."""
    if "stats" in dm.__dict__:
        return replace(dm.stats, skipped=())  # these are names of files
    train = plan.rows.loc[plan.rows["split"] == "train", "place"]
    key = hashlib.sha256("".join(journal.entries[place].key for place in train).encode()).hexdigest()
    noted = journal.noted(_STATS)
    if noted.get("key") == key:
        return ChannelStats.from_json(noted["stats"])
    if executor is not None or run is not None:
        dm.stats = dm.compute_stats(executor, None if run is None else journal.root / "stats")
    stats = replace(dm.stats, skipped=())
    journal.note(_STATS, {"key": key, "stats": stats.to_json()})
    return stats


def _finish(
    plan: ExportPlan, folder: Path, journal: Journal, layout: Layout, stats: ChannelStats | None
) -> Preprocessing:
    """Move images to their places and write tables and manifest, unless they are up to date."""
    splits = split_rows(plan.rows, journal)
    entries = [one for split in splits for one in split.entries]
    facts = replace(plan.manifest, layout=layout, stats=stats, image_bytes=sum(one.size_bytes for one in entries))
    fingerprint = json_sha256([plan.rows.to_json(orient="split"), [asdict(one) for one in entries], facts.to_json()])
    earlier = _earlier(folder)
    if earlier is not None and journal.noted(_FINISHED) == {"fingerprint": fingerprint, "digest": earlier.digest}:
        nothing_waits = not any(path.is_file() for path in journal.staging.rglob("*"))
        if nothing_waits and all(is_intact(folder, table) for table in earlier.tables):
            _clear(journal, plan)
            return earlier
    restore_images(intact_shards(folder), journal)  # before any of them is overwritten
    (folder / PREPROCESSING_FILE).unlink(missing_ok=True)
    if layout == "files":
        expected = {file for one in entries for file in (one.file, one.mask_file) if file}
        _move(folder, journal, expected)
        tables = [write_metadata(folder, split) for split in splits]
    else:
        expected = set()
        tables = [table for split in splits for table in write_shards(folder, journal, split, facts.class_names)]
    _remove_all_but(folder, expected | {table.path for table in tables})
    finished = replace(facts, tables=tuple(tables))
    finished.save(folder)
    journal.note(_FINISHED, {"fingerprint": fingerprint, "digest": finished.digest})
    _clear(journal, plan)
    return finished


def _move(folder: Path, journal: Journal, files: set[str]) -> None:
    """Move files from the staging folder to their places."""
    for file in sorted(files):
        waiting = journal.staging / file
        if waiting.exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            waiting.replace(folder / file)


def _remove_all_but(folder: Path, expected: set[str]) -> None:
    """Delete images and tables of earlier exports."""
    for name in DATA_FOLDERS:
        for path in sorted([folder / name, *(folder / name).rglob("*")], reverse=True):  # contents before their folder
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.exists() and path.relative_to(folder).as_posix() not in expected:
                path.unlink()


def _clear(journal: Journal, plan: ExportPlan) -> None:
    """Remove what is no longer needed."""
    journal.keep_only(set(plan.rows["place"]))
    shutil.rmtree(journal.staging, ignore_errors=True)
