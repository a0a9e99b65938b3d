"""Label tables of slides, read and checked.

Missing slides, misspelled labels and repeated rows are all reported at once, before any slide is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import pandas as pd

from wsidata.errors import UnsupportedImageError
from wsidata.remote.address import is_address, shown
from wsidata.tables.bare_folder import read_bare_folder
from wsidata.tables.class_folders import read_class_folders
from wsidata.tables.class_names import ClassNames
from wsidata.tables.find_slides import AddressFolder, ImageFolder, ImageLookupError, MaskFolder
from wsidata.tables.name_table import nfc
from wsidata.tables.targets import TARGETS, Decimal, Target, empty_cells, read_targets
from wsidata.tables.text_table import TableError, TextTable, read_text_table
from wsidata.utils.messages import check_choice, describe_problems

COLUMNS = ("image_id", "path", "label_name", "label", "group", "site", "split")
"""Columns of `LabelTable.frame`, always all of them and in this order; `FURTHER_COLUMNS` may follow."""

FURTHER_COLUMNS = ("case", "target", "mask")
"""Columns that are there if they say something."""


@dataclass(frozen=True)
class LabelTable:
    """Slides with their labels, checked.

    Attributes:
        frame: One row per slide, in the order of the source, index 0, 1, ...:

            - `image_id` (str): path below the image folder without slide suffix; unique; names the slide in splits and
              predictions.
            - `path` (str): the file.
            - `label_name` (str): class name, or the target as text; "" in a table without labels.
            - `label` (int): index into `class_names`, -1 where the target is not one class.
            - `group` (str): patient or other unit that stays in one split, "" if no group column was given.
            - `site` (str): center or scanner, "" if no site column was given.
            - `split` (str): what the split column says (see `make_splits`), "" if none was given.
            - `case` (str): patient or other unit whose slides are one sample, if a case column is given; see `by_case`.
            - `target` (tuple of floats): several labels (0 or 1 each), or numbers.
            - `mask` (str): the file of the mask or annotations; "" where nothing is outlined.
        class_names: Name of class 0, 1, ...
        source: File name of the table, for messages.
        target: Kind of the targets; see `targets`.
    """

    frame: pd.DataFrame
    class_names: tuple[str, ...]
    source: str
    target: Target = "class"


def read_table(
    table: str | Path | pd.DataFrame,
    image_dir: str | Path | None = None,
    *,
    image_column: str = "image",
    label_column: str | Sequence[str] | None = "class",
    target: Target = "class",
    decimal: Decimal = ".",
    class_names: ClassNames | None = None,
    mask_dir: str | Path | None = None,
    group_column: str | None = None,
    site_column: str | None = None,
    split_column: str | None = None,
    case_column: str | None = None,
    folder_type: Callable[[Path], ImageFolder] = ImageFolder,
    inspect: Callable[[Sequence[Path]], Sequence[str]] | None = None,
) -> LabelTable:
    """Read and check a table of slides.

    Ids and labels are text: leading zeros are kept, blanks around them removed.

    Args:
        table: CSV (comma, semicolon, tab; UTF-8 with or without byte-order mark), Parquet, or DataFrame; or a folder
            with a folder of images per class (see `class_folders`), for which `image_column` and `label_column` stay
            as they are; or, with `label_column=None`, a folder of images at any depth (see `bare_folder`).
        image_dir: Folder the images lie in. None: the table's own folder (for a DataFrame, the working folder). Of
            slides also an address, such as "https://host/slides": the table then names files below it, in full.
        image_column: Column of image names, with or without suffix and folders, relative to `image_dir` or absolute.
        label_column: Column (or columns) of labels, numbers or mask names. None for a table without labels, which can
            only be predicted on.
        target: "class", "ordinal", "multilabel", "regression", "mask" or "survival"; see `targets.read_targets`.
        decimal: Decimal mark of numbers in text: "." or ",". Numbers have no other mark; with ",", `1.5` is an error.
        class_names: Classes in their order, or a mapping; see `class_names.class_map`. None: the labels found, sorted.
        mask_dir: Folder the masks or annotations lie in. None: `image_dir`.
        group_column: Column of patients (or other groups).
        site_column: Column of centers, hospitals or scanners.
        split_column: Column that says train, val or test for some or all rows.
        case_column: Column of cases: all slides of one are one sample, with one label, group and split.
        folder_type: `ImageFolder` for slides, or `PhotoFolder` for photos; called with a path.
        inspect: Called with the files that were found; returns a line for each unusable one, to be reported with the
            problems of the table.

    Returns:
        The checked table.

    Raises:
        TableError: naming every missing column, missing or ambiguous file, duplicate, empty cell and unknown label, and
            every row that contradicts another one of its case.
        ValueError: if `target`, `case_column`, `label_column` and `class_names` do not go together.
    """
    check_choice("target", target, TARGETS)
    check_choice("decimal", decimal, (".", ","))
    if case_column is not None and target == "mask":
        raise ValueError("target='mask' is one mask a slide, and a case has several slides. Leave out case_column=.")
    if label_column is None and _is_folder(table):
        folder = _image_folder(table, image_dir, folder_type)
        text = read_bare_folder(table, nfc(image_column), folder)
    else:
        text, folder, split_column = _open(table, image_dir, split_column, folder_type)
    label_columns = [nfc(name) for name in ([label_column] if isinstance(label_column, str) else label_column or ())]
    image_column = nfc(image_column)
    group_column, site_column, split_column, case_column = (
        None if name is None else nfc(name) for name in (group_column, site_column, split_column, case_column)
    )
    extra = {"group": group_column, "site": site_column, "split": split_column}
    extra |= {} if case_column is None else {"case": case_column}
    _check_columns(text, [image_column, *label_columns, *(column for column in extra.values() if column is not None)])
    named = {*extra.values(), *(() if target == "mask" else label_columns)} - {None}
    for column in named:  # é and e with an accent are one label; names of files stay as they are
        text.frame[column] = text.frame[column].map(nfc)
    masks = folder if mask_dir is None else _folder(mask_dir, "mask_dir", folder_type)
    if target == "mask" and isinstance(masks, AddressFolder):
        raise TableError("masks and annotations are not read from servers: download them, and pass mask_dir=.")
    masks = MaskFolder(masks.root) if target == "mask" else masks
    problems = list(text.problems)
    paths, ids = _find_images(text, image_column, folder, problems)
    targets = read_targets(text, target, label_columns, class_names, masks, decimal)
    problems += targets.problems
    for column in (group_column, site_column, case_column):
        problems += empty_cells(text, column) if column else []
    if case_column is not None:
        said = {"label": targets.columns["label_name"]}
        said |= {name: text.frame[one].tolist() for name in ("group", "split") if (one := extra[name])}
        problems += _doubtful_cases(text.frame[case_column].tolist(), text.places)
        problems += _contradictions(text.frame[case_column].tolist(), said, text.places)
    unusable = [] if inspect is None else inspect([Path(path) for path in paths if path])
    if problems or unusable:
        skip = " Files that cannot be read are left out with on_error='skip'." if unusable else ""
        raise TableError(describe_problems(text.source, [*problems, *unusable], text.remedy + skip))
    columns = {
        "image_id": list(ids),
        "path": paths,
        **targets.columns,
        **{name: text.frame[column].tolist() if column else "" for name, column in extra.items()},
    }
    order = [*COLUMNS, *(name for name in FURTHER_COLUMNS if name in columns)]
    return LabelTable(pd.DataFrame(columns, columns=order), targets.class_names, text.source, target)


def by_case(table: pd.DataFrame) -> pd.DataFrame:
    """The samples of a table of slides: a row for each case, in the order of their first slides.

    Args:
        table: Rows of `LabelTable.frame`. Without the column `case` they are samples themselves, and returned.

    Returns:
        The columns of the table, but for `path` and `case`: `image_id` names the case, and `image_ids` and `paths`
        (tuples) its slides, in the order of the table. Index 0, 1, ....
    """
    if "case" not in table.columns:
        return table
    slides = table.groupby("case", sort=False)[["image_id", "path"]].agg(tuple)
    first = table.drop_duplicates("case").drop(columns=["image_id", "path"]).reset_index(drop=True)
    first.insert(0, "image_id", first.pop("case"))
    return first.assign(
        image_ids=slides["image_id"].reindex(first["image_id"]).tolist(),
        paths=slides["path"].reindex(first["image_id"]).tolist(),
    )


def slides_of(samples: pd.DataFrame) -> pd.DataFrame:
    """The slides of `by_case`, case after case; other tables as they are."""
    if "paths" not in samples.columns:
        return samples
    named = samples.drop(columns="image_id").rename(columns={"image_ids": "image_id", "paths": "path"})
    return named.explode(["image_id", "path"], ignore_index=True)


def _doubtful_cases(cases: Sequence[str], places: Sequence[str]) -> list[str]:
    """A problem for each case that is no name, which would join strangers, or is that of another one but for its form.

    Numbers are of one form with and without leading zeros and decimals, text in upper and lower case.
    """
    first: dict[str, int] = {}
    known = {""}
    problems = []
    for row, (case, place) in enumerate(zip(cases, places, strict=True)):
        if case in known:
            continue
        known.add(case)
        form = " ".join(case.casefold().split())
        number = re.fullmatch(r"0*([0-9]+)(\.0*)?", form)
        before = first.setdefault(number[1] if number else form, row)
        if form in _NO_CASE:
            problems.append(f"{place}: case '{case}' names nobody, and all rows that say so would be one sample")
        elif before != row:
            problems.append(
                f"{place}: case '{case}' differs from '{cases[before]}' in {places[before]} in form only: write both "
                "alike if they are one, and otherwise by clearly different names"
            )
    return problems


def _contradictions(cases: Sequence[str], said: Mapping[str, Sequence[str]], places: Sequence[str]) -> list[str]:
    """A problem for each row that says something else than the first of its case; no label is none of them."""
    first: dict[str, int] = {}
    problems = []
    for row, (case, place) in enumerate(zip(cases, places, strict=True)):
        before = first.setdefault(case, row)
        for name, values in said.items():
            ours, theirs = values[row], values[before]
            if case and ours != theirs and (name != "label" or (ours and theirs)):
                problems.append(
                    f"{place}: case '{case}' has the {name} '{ours}' here, and '{theirs}' in {places[before]}: a case "
                    f"is one sample, and has one {name}"
                )
    return problems


def _open(
    table: str | Path | pd.DataFrame,
    image_dir: str | Path | None,
    split_column: str | None,
    folder_type: Callable[[Path], ImageFolder],
) -> tuple[TextTable, ImageFolder, str | None]:
    """The cells, the folder of the images, and the column of the split."""
    if _is_folder(table):
        folder = _image_folder(table, image_dir, folder_type)
        text = read_class_folders(table, folder.is_image_name)
        return text, folder, "split" if "split" in text.frame.columns else split_column
    if is_address(image_dir):
        return read_text_table(table), _address_folder(str(image_dir), folder_type), split_column
    return read_text_table(table), _folder(image_root(table, image_dir), "image_dir", folder_type), split_column


def _address_folder(address: str, folder_type: Callable[[Path], ImageFolder]) -> ImageFolder:
    if folder_type is not ImageFolder:
        raise TableError(
            f"image_dir='{shown(address)}' is an address, and only slides are read from servers. Download it."
        )
    try:
        return AddressFolder(address)
    except UnsupportedImageError as error:
        raise TableError(f"image_dir: {error}") from error


def _is_folder(table: str | Path | pd.DataFrame) -> TypeGuard[str | Path]:
    return not isinstance(table, pd.DataFrame) and Path(table).is_dir()


def _image_folder(
    table: str | Path, image_dir: str | Path | None, folder_type: Callable[[Path], ImageFolder]
) -> ImageFolder:
    """The folder that stands in place of a table, and so holds the images."""
    if image_dir is not None and Path(image_dir).absolute() != Path(table).absolute():
        raise TableError(f"table '{table}' is a folder, and holds the images: leave out image_dir.")
    return _folder(table, "table", folder_type)


def image_root(table: str | Path | pd.DataFrame, image_dir: str | Path | None) -> Path:
    """Folder of a table's names: `image_dir`, or the table's own; the working folder for a DataFrame."""
    if image_dir is not None:
        return Path(image_dir).absolute()
    if isinstance(table, pd.DataFrame):
        return Path.cwd()
    return Path(table).absolute() if Path(table).is_dir() else Path(table).absolute().parent


def _folder(path: str | Path, argument: str, folder_type: Callable[[Path], ImageFolder]) -> ImageFolder:
    folder = folder_type(Path(path).absolute())
    if not folder.root.is_dir():
        raise TableError(f"image folder '{folder.root}' does not exist. Check {argument}.")
    return folder


def _check_columns(text: TextTable, columns: list[str]) -> None:
    """Raise for missing columns, naming the existing ones."""
    existing = list(text.frame.columns)
    absent = [name for name in columns if name not in existing]
    if not absent:
        return
    near = [column for column in existing for name in absent if column.lower() == name.lower()]
    hint = f" Did you mean {near}?" if near else ""
    raise TableError(
        f"table '{text.source}' has no column {absent}; its columns are {existing}.{hint} "
        "Pass image_column=, label_column=, group_column=, case_column= or split_column= accordingly."
    )


_FEW = 3
_NO_CASE = {"na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "none", "null", "unknown", "missing", "-", "--", "?"}


def _find_images(
    text: TextTable, column: str, folder: ImageFolder, problems: list[str]
) -> tuple[list[str], dict[str, str]]:
    """The file of every row ("" for none), and the ids; names without a file, and repeated ones, become `problems`."""
    was_number = column in text.numeric_columns
    hint = "; this column holds numbers, so leading zeros are lost: read it as text (dtype=str)" if was_number else ""
    ids: dict[str, str] = {}
    files: dict[str, str] = {}
    real_folders: dict[str, str] = {}
    paths: list[str] = []
    missing: list[str] = []
    for name, place in zip(text.frame[column].tolist(), text.places, strict=True):
        path = ""
        if not name:
            problems.append(f"{place}: column '{column}' is empty")
        else:
            try:
                path = folder.find_text(name)
            except ImageLookupError as error:
                missing.append(f"{place}: {error}{hint}")
                problems.append(missing[-1])
        paths.append(path)
        if path:
            above, last = os.path.split(path)
            if above not in real_folders:
                real_folders[above] = os.path.realpath(above)
            file = os.path.join(real_folders[above], last)
            file = os.path.realpath(file) if os.path.islink(file) else path if file == path else file  # less memory
            image_id = folder.image_id(path)
            before = ids.get(image_id) or files.get(file)
            if before is not None:
                problems.append(f"{place}: {folder.noun} '{image_id}' ({last}) was already named in {before}")
            ids.setdefault(image_id, place)
            files.setdefault(file, place)
    if len(missing) > _FEW and not any(paths):  # another folder or column: one reason is enough
        problems[:] = [problem for problem in problems if problem not in set(missing)]
        problems.append(f"none of the {len(missing)} names in column '{column}' is a file, among them {missing[0]}")
    return paths, ids
