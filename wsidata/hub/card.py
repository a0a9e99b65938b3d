"""The dataset card (README.md) of an export, for people and for the Hub's search and viewer.

This module owns the front matter's `configs`, `dataset_info` and `size_categories`, and the text between two marks.
Everything else belongs to the user and is preserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from wsidata.hub.manifest import CARD_FILE, COLUMNS, PREPROCESSING_FILE, Preprocessing
from wsidata.tables.targets import ONE_CLASS
from wsidata.utils.files import write_text

BEGIN = "<!-- written by slidestream: text between these two lines is replaced when the data set is published again -->"
END = "<!-- end of what slidestream writes: text below is yours, and stays -->"
_OURS = ("configs", "dataset_info", "size_categories")
_TASKS = {
    "class": ["image-classification"],
    "ordinal": ["image-classification"],
    "multilabel": ["image-classification"],
    "regression": ["image-feature-extraction"],
    "survival": ["image-feature-extraction"],
    "mask": ["image-segmentation"],
}
_TAGS = {
    "slides": ["medical", "biology", "histology", "histopathology", "digital-pathology", "whole-slide-image"],
    "photos": ["photos"],
}
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"))


class CardError(ValueError):
    """A card cannot be read, or was changed both locally and on the Hub."""


@dataclass(frozen=True)
class CardText:
    """The user's part of a card; None leaves what the card says.

    Attributes:
        license: The Hub's identifier, such as "cc-by-4.0", or "other".
        title: Name of the dataset.
        description: A paragraph on content and origin.
        tags: Additional tags.
    """

    license: str | None = None
    title: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()


def write_card(folder: Path, preprocessing: Preprocessing, rows: pd.DataFrame, text: CardText) -> str:
    """Write or update README.md of an export.

    Args:
        folder: The export.
        preprocessing: The manifest.
        rows: Result of `privacy.published_rows`.
        text: The user's part.

    Returns:
        The card.

    Raises:
        CardError: if the front matter of an existing card cannot be read.
    """
    path = folder / CARD_FILE
    existing = path.read_text(encoding="utf-8") if path.exists() else ""
    card = merged_card(existing, preprocessing, rows, text)
    if card != existing:
        write_text(path, card)
    return card


def merged_card(existing: str, preprocessing: Preprocessing, rows: pd.DataFrame, text: CardText) -> str:
    """The card, with the user's part of the existing one."""
    front, body = split_card(existing)
    ours = _front_matter(preprocessing, rows)
    tags = [*(front.get("tags") or ours["tags"]), *text.tags]
    given = {"license": text.license, "pretty_name": text.title}
    merged = {**ours, **_users_front(front)}
    merged |= {"tags": list(dict.fromkeys(tags))} | {name: value for name, value in given.items() if value is not None}
    return f"---\n{_yaml(merged)}---\n{replace_ours(body, _body(preprocessing, rows, merged, text.description))}"


def split_card(card: str, source: str = CARD_FILE) -> tuple[dict[str, Any], str]:
    """Front matter and body of a card.

    Raises:
        CardError: if the front matter is not a YAML mapping.
    """
    if not card.startswith("---\n"):
        return {}, card
    front, mark, body = card.removeprefix("---\n").partition("\n---\n")
    if not mark:
        raise CardError(f"the front matter of '{source}' does not end: a line of --- is missing.")
    try:
        content = yaml.safe_load(front) or {}
    except yaml.YAMLError as error:
        raise CardError(f"the front matter of '{source}' is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise CardError(f"the front matter of '{source}' is not a mapping of names to values.")
    return content, body


def replace_ours(body: str, ours: str) -> str:
    """A body with the generated part replaced, or put first."""
    written = f"{BEGIN}\n{ours}\n{END}\n"
    if BEGIN in body and END in body:
        before, _, rest = body.partition(BEGIN)
        return before + written + rest.partition(END)[2].removeprefix("\n")
    return f"\n{written}" + (f"\n{body.lstrip()}" if body.strip() else "\n")


def users_part(card: str) -> tuple[dict[str, Any], str]:
    """The user's part of a card: front matter and text that are not generated."""
    front, body = split_card(card)
    before, _, rest = body.partition(BEGIN)
    return _users_front(front), (before + rest.partition(END)[2]).strip()


def _users_front(front: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in front.items() if name not in _OURS}


def _front_matter(preprocessing: Preprocessing, rows: pd.DataFrame) -> dict[str, Any]:
    """The generated front matter, in a fixed order."""
    size = next((name for limit, name in _SIZES if len(rows) < limit), "n>1M")
    front: dict[str, Any] = {
        "license": "unknown",
        "task_categories": _TASKS[preprocessing.target],
        "size_categories": [size],
        "tags": [*_TAGS[preprocessing.kind], "image", "slidestream"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": _pattern(preprocessing, split)} for split in preprocessing.splits
                ],
            }
        ],
    }
    return {**front, "dataset_info": {"features": _features(preprocessing, rows)}}


def _pattern(preprocessing: Preprocessing, split: str) -> str:
    return f"{split}/**" if preprocessing.layout == "files" else f"data/{split}-*"


def _features(preprocessing: Preprocessing, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Columns in the Hub's schema, with class names."""
    names = {str(number): name for number, name in enumerate(preprocessing.class_names)}
    features: list[dict[str, Any]] = [{"name": "image", "dtype": "image"}]
    if preprocessing.target == "mask":
        features.append({"name": "mask", "dtype": "image"})
    written = {*rows.columns, "width", "height", "mpp_x", "mpp_y", "sha256"}
    written |= {"mask_sha256"} if preprocessing.target == "mask" else set()
    for name in (column for column in COLUMNS if column in written):
        dtype = {"class_label": {"names": names}} if name == "label" and names else COLUMNS[name]
        features.append({"name": name, "list" if name == "target" else "dtype": dtype})
    return features


def _body(preprocessing: Preprocessing, rows: pd.DataFrame, front: dict[str, Any], description: str | None) -> str:
    """The generated text."""
    sections = [f"# {front.get('pretty_name') or 'A published split'}"]
    sections += [description] if description else []
    sections += [
        f"{len(rows):,} images, {preprocessing.image_bytes / 1e6:,.1f} MB, published with "
        f"[slidestream](https://pypi.org/project/slidestream/) {preprocessing.versions.get('slidestream', '')}. "
        f"Its manifest is `{PREPROCESSING_FILE}`.",
        f"## Splits\n\n{_counts(preprocessing, rows)}\n\n{_rule(preprocessing, rows)}",
        f"## Images\n\n{_images(preprocessing)}",
        f"## Channel statistics\n\n{_statistics(preprocessing)}",
        f"## How to load it\n\n{_loading(preprocessing)}",
        f"## Personal and sensitive information\n\n{_privacy(preprocessing, rows)}",
    ]
    return "\n\n".join(sections) + "\n"


def _counts(preprocessing: Preprocessing, rows: pd.DataFrame) -> str:
    """Table of image counts by split and class."""
    names = list(preprocessing.class_names) if preprocessing.target in ONE_CLASS else []
    lines = ["| split | images | " + "".join(f"{_cell(name)} | " for name in names)]
    lines.append("|---|---|" + "---|" * len(names))
    for split in preprocessing.splits:
        ours = rows[rows["split"] == split]
        counts = "".join(f"{int((ours['label_name'] == name).sum())} | " for name in names)
        lines.append(f"| {split} | {len(ours)} | {counts}")
    return "\n".join(line.rstrip() for line in lines)


def _cell(name: str) -> str:
    return name.replace("|", "\\|")


def _rule(preprocessing: Preprocessing, rows: pd.DataFrame) -> str:
    """How the split was made, according to its arguments."""
    given = preprocessing.arguments
    facts = [f"seed {given['seed']}"] if given.get("seed") is not None else []
    if given.get("k_fold"):
        facts.append(f"fold {given['k_fold'][0]} of {given['k_fold'][1]} is the validation split")
    elif given.get("val_fraction") is not None:
        facts.append(f"val_fraction {given['val_fraction']} and test_fraction {given.get('test_fraction', 0)}")
    by = "event and time" if preprocessing.target == "survival" else "class"
    facts.append(f"stratified by {by}" if given.get("stratify") else "not stratified")
    facts.append("groups (patients) are never divided" if "group" in rows.columns else "without groups")
    facts += ["drawn by case, of whose images all are one sample (column `case`)"] if "case" in rows.columns else []
    return (
        f"Rows without a predefined split were drawn with: {', '.join(facts)}. Digest of the split: "
        f"`{preprocessing.split_digest[:16]}`."
    )


def _images(preprocessing: Preprocessing) -> str:
    given = preprocessing.arguments
    names = ("level", "mpp", "magnification", "downsample", "max_side", "resize_px")
    read = [f"{name}={given[name]}" for name in names if given.get(name) is not None]
    crop = preprocessing.crop
    facts = [
        f"Read at {', '.join(read) or 'full size'}" + (f", cropped to tissue ({crop['kind']})." if crop else "."),
        f"Encoded as {preprocessing.encoding.format}"
        + ("" if preprocessing.encoding.lossless else f" of quality {preprocessing.encoding.quality}")
        + (", lossless." if preprocessing.encoding.lossless else "."),
    ]
    for part, transforms in preprocessing.transforms.items():
        done = f"`{transforms.applied}`" if transforms.applied else "nothing"
        facts.append(f"Applied of the {part} transform: {done}.")
    facts.append("Nothing random has been applied. `mpp_x` and `mpp_y` are the resolution in um/px, where known.")
    return "\n".join(f"- {fact}" for fact in facts)


def _statistics(preprocessing: Preprocessing) -> str:
    stats = preprocessing.stats
    if stats is None:
        return "Not published."
    shown = [", ".join(f"{value:.6f}" for value in values) for values in (stats.mean, stats.std)]
    return (
        f"Of the training images as the data module reads them ({stats.image_count} images, {stats.count_px:,} pixels, "
        f"{stats.reduction}), on the scale 0..1:\n\n- mean {shown[0]}\n- standard deviation {shown[1]}"
    )


def _loading(preprocessing: Preprocessing) -> str:
    lines = [
        "```python",
        "from wsidata import HubDataModule",
        "",
        'dm = HubDataModule("this/repository")  # or the folder; the same splits, classes and statistics',
        "```",
        "",
        "or, without slidestream (images above 13,378 x 13,378 pixels need `decode=False`):",
        "",
        "```python",
        "from datasets import Image, load_dataset",
        "",
        f'ds = load_dataset("this/repository", split="{preprocessing.splits[0]}")',
        'ds = ds.cast_column("image", Image(decode=False))',
        "```",
    ]
    return "\n".join(lines)


def _privacy(preprocessing: Preprocessing, rows: pd.DataFrame) -> str:
    ids = "Image ids were replaced by numbers." if preprocessing.opaque_ids else "Image ids are those of the source."
    columns = ", ".join(f"`{name}`" for name in rows.columns if name not in ("split", "place"))
    return (
        f"Files hold pixels and nothing else: no label or macro image, scanner description, EXIF or color profile. "
        f"Published columns: {columns}. {ids}"
    )


def unfinished_card(existing: str) -> str:
    """The card during an upload: the user's part, and a warning in place of the generated text."""
    front, body = split_card(existing)
    theirs = _users_front(front)
    written = f"---\n{_yaml(theirs)}---\n" if theirs else ""
    return written + replace_ours(body, "This dataset is being uploaded, and is **not complete**.\n")


def agreed_card(local: str, remote: str, base: str | None) -> str:
    """Three-way merge of a card's local and remote versions.

    Args:
        local: The folder's, whose generated part is kept.
        remote: The repository's; "" if there is none.
        base: The last version common to both; None if there never was one, and the repository's is preferred.

    Raises:
        CardError: if the user changed the same part in both.
    """
    if not remote:
        return local
    front, body = split_card(local)
    (local_front, local_text), (remote_front, remote_text) = users_part(local), users_part(remote)
    never_same = {name: value for name, value in local_front.items() if name in remote_front}, ""
    base_front, base_text = never_same if base is None else users_part(base)
    text_of_remote = _changed_by("the text", local_text, remote_text, base_text)
    merged: dict[str, Any] = {}
    for name in [*front, *(name for name in remote_front if name not in front)]:
        ours, theirs, was = (one.get(name) for one in (local_front, remote_front, base_front))
        value = theirs if _changed_by(f"'{name}'", ours, theirs, was) else ours
        value = front[name] if name in _OURS else value
        merged |= {} if value is None else {name: value}
    section = body.partition(BEGIN)[2].partition(END)[0].removeprefix("\n").removesuffix("\n")
    chosen = split_card(remote)[1] if text_of_remote else body
    return f"---\n{_yaml(merged)}---\n{replace_ours(chosen, section)}"


def _changed_by(what: str, local: Any, remote: Any, base: Any) -> bool:
    """Whether the remote version is kept; changes on both sides raise `CardError`."""
    if local == base:
        return True
    if remote in (base, local):
        return False
    raise CardError(
        f"{what} of {CARD_FILE} was changed both in the folder and on the Hub. Make them the same in one of the two "
        "places, and publish again."
    )


def _yaml(content: dict[str, Any]) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
