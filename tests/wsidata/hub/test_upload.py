"""Uploads to the local Hub, each in its own process."""

import json
import shutil

import pytest

from wsidata.hub.manifest import PREPROCESSING_FILE, Preprocessing
from wsidata.hub.repository import Destination, PublishError
from wsidata.hub.upload import published_files, upload

pytestmark = pytest.mark.slow  # processes, servers or large files of their own

REPO = "tester/split"
UPLOAD = """
import json, sys
from wsidata.hub.client import Patience
from wsidata.hub.repository import Destination, PublishError
from wsidata.hub.upload import upload
from wsidata.hub.card import CardError
to = Destination("tester/split", patience=Patience(3, 0.05), **json.loads(sys.argv[2]))
try:
    done = upload(sys.argv[1], to)
    print("DONE", done.commit, done.url, done.private)
except (PublishError, CardError) as error:
    print("REFUSED", error)
"""
PUBLISH = """
import sys
from wsidata import WSIDataModule, publish
from wsidata.hub.repository import PublishError
dm = WSIDataModule(sys.argv[1] + "/evaluation/reference.csv", sys.argv[1] + "/images", test_prefix="test_", level=1,
                   image_size=64, num_workers=0)
try:
    print(publish(dm, "tester/split", folder=sys.argv[2], quiet=True, private=sys.argv[3] == "private"))
except PublishError as error:
    print("REFUSED", error)
"""


@pytest.fixture
def folder(exports, tmp_path):
    shutil.copytree(exports / "files", tmp_path / "export")
    return tmp_path / "export"


def send(hub, folder, token="hf_owner", **options):
    run = hub.python(UPLOAD, folder, json.dumps(options), token=token)
    assert run.returncode == 0, run.stderr
    return run.stdout


def on_hub(hub, revision="main"):
    return hub.repository(REPO)["files"][revision]


def commits(hub):
    return hub.repository(REPO)["messages"][1:]


def test_without_a_token_nothing_is_sent(folder, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(PublishError, match=r"no access token, so nothing was sent. Run `hf auth login`"):
        upload(folder, Destination(REPO, endpoint="http://127.0.0.1:9"))


def test_pull_requests_are_against_main():
    with pytest.raises(ValueError, match="leave out revision="):
        Destination(REPO, create_pr=True, revision="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: next((folder / "train").rglob("*.png")).unlink(), r"train/.*png is missing"),
        (lambda folder: (folder / "train" / "notes.txt").write_text("x"), r"train/notes.txt was not exported"),
        (lambda folder: (folder / "test" / "metadata.parquet").unlink(), r"test/metadata.parquet is missing or was"),
    ],
)
def test_folder_that_is_not_as_exported_is_refused(folder, change, message):
    change(folder)
    with pytest.raises(PublishError, match=message):
        published_files(folder, Preprocessing.load(folder))


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_all_of_it_arrives_and_a_second_time_nothing_is_sent(hub, exports, tmp_path, layout):
    shutil.copytree(exports / layout, tmp_path / "export")
    folder = tmp_path / "export"
    assert send(hub, folder).splitlines()[-1].startswith("DONE")
    assert hub.repository(REPO)["private"]
    expected = {*published_files(folder, Preprocessing.load(folder)), "README.md", PREPROCESSING_FILE}
    assert set(on_hub(hub)) == expected
    for path in expected:
        assert hub.content(REPO, path) == (folder / path).read_bytes()
    assert commits(hub) == ["Begin to publish", "Add images", "Publish 16 images"]
    hub.clear()
    assert "has all of it already" in send(hub, folder)
    assert {request["method"] for request in hub.log()} == {"GET", "HEAD"}


def test_public_repository_is_refused_before_anything_is_sent(hub, camelyon, folder):
    assert "DONE" in send(hub, folder, private=False)
    hub.clear()
    run = hub.python(PUBLISH, camelyon, folder.parent / "other", "private")
    first, last = run.stdout.splitlines()[0], run.stdout.splitlines()[-1]
    assert first.startswith("Private at 'tester/split': 16 images")
    assert last.startswith("REFUSED 'tester/split' is public, and private=True was requested")
    assert {request["method"] for request in hub.log()} == {"GET"}
    assert not (folder.parent / "other").exists()


def test_private_repository_takes_a_public_dataset_only_when_told(hub, folder):
    assert "DONE" in send(hub, folder)
    hub.clear()
    out = send(hub, folder, private=False)
    assert "REFUSED 'tester/split' exists and is private, and private=False was requested" in out
    assert "into_private=True (--into-private)" in out
    assert {request["method"] for request in hub.log()} == {"GET"}
    out = send(hub, folder, private=False, into_private=True)
    assert "exists and is private; it stays so" in out
    assert "DONE" in out
    assert hub.repository(REPO)["private"]


def test_publishing_to_everybody_says_so_first(hub, camelyon, tmp_path):
    run = hub.python(PUBLISH, camelyon, tmp_path / "out", "public")
    assert run.stdout.startswith("PUBLIC, for everybody, at 'tester/split': 16 images (10 train, 2 validation, 4 test)")
    assert "(PUBLIC)" in run.stdout
    assert not hub.repository(REPO)["private"]


def test_interrupted_upload_is_marked_and_resumes(hub, folder):
    hub.fail("POST", r"/commit/main", times=1)  # repeated
    hub.fail("PUT", r".*", times=200, status=403)  # which the client does not repeat for minutes
    out = send(hub, folder)
    assert "REFUSED" in out
    assert "marked as not complete" in out
    found = on_hub(hub)
    assert set(found) == {"README.md"}
    assert b"not complete" in hub.content(REPO, "README.md")
    hub.clear()
    assert "DONE" in send(hub, folder)
    assert b"not complete" not in hub.content(REPO, "README.md")
    assert PREPROCESSING_FILE in on_hub(hub)


def test_replaced_version_is_never_half_published(hub, exports, folder):
    send(hub, folder)
    hub.fail("POST", r"/commit/main", times=1, status=403, message="no")
    shutil.rmtree(folder)
    shutil.copytree(exports / "parquet", folder)
    assert "REFUSED" in send(hub, folder)
    assert PREPROCESSING_FILE in on_hub(hub)  # nothing had begun
    hub.clear()
    hub.fail("PUT", r".*", times=200, status=403)
    assert "REFUSED" in send(hub, folder)
    assert PREPROCESSING_FILE not in on_hub(hub)
    hub.clear()
    assert "DONE" in send(hub, folder)
    assert set(on_hub(hub)) == {*published_files(folder, Preprocessing.load(folder)), "README.md", PREPROCESSING_FILE}


@pytest.mark.parametrize(("status", "how"), [(409, "status"), (412, "status"), (503, "status"), (0, "drop")])
def test_requests_to_a_busy_hub_are_retried(hub, folder, status, how):
    hub.fail("POST", r"/commit/main", times=2, status=status or 503, how=how)
    out = send(hub, folder)
    assert out.count("Trying again") == 2
    assert "DONE" in out


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (403, "forbidden", "may not write there"),
        (507, "full", "storage of 'tester' is used up"),
        (503, "x", "does not answer"),
    ],
)
def test_refusals_are_explained(hub, folder, status, message, said):
    hub.fail("POST", r"/api/repos/create", times=20, status=status, message=message)
    out = send(hub, folder)
    assert "nothing was sent" in out
    assert said in out


def test_reader_may_not_publish_and_wrong_tokens_are_told(hub, folder):
    assert "may not write there" in send(hub, folder, token="hf_reader")
    assert "access token is not valid" in send(hub, folder, token="hf_wrong")


def test_no_network(hub, folder):
    hub.stop()
    assert "the Hub does not answer" in send(hub, folder)


def test_branches_and_pull_requests_leave_main_alone(hub, folder):
    assert "DONE" in send(hub, folder, revision="v1")
    assert PREPROCESSING_FILE in on_hub(hub, "v1")
    assert PREPROCESSING_FILE not in on_hub(hub)
    out = send(hub, folder, create_pr=True)
    assert "/discussions/1" in out
    assert set(on_hub(hub, "refs/pr/1")) == set(on_hub(hub, "v1"))
    assert PREPROCESSING_FILE not in on_hub(hub)


def test_other_data_of_a_repository_is_not_removed(hub, folder):
    other = (
        "from huggingface_hub import HfApi; api = HfApi(); api.create_repo('tester/split', repo_type='dataset', "
        "private=True); api.upload_file(repo_id='tester/split', repo_type='dataset', path_or_fileobj=b'x', "
        "path_in_repo='data/mine.csv')"
    )
    assert hub.python(other).returncode == 0
    out = send(hub, folder)
    assert "holds other data (data/mine.csv)" in out
    assert set(on_hub(hub)) == {"data/mine.csv"}


def test_text_written_on_the_hub_is_kept(hub, folder):
    send(hub, folder)
    edit = (
        "from huggingface_hub import HfApi; api = HfApi(); text = open(api.hf_hub_download('tester/split', "
        "'README.md', repo_type='dataset')).read().replace('license: unknown', 'license: mit') + 'Thanks to all.\\n'; "
        "api.upload_file(repo_id='tester/split', repo_type='dataset', path_or_fileobj=text.encode(), "
        "path_in_repo='README.md')"
    )
    assert hub.python(edit).returncode == 0
    send(hub, folder)
    card = hub.content(REPO, "README.md").decode()
    assert card.endswith("Thanks to all.\n")
    assert "license: mit" in card
    assert (folder / "README.md").read_text() == card
