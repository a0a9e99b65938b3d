"""The quality of many slides as a table, a row each, that a later run goes on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.errors import UndecidedImageError, UnsupportedImageError
from wsidata.jobs.pools import outcomes, refuse_forks
from wsidata.quality.measure import METHOD, SlideQuality, measure_quality
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.slide import Slide
from wsidata.staging.copying import is_one_file
from wsidata.stats.gather import Failure
from wsidata.utils.files import atomic_write

COLUMNS = ("image", "path", *(one.name for one in fields(SlideQuality)), "bytes", "modified_ns", "settings", "error")
SAVED_EVERY_S = 30.0


def quality_table(
    images: Mapping[str, str] | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    options: SlideOptions = AS_STORED,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure the quality of slides; those that cannot be read have the reason in the column `error`.

    Args:
        images: Paths by name, or paths.
        out: CSV file to write, as slides are done. Its rows are kept where the file is the same (path, size and time)
            and `settings` are, so that a run that was stopped goes on. Measured again are rows with an error, slides
            on servers, and those of several files (OME-Zarr, MRXS, DICOM).
        options: How slides are opened.
        executor: A `concurrent.futures.Executor` to spread the slides over: `wsidata.jobs.pools.process_pool`. None:
            one after the other, here.
        progress: Called with (slides done, slides in all).

    Returns:
        A row per slide, the worst first: those with an error, then by `lost_share`. Columns: `image`, `path`, those of
        `SlideQuality`, `bytes` and `modified_ns` of the file, `settings` (the version of the method, and options that
        are not the usual ones), and `error` ("" if there is none).

    Raises:
        FileExistsError: if `out` exists and is no such table.
        ValueError: if `options` choose channels, which have no colors.
        PoolError: if the executor ends.
    """
    if not options.has_colors:
        raise ValueError(
            f"channels={options.channels} have no colors, and quality is that of stained tissue on bright glass. Leave "
            "channels= out, and fluorescence slides out of the table."
        )
    refuse_forks(executor)
    named = dict(images) if isinstance(images, Mapping) else {Path(one).name: str(one) for one in images}
    if len(named) < len(images):
        raise ValueError("several slides have the same file name. Pass a mapping from names of your own to paths.")
    done = {} if out is None else _known(Path(out), named, options)
    waiting = [(name, path) for name, path in named.items() if name not in done]
    saved_at = time.monotonic()
    with closing(outcomes(partial(_row, options), waiting, executor, name=lambda one: one[1])) as found:
        for (name, path), outcome in found:
            row = _failed(name, path, outcome) if isinstance(outcome, Exception) else outcome
            done[name] = {**row, "settings": _settings(options)}
            if progress is not None:
                progress(len(done), len(named))
            if out is not None and time.monotonic() - saved_at > SAVED_EVERY_S:
                _save(_sorted(done), Path(out))
                saved_at = time.monotonic()
    table = _sorted(done)
    if out is not None:
        _save(table, Path(out))
    return table


def _row(options: SlideOptions, item: tuple[str, str]) -> dict[str, Any]:
    """The row of a slide; errors of the slide are part of it."""
    name, path = item
    try:
        with Slide.from_options(path, options) as slide:
            measured = asdict(measure_quality(slide))
    except UndecidedImageError as error:
        hint = " Quality is measured of red, green and blue only: leave fluorescence slides out of the table."
        return _failed(name, path, UnsupportedImageError(f"{error}{hint}") if error.channel_names else error)
    except Exception as error:  # any decoder's error is reported with the name of its file
        return _failed(name, path, error)
    return {"image": name, "path": path, **measured, **_file(path), "error": ""}


def _failed(name: str, path: str, error: Exception) -> dict[str, Any]:
    return {"image": name, "path": path, **_file(path), "error": Failure.of(error, path).reason}


def _file(path: str) -> dict[str, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return {"bytes": -1, "modified_ns": -1}
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _settings(options: SlideOptions) -> str:
    """All that numbers depend on beside the file, as text."""
    usual = asdict(AS_STORED)
    chosen = {**asdict(options), "mpp_override": options.override}
    said = [f"{name}={value!r}" for name, value in chosen.items() if value != usual[name]]
    return ", ".join([f"method {METHOD}", *said])


def _known(out: Path, named: Mapping[str, str], options: SlideOptions) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run that hold."""
    if not out.is_file() or not out.stat().st_size:
        return {}
    try:
        table = pd.read_csv(out, keep_default_na=True, dtype={"image": str, "path": str, "error": str})
    except (ValueError, OSError):
        table = pd.DataFrame()
    if list(table.columns.drop("settings", errors="ignore")) != [name for name in COLUMNS if name != "settings"]:
        raise FileExistsError(f"'{out}' exists and is no table of quality. Name another file with out=.")
    rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    return {
        row["image"]: {**row, "error": ""}
        for row in rows
        if pd.isna(row["error"])
        and row.get("settings") == _settings(options)
        and named.get(row["image"]) == row["path"]
        and _is_same(row)
    }


def _is_same(row: Mapping[str, Any]) -> bool:
    """Whether a file is that of its row, as far as its size and time tell."""
    try:
        is_known = is_one_file(Path(row["path"]))
    except OSError:  # also of addresses
        return False
    return is_known and _file(row["path"]) == {"bytes": row["bytes"], "modified_ns": row["modified_ns"]}


def _sorted(rows: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows.values()), columns=list(COLUMNS))
    order = table.assign(failed=table["error"] != "").sort_values(
        ["failed", "lost_share", "image"], ascending=[False, False, True], kind="stable"
    )
    return table.loc[order.index].reset_index(drop=True)


def _save(table: pd.DataFrame, out: Path) -> None:
    with atomic_write(out) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n")
