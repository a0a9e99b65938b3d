"""Small HTTP server with the Hub endpoints that huggingface_hub and datasets use, over their LFS path.

python server.py FOLDER PORT_FILE

`local_hub.LocalHub` starts it in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote

import yaml
from connection import BLOCK, Connection, DroppedError, Failure, State
from repositories import Entry, RefusedError, Repository, list_folder, upload_mode

OWNER, READER = "hf_owner", "hf_reader"
"""The two known tokens: of a user with write access, and of one with read access only."""

USER = "tester"


class Handler(Connection):
    """The endpoints."""

    def route(self, raw_path: str) -> None:
        """The endpoint of a path; paths are matched quoted, since revisions may contain slashes."""
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, raw_path)
            if found and self.command in method.split("|"):
                answer(self, *(unquote(group or "") for group in found.groups()))
                self.finish_body()
                return
        raise RefusedError(404, f"no such endpoint: {self.command} {self.route_path}")

    # -- who asks ------------------------------------------------------------------------------------------------------

    @property
    def token(self) -> str | None:
        """The token of the request."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def reader(self) -> str | None:
        """The reading user, or None for anonymous access."""
        if self.token is not None and self.token not in (OWNER, READER):
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.token

    def writer(self) -> None:
        """Refuse users without write access."""
        if self.reader() is None:
            raise RefusedError(401, "Invalid username or password.")
        if self.token != OWNER:
            raise RefusedError(403, "Forbidden: you must use a write token to upload to a repository.")

    def repository(self, repo_id: str, *, write: bool = False) -> Repository:
        """The requested repository."""
        found = self.server.hub.find(repo_id, self.reader())
        if write:
            self.writer()
        return found

    @property
    def address(self) -> str:
        """Of this server."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    # -- accounts and repositories -------------------------------------------------------------------------------------

    def whoami(self) -> None:
        """GET /api/whoami-v2."""
        if self.reader() is None:
            raise RefusedError(401, "Invalid username or password.")
        role = "write" if self.token == OWNER else "read"
        token = {"displayName": role, "role": role}
        self.reply({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": token}})

    def create(self) -> None:
        """POST /api/repos/create."""
        self.writer()
        asked = self.json_body()
        owner = asked.get("organization") or USER
        if owner != USER:
            raise RefusedError(403, f'You don\'t have the rights to create a dataset under the namespace "{owner}".')
        private = asked.get("private") is True or asked.get("visibility") == "private"
        repo_id = f"{owner}/{asked['name']}"
        url = f"{self.address}/datasets/{repo_id}"
        if repo_id in self.server.hub.repositories:
            raise RefusedError(409, "You already created this dataset repo", url=url)
        self.server.hub.repositories[repo_id] = Repository(repo_id, private)
        self.reply({"url": url, "id": repo_id})

    def info(self, repo_id: str, revision: str = "") -> None:
        """GET /api/datasets/ID[/revision/REV]."""
        self.reply(self.repository(repo_id).as_json(revision or "main"))

    def settings(self, repo_id: str) -> None:
        """PUT /api/datasets/ID/settings."""
        repository, asked = self.repository(repo_id, write=True), self.json_body()
        repository.private = asked.get("private", asked.get("visibility") == "private")
        self.reply({"private": repository.private})

    def refs(self, repo_id: str) -> None:
        """GET /api/datasets/ID/refs."""
        repository = self.repository(repo_id)
        shown = [
            {"name": name, "ref": name if name.startswith("refs/") else f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in repository.branches.items()
        ]
        requests = [ref for ref in shown if ref["ref"].startswith("refs/pr/")]
        branches = [ref for ref in shown if ref not in requests]
        self.reply({"branches": branches, "tags": [], "converts": [], "pullRequests": requests})

    def branch(self, repo_id: str, name: str) -> None:
        """POST /api/datasets/ID/branch/NAME."""
        repository, asked = self.repository(repo_id, write=True), self.json_body()
        repository.branch(name, asked.get("startingPoint", "main"))
        self.reply({}, 201)

    # -- writing -------------------------------------------------------------------------------------------------------

    def preupload(self, repo_id: str, revision: str) -> None:
        """POST /api/datasets/ID/preupload/REV."""
        tree = self.repository(repo_id, write=True).tree(revision)
        files = []
        for asked in self.json_body()["files"]:
            path, mode = asked["path"], upload_mode(asked["path"], asked["size"])
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in tree:
                answer["oid"] = tree[path].sha256 if tree[path].lfs else tree[path].oid
            files.append(answer)
        self.reply({"files": files})

    def lfs_batch(self, repo_id: str) -> None:
        """POST /datasets/ID.git/info/lfs/objects/batch."""
        self.repository(repo_id, write=True)
        objects = []
        for asked in self.json_body()["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if not self.server.hub.objects.has(asked["oid"]):
                actions = {"upload": f"{self.address}/_lfs/{asked['oid']}", "verify": f"{self.address}/_lfs/verify"}
                answer["actions"] = {name: {"href": href} for name, href in actions.items()}
            objects.append(answer)
        self.reply({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        """PUT an object, whose content must match its name."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.server.hub.uploads, delete=False) as file:
            for block in self.blocks():
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != oid:
            Path(file.name).unlink()
            raise RefusedError(400, f"the content of {oid} has the digest {digest.hexdigest()}")
        self.server.hub.objects.adopt(Path(file.name), oid)
        self.head(200, {"Content-Length": "0", "ETag": f'"{oid}"'})

    def lfs_verify(self) -> None:
        """POST after an upload."""
        asked = self.json_body()
        path = self.server.hub.objects.path(asked["oid"])
        if not path.is_file() or path.stat().st_size != asked["size"]:
            raise RefusedError(404, f"object {asked['oid']} of {asked['size']} bytes is not here")
        self.reply({})

    def commit(self, repo_id: str, revision: str) -> None:
        """POST /api/datasets/ID/commit/REV."""
        repository = self.repository(repo_id, write=True)
        lines = [json.loads(line) for line in b"".join(self.blocks()).splitlines() if line.strip()]
        hub = self.server.hub
        with hub.lock:
            made = repository.commit(revision, lines, hub.objects, self.query.get("create_pr") == ["1"])
        url = f"{self.address}/datasets/{repo_id}"
        answer = {"success": True, "commitOid": made["commit"], "commitUrl": f"{url}/commit/{made['commit']}"}
        if made["pull_request"]:
            answer["pullRequestUrl"] = f"{url}/discussions/{made['pull_request']}"
        self.reply(answer)

    def validate_yaml(self) -> None:
        """POST /api/validate-yaml: whether the card's front matter is YAML, and a mapping."""
        text = self.json_body()["content"]
        found = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
        try:
            parsed = yaml.safe_load(found[1]) if found else {}
            errors = [] if isinstance(parsed, dict) else [{"message": "the metadata is no mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)

    # -- reading -------------------------------------------------------------------------------------------------------

    def tree(self, repo_id: str, revision: str, folder: str = "") -> None:
        """GET /api/datasets/ID/tree/REV[/FOLDER]."""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        self.reply(list_folder(self.repository(repo_id).tree(revision), folder, recursive))

    def paths_info(self, repo_id: str, revision: str) -> None:
        """POST /api/datasets/ID/paths-info/REV."""
        tree, body = self.repository(repo_id).tree(revision), b"".join(self.blocks())
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode())["paths"]
        top = {entry["path"]: entry for entry in list_folder(tree, "", recursive=True)}
        self.reply([top[path] for path in paths if path in top])

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        """HEAD or GET /datasets/ID/resolve/REV/PATH, or a range of it."""
        repository = self.repository(repo_id)
        commit = repository.commit_of(revision)
        entry = repository.commits[commit].get(path)
        if entry is None:
            headers = {"X-Repo-Commit": commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.reply({"error": "Entry not found"}, 404, headers)
            return
        self.send_file(entry, commit)

    def send_file(self, entry: Entry, commit: str) -> None:
        """Send a file, or the requested range."""
        etag = entry.sha256 if entry.lfs else entry.oid
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if entry.lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(entry.size)}
        start, stop, status = 0, entry.size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, status = int(asked[1]), 206
            stop = min(entry.size, int(asked[2]) + 1) if asked[2] else entry.size
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
        self.head(status, headers | {"Content-Length": str(stop - start)})
        if self.command == "HEAD":
            return
        left = (stop - start) // 2 if self.cut else stop - start
        with self.server.hub.objects.path(entry.sha256).open("rb") as file:
            file.seek(start)
            while left:
                block = file.read(min(BLOCK, left))
                self.wfile.write(block)
                left -= len(block)
        if self.cut:
            raise DroppedError

    # -- the tests' own ------------------------------------------------------------------------------------------------

    def control_log(self) -> None:
        """GET /_control/log."""
        self.reply(self.server.log)

    def control_clear(self) -> None:
        """POST /_control/clear: clear the log and injected failures."""
        self.server.log.clear()
        self.server.failures.clear()
        self.reply({})

    def control_fail(self) -> None:
        """POST /_control/fail."""
        self.server.failures.append(Failure(**self.json_body()))
        self.reply({})

    def control_put(self) -> None:
        """POST /_control/put: a folder of this machine becomes the main branch."""
        asked, hub = self.json_body(), self.server.hub
        repository = hub.repositories.setdefault(asked["repo_id"], Repository(asked["repo_id"], asked["private"]))
        self.reply(repository.replace(Path(asked["folder"]), hub.objects))

    def control_repository(self, repo_id: str) -> None:
        """GET /_control/repository/ID: all of it, whoever asks."""
        found = self.server.hub.repositories.get(repo_id)
        if found is None:
            raise RefusedError(404, "no such repository")
        files = {
            name: {path: {"size": e.size, "sha256": e.sha256, "lfs": e.lfs} for path, e in found.tree(name).items()}
            for name in found.branches
        }
        facts = {"private": found.private, "branches": found.branches, "messages": found.messages}
        self.reply({**facts, "files": files})


DATASET, REVISION = r"/api/(?:datasets|models)/([^/]+/[^/]+)", "([^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/_control/log", Handler.control_log),
    ("POST", r"/_control/clear", Handler.control_clear),
    ("POST", r"/_control/fail", Handler.control_fail),
    ("POST", r"/_control/put", Handler.control_put),
    ("GET", r"/_control/repository/(.+)", Handler.control_repository),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("GET", DATASET, Handler.info),
    ("GET", f"{DATASET}/revision/{REVISION}", Handler.info),
    ("PUT", f"{DATASET}/settings", Handler.settings),
    ("GET", f"{DATASET}/refs", Handler.refs),
    ("POST", f"{DATASET}/branch/{REVISION}", Handler.branch),
    ("POST", f"{DATASET}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"{DATASET}/commit/{REVISION}", Handler.commit),
    ("GET", f"{DATASET}/tree/{REVISION}(?:/(.+))?", Handler.tree),
    ("POST", f"{DATASET}/paths-info/{REVISION}", Handler.paths_info),
    ("POST", r"/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/_lfs/([0-9a-f]{64})", Handler.lfs_put),
    ("POST", r"/_lfs/verify", Handler.lfs_verify),
    ("GET|HEAD", r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
]


def main() -> None:
    """Serve until killed."""
    folder, port_file = Path(sys.argv[1]), Path(sys.argv[2])
    server = State(folder, Handler)
    written = port_file.with_suffix(".part")
    written.write_text(str(server.server_address[1]))
    written.rename(port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
