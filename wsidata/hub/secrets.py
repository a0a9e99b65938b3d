"""Words that must not occur in an export, such as folders, the user's name and ids of the source.

The allowlist of `privacy` decides what is published; this is the check that nothing else slipped through, on the very
bytes that would be uploaded.
"""

from __future__ import annotations

import getpass
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from wsidata.hub.card import CardError, split_card, users_part
from wsidata.hub.image_metadata import metadata_in
from wsidata.hub.manifest import CARD_FILE, IMAGE_DIGESTS, PREPROCESSING_FILE, Preprocessing
from wsidata.hub.privacy import PrivacyError
from wsidata.utils.confine import Confinement
from wsidata.utils.messages import describe_problems

_WORD = re.compile(r"[^\W_]+")
_MAX_FOLDERS, _DEEP = 100, 2
_SHORTEST_NAME = 4
_SHORTEST_NUMBER = 6
"""Shorter numbers are found everywhere."""

_ACCOUNTS = ("root", "admin", "administrator", "guest", "nobody", "ubuntu", "debian", "centos", "docker", "runner",
             "jovyan", "vscode", "jupyter", "student", "scratch")  # fmt: skip
"""User names that are no one's."""


@dataclass(frozen=True)
class Secrets:
    """Words that must not be published.

    Attributes:
        folders: Absolute paths, which are also looked for as beginnings of longer ones.
        user: Name of the user's account; "" if it is unknown.
        names: Ids and the like.
        said: Texts that are published on purpose; words of theirs are no secrets.
    """

    folders: tuple[str, ...] = ()
    user: str = ""
    names: frozenset[str] = frozenset()
    said: tuple[str, ...] = ()
    _index: dict[str, set[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: defaultdict[str, set[str]] = defaultdict(set)
        said = set(self.said)
        for name in self.names:
            for spelled in {name, re.sub(r"[^A-Za-z0-9_-]+", "_", name)}:  # as it is, and as in a file name
                words = list(_WORD.finditer(spelled))
                if words and spelled not in said and _is_telling([word.group() for word in words]):
                    index[words[0].group()].add(spelled[words[0].start() : words[-1].end()])
        object.__setattr__(self, "_index", dict(index))

    @classmethod
    def of_machine(
        cls, folders: Iterable[str | Path] = (), names: Iterable[str] = (), said: Iterable[str] = ()
    ) -> Secrets:
        """The home folder and the name of the user, and what is passed."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError, ImportError):  # no account
            user = ""
        known = {str(spelled) for path in (Path.home(), *folders) for spelled in _spellings(path)}
        return cls(_shortest(known), user, frozenset(names), tuple(said))

    def in_text(self, text: str) -> str | None:
        """What of it a text holds, as a clause; None if nothing."""
        for folder in self.folders:
            if folder in text and re.search(rf"(?<![\w.:/\\-]){re.escape(folder)}(?![\w-])", text):
                return f"the folder '{folder}'"
        if self.user and self.user in text and self._user_pattern.search(text):
            return f"the user's name '{self.user}'"
        for word in _WORD.finditer(text) if self._index else ():
            for name in self._index.get(word.group(), ()):
                start, stop = word.start(), word.start() + len(name)
                around = text[start - 1 : start] + text[stop : stop + 1]
                if text[start:stop] == name and not re.search(r"[\w-]", around):
                    return f"the id '{name}'"
        return None

    @property
    def _user_pattern(self) -> re.Pattern[str]:
        """The user's name in a path; and as a word, unless it is said on purpose, or a word of every export."""
        name = re.escape(self.user)
        ordinary = len(self.user) < _SHORTEST_NAME or self.user in _ACCOUNTS or self.user.lower() in _words_of_exports()
        if ordinary or any(re.search(rf"\b{name}\b", text) for text in self.said):
            return re.compile(rf"(?:(?:home|Users)[/\\]+|~){name}(?![\w-])")
        return re.compile(rf"(?<![\w-]){name}(?![\w-])")


def _shortest(paths: Iterable[str]) -> tuple[str, ...]:
    """Folders of which no other is a beginning; of very many, those above them."""
    kept: list[str] = []
    for path in sorted(one for one in paths if len(Path(one).parts) > 1):
        if not kept or not path.startswith(kept[-1] + os.sep):
            kept.append(path)
    above = {str(Path(path).parent) for path in kept if len(Path(path).parts) > _DEEP}
    return _shortest(above | set(kept)) if len(kept) > _MAX_FOLDERS and above else tuple(kept)


def _spellings(path: str | Path) -> Iterator[Path]:
    absolute = Path(os.path.abspath(Path(path).expanduser()))
    yield absolute
    yield Path(os.path.realpath(absolute))


def _is_telling(words: list[str]) -> bool:
    """Whether an id would not be found in any export by chance."""
    if len(words) > 1:
        return sum(map(len, words)) >= _SHORTEST_NAME
    (word,) = words
    if word.isdigit():
        return len(word) >= _SHORTEST_NUMBER
    return len(word) > 1 and word.lower() not in _words_of_exports()


@cache
def _words_of_exports() -> frozenset[str]:
    """Words that card and manifest of any export hold: those of the source they are made by."""
    folder = Path(__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.py")]
    return frozenset(word.group().lower() for text in texts for word in _WORD.finditer(text))


def check_rows(columns: Mapping[Any, Iterable[Any]], manifest: str, secrets: Secrets) -> None:
    """Check what is planned, before anything is written.

    Args:
        columns: The published columns.
        manifest: JSON of the manifest so far.
        secrets: What must not be there.

    Raises:
        PrivacyError: naming each place.
    """
    texts = {f"{PREPROCESSING_FILE}, {place}": text for place, text in _of_json(json.loads(manifest), "")}
    texts |= {f"column '{name}'": "\n".join(dict.fromkeys(map(str, values))) for name, values in columns.items()}
    _refuse("what would be published", _found(texts.items(), secrets), "Nothing was written or sent.")


def check_export(folder: Path, preprocessing: Preprocessing, secrets: Secrets, *, images: bool = True) -> None:
    """Check every byte of a finished export that would be uploaded.

    Args:
        folder: The export.
        preprocessing: Its manifest.
        secrets: What must not be there.
        images: Whether to look for metadata in the images as well, which reads them.

    Raises:
        PrivacyError: naming each file and place.
    """
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    theirs = Secrets(secrets.folders, secrets.user, secrets.names, (*secrets.said, *_users_words(card)))
    problems = list(_found(_of_card(card), theirs))
    manifest = (folder / PREPROCESSING_FILE).read_text(encoding="utf-8")
    texts = ((f"{PREPROCESSING_FILE}, {place}", text) for place, text in _of_json(json.loads(manifest), ""))
    problems += _found(texts, secrets)
    confine = Confinement(folder, error=PrivacyError)
    for table in preprocessing.tables:
        path = confine(table.path, PREPROCESSING_FILE)
        problems += [f"{table.path}, {problem}" for problem in _found(_of_table(path), secrets)]
        if images:
            problems += _in_images(confine, path, table.path)
    _refuse(str(folder), problems, "Nothing was sent.")


def _refuse(source: str, problems: Iterable[str], so_far: str) -> None:
    found = list(problems)
    if found:
        remedy = (
            f"{so_far} Take it out of names, labels, class names or the card's text, pass opaque_ids=True for ids, or "
            "give the file or folder another name."
        )
        raise PrivacyError(describe_problems(source, found, remedy))


def _found(texts: Iterable[tuple[str, str]], secrets: Secrets) -> Iterator[str]:
    for place, text in texts:
        found = secrets.in_text(text)
        if found is not None:
            yield f"{place} holds {found}"


def _users_words(card: str) -> list[str]:
    """What the user wrote into the card: a name there is there on purpose."""
    try:
        front, text = users_part(card)
    except CardError:
        return []
    return [yaml.safe_dump(front, allow_unicode=True), text]


def _of_card(card: str) -> Iterator[tuple[str, str]]:
    yield CARD_FILE, card
    try:
        front, _ = split_card(card)
    except CardError:
        return
    for place, text in _of_json(front, ""):
        yield f"{CARD_FILE}, {place}", text


def _of_json(content: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text inside a value, with its place."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield place, str(name)
            yield from _of_json(value, f"{place}.{name}" if place else str(name))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _of_json(value, f"{place}[{number}]")


def _of_table(path: Path) -> Iterator[tuple[str, str]]:
    """Every text of a Parquet file apart from the bytes of images: metadata, names and values of columns."""
    with pq.ParquetFile(path) as file:
        for name, value in {**(file.metadata.metadata or {}), b"created_by": file.metadata.created_by.encode()}.items():
            if name != b"ARROW:schema":  # the schema in another form
                yield f"metadata {name.decode(errors='replace')!r}", value.decode(errors="replace")
        schema = file.schema_arrow
        yield "the names of columns", "\n".join(schema.names)
        for name in schema.names:
            kind = schema.field(name).type
            column = f"{name}.path" if pa.types.is_struct(kind) and name in IMAGE_DIGESTS else name
            if column == name and not _is_text(kind):
                continue
            for group in range(file.num_row_groups):
                values = file.read_row_group(group, columns=[column]).column(name).combine_chunks()
                texts = values.field("path") if column != name else values
                yield f"column '{column}'", "\n".join(filter(None, texts.cast(pa.string()).to_pylist()))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind))


def _in_images(confine: Callable[[object, str], Path], path: Path, name: str) -> Iterator[str]:
    """Metadata in the images that a table holds or names."""
    above = Path(name).parent
    with pq.ParquetFile(path) as file:
        names = set(file.schema_arrow.names)
        wanted = [one for one in (*IMAGE_DIGESTS, "file_name", "mask_file_name") if one in names]
        for number, batch in enumerate(file.iter_batches(batch_size=1, columns=wanted)):
            for column, value in batch.to_pylist()[0].items():
                if column in IMAGE_DIGESTS:
                    where, image = f"{name}, {column} of row {number}", value["bytes"]
                else:
                    where = (above / value).as_posix()
                    image = confine(where, name)
                problem = metadata_in(image)
                if problem is not None:
                    yield f"{where} holds {problem}"
