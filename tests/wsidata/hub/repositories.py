"""Repositories of the test server, with commits, branches, pull requests and objects.

Small on purpose, and strict where the Hub is: an object that was never uploaded cannot be committed, and a commit on a
parent that has moved is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

LFS_SUFFIXES = (".parquet", ".arrow", ".jpg", ".jpeg", ".png", ".webp", ".tiff", ".bmp", ".gif", ".zip", ".tar")
"""What the Hub's default .gitattributes of a dataset stores beside git."""

LFS_BYTES = 10 * 1024**2
POINTER_BYTES = 134


class RefusedError(Exception):
    """An error answer: a status, and the code by which clients distinguish errors."""

    def __init__(self, status: int, message: str, code: str | None = None, url: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.url = status, message, code, url


@dataclass(frozen=True)
class Entry:
    """A file of a commit."""

    oid: str
    size: int
    lfs: bool
    sha256: str

    def as_json(self, path: str) -> dict[str, Any]:
        """As the tree and paths-info endpoints show it."""
        shown: dict[str, Any] = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.lfs:
            shown["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": POINTER_BYTES}
        return shown


Tree = dict[str, Entry]


class Objects:
    """Contents by SHA-256, on disk, so that the server stays small."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Path of a content."""
        return self.folder / sha256

    def has(self, sha256: str) -> bool:
        """Whether it was uploaded."""
        return self.path(sha256).is_file()

    def add(self, content: bytes) -> Entry:
        """Keep the content of a file that is stored in git."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.path(sha256).write_bytes(content)
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Entry(git, len(content), False, sha256)

    def adopt(self, temporary: Path, sha256: str) -> None:
        """Keep what was uploaded to a temporary file."""
        shutil.move(temporary, self.path(sha256))


@dataclass
class Repository:
    """One dataset."""

    repo_id: str
    private: bool
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    pull_requests: int = 0

    def __post_init__(self) -> None:
        self.branches["main"] = self._store({}, "initial commit")

    def commit_of(self, revision: str) -> str:
        """The commit a branch or hash means."""
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def tree(self, revision: str) -> Tree:
        """The files of a revision."""
        return self.commits[self.commit_of(revision)]

    def branch(self, name: str, start: str) -> None:
        """Make a branch."""
        if name in self.branches:
            raise RefusedError(409, f"Reference already exists: {name}")
        self.branches[name] = self.commit_of(start)

    def commit(self, revision: str, lines: list[dict[str, Any]], objects: Objects, create_pr: bool) -> dict[str, Any]:
        """Apply the lines of a commit request."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        if revision not in self.branches and not create_pr:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        parent = self.commit_of(revision)
        if header.get("parentCommit") not in (None, parent):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(self.commits[parent])
        for line in lines:
            self._apply(line["key"], line["value"], tree, objects)
        number = None
        if create_pr:
            self.pull_requests += 1
            number, revision = self.pull_requests, f"refs/pr/{self.pull_requests}"
        self.branches[revision] = self._store(tree, header.get("summary", ""))
        return {"commit": self.branches[revision], "pull_request": number}

    def replace(self, folder: Path, objects: Objects) -> str:
        """Commit the files of a folder, hidden ones left out, and nothing else, to the main branch."""
        tree: Tree = {}
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            if not name.startswith("."):
                entry = objects.add(file.read_bytes())
                lfs = upload_mode(name, entry.size) == "lfs"
                tree[name] = Entry(entry.oid, entry.size, lfs, entry.sha256)
        self.branches["main"] = self._store(tree, "put")
        return self.branches["main"]

    def _apply(self, key: str, value: dict[str, Any], tree: Tree, objects: Objects) -> None:
        if key == "lfsFile":
            if not objects.has(value["oid"]):
                raise RefusedError(400, f"lfsFile {value['path']}: object {value['oid']} was never uploaded")
            tree[value["path"]] = Entry(value["oid"][:40], value["size"], True, value["oid"])
        elif key == "file":
            tree[value["path"]] = objects.add(base64.b64decode(value["content"]))
        elif key == "deletedFile":
            if tree.pop(value["path"], None) is None:
                raise RefusedError(400, f"deletedFile {value['path']}: no such file")
        elif key == "deletedFolder":
            for path in [path for path in tree if path.startswith(value["path"].rstrip("/") + "/")]:
                del tree[path]
        elif key != "header":
            raise RefusedError(400, f"unknown operation {key}")

    def _store(self, tree: Tree, message: str) -> str:
        facts = [len(self.messages), message, sorted((path, entry.oid) for path, entry in tree.items())]
        name = hashlib.sha1(json.dumps([self.repo_id, *facts]).encode()).hexdigest()
        self.commits[name] = tree
        self.messages.append(message)
        return name

    def as_json(self, revision: str) -> dict[str, Any]:
        """As the info endpoint shows it."""
        commit = self.commit_of(revision)
        files = [{"rfilename": path} for path in sorted(self.commits[commit])]
        return {
            "_id": hashlib.sha1(self.repo_id.encode()).hexdigest()[:24],
            "id": self.repo_id,
            "sha": commit,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "author": self.repo_id.split("/")[0],
            "siblings": files,
            "lastModified": "2026-01-01T00:00:00.000Z",
        }


def list_folder(tree: Tree, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders in a folder of a tree."""
    start = folder + "/" if folder else ""
    shown: dict[str, dict[str, Any]] = {}
    for path, entry in sorted(tree.items()):
        if not path.startswith(start):
            continue
        parts = path[len(start) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = start + "/".join(parts[:depth])
            oid = hashlib.sha1(name.encode()).hexdigest()
            shown[name] = {"type": "directory", "path": name, "oid": oid, "size": 0}
        if recursive or len(parts) == 1:
            shown[path] = entry.as_json(path)
    if folder and not shown:
        raise RefusedError(404, f"{folder} does not exist", "EntryNotFound")
    return list(shown.values())


class Hub:
    """All repositories, with access rights."""

    def __init__(self, folder: Path) -> None:
        self.objects = Objects(folder / "objects")
        self.uploads = folder / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        self.repositories: dict[str, Repository] = {}
        self.lock = Lock()

    def find(self, repo_id: str, reader: str | None) -> Repository:
        """A repository, if it exists and may be seen; the Hub does not say which of the two is wrong."""
        repository = self.repositories.get(repo_id)
        if repository is None or (repository.private and reader is None):
            raise RefusedError(404 if reader else 401, "Repository not found", "RepoNotFound")
        return repository


def upload_mode(path: str, size: int) -> str:
    """Whether a file goes into git or beside it."""
    return "lfs" if path.lower().endswith(LFS_SUFFIXES) or size > LFS_BYTES else "regular"
