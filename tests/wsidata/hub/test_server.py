"""The test server behaves like a Hub to the real client libraries."""

import json

import pytest

pytestmark = pytest.mark.slow  # processes, servers or large files of their own

PUSH = """
import io, sys
import numpy as np
from PIL import Image as Picture
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
def rows(n):
    for i in range(n):
        out = io.BytesIO()
        Picture.fromarray(np.full((8, 8, 3), i, np.uint8)).save(out, "PNG")
        yield {"image": {"bytes": out.getvalue(), "path": f"{i}.png"}, "label": i % 2}
features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
data = DatasetDict({s: Dataset.from_generator(rows, gen_kwargs={"n": n}, features=features)
                    for s, n in (("train", 4), ("test", 2))})
data.push_to_hub("tester/photos", private=True)
"""
LOAD = """
from datasets import load_dataset
data = load_dataset("tester/photos")
print(data["train"].features["label"].names, [int(r["image"].getpixel((0, 0))[0]) for r in data["train"]])
print(len(list(load_dataset("tester/photos", split="test", streaming=True))))
"""
UPLOAD = """
import sys
from huggingface_hub import HfApi, snapshot_download
from pathlib import Path
api = HfApi()
api.create_repo("tester/files", repo_type="dataset", private=True, exist_ok=True)
info = api.upload_folder(repo_id="tester/files", repo_type="dataset", folder_path=sys.argv[1], **eval(sys.argv[2]))
root = Path(snapshot_download("tester/files", repo_type="dataset", revision=info.oid))
print(sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()))
"""


def done(run):
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_datasets_pushes_and_loads(hub):
    done(hub.python(PUSH))
    found = hub.repository("tester/photos")
    assert found["private"]
    assert sorted(found["files"]["main"]) == [
        "README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet",
    ]  # fmt: skip
    assert done(hub.python(LOAD, token="hf_reader")) == "['a', 'b'] [0, 1, 2, 3]\n2\n"
    assert hub.python(LOAD, token=None).returncode != 0


def test_folders_are_uploaded_in_part_by_git_and_downloaded_whole(hub, tmp_path):
    folder = tmp_path / "folder"
    (folder / "train" / "ä b").mkdir(parents=True)
    (folder / "train" / "ä b" / "x.jpg").write_bytes(b"jpeg" * 1000)
    (folder / "info.json").write_text(json.dumps({"a": 1}))
    files = "['info.json', 'train/ä b/x.jpg']\n"
    assert done(hub.python(UPLOAD, folder, {})) == files
    assert {path: facts["lfs"] for path, facts in hub.repository("tester/files")["files"]["main"].items()} == {
        "info.json": False, "train/ä b/x.jpg": True,
    }  # fmt: skip
    (folder / "info.json").unlink()
    assert done(hub.python(UPLOAD, folder, {"delete_patterns": "*.json", "create_pr": True})) == "['train/ä b/x.jpg']\n"
    assert sorted(hub.repository("tester/files")["files"]) == ["main", "refs/pr/1"]


def test_failures_happen_as_often_as_ordered(hub, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.jpg").write_bytes(b"jpeg" * 100_000)
    hub.fail("PUT", "_lfs", status=503)
    hub.fail("GET", "resolve/.*/x.jpg", how="cut")
    assert done(hub.python(UPLOAD, tmp_path / "folder", {})) == "['x.jpg']\n"
    puts = [line["status"] for line in hub.log() if line["method"] == "PUT"]
    assert puts == [503, 200]
    assert hub.content("tester/files", "x.jpg") == b"jpeg" * 100_000
    (tmp_path / "folder" / "x.jpg").write_bytes(b"other")
    hub.fail("POST", "commit", how="drop")
    assert "disconnected" in hub.python(UPLOAD, tmp_path / "folder", {}).stderr
    assert "412" in hub.python(UPLOAD, tmp_path / "folder", {"parent_commit": "0" * 40}).stderr  # main has moved


def test_tokens_control_access(hub, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for token, said in ((None, "401"), ("hf_reader", "403"), ("hf_unknown", "401")):
        assert said in hub.python(UPLOAD, tmp_path, {}, token=token).stderr
