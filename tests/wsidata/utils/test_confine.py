import os
import time

import pytest

from wsidata.errors import ConfinementError, SlideError
from wsidata.utils.confine import Confinement, confined


@pytest.fixture
def folder(tmp_path):
    """A folder with a file, beside a secret one."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.png").write_bytes(b"a")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "b.png").write_bytes(b"b")
    return tmp_path / "set"


def test_names_below_the_folder_are_paths(folder):
    assert confined(folder, "images/a.png", "a table") == folder / "images" / "a.png"
    assert confined(folder, str(folder / "images" / "a.png"), "a table") == folder / "images" / "a.png"
    assert confined(folder, "images/not-there.png", "a table") == folder / "images" / "not-there.png"


@pytest.mark.parametrize(
    "name",
    [
        "../secret/b.png", "images/../../secret/b.png", "images/../images/a.png", "/etc/passwd", "..", "", None, 3,
        "file:///etc/passwd", "zip://a.png::/x.zip", "images/a\0.png", "../set-2/a.png",
    ],
)  # fmt: skip
def test_names_that_lead_out_are_refused(folder, name):
    with pytest.raises(ConfinementError, match=r"^the table names .*only files in its own folder"):
        confined(folder, name, "the table")
    with pytest.raises(KeyError):
        confined(folder, name, "the table", error=KeyError)


def test_absolute_names_beside_the_folder_are_refused(folder):
    with pytest.raises(SlideError, match="leads out of"):
        confined(folder, str(folder) + "-2/a.png", "the table")
    with pytest.raises(SlideError, match="leads out of"):
        confined(folder, str(folder.parent / "secret" / "b.png"), "the table")


@pytest.mark.parametrize("name", ["link.png", "folder/b.png", "chain/b.png", "dangling.png"])
def test_links_out_of_the_folder_are_refused(folder, name):
    (folder / "link.png").symlink_to(folder.parent / "secret" / "b.png")
    (folder / "folder").symlink_to(folder.parent / "secret")
    (folder / "chain").symlink_to("folder")
    (folder / "dangling.png").symlink_to("/nowhere/x.png")
    with pytest.raises(ConfinementError, match=r"a link that leads out of '.*set' to '"):
        confined(folder, name, "a table")
    with pytest.raises(ConfinementError):
        confined(folder, str(folder / name), "a table")


def test_links_inside_and_to_allowed_folders_are_followed(folder, tmp_path):
    (folder / "again.png").symlink_to("images/a.png")
    (folder / "blob.png").symlink_to("../secret/b.png")
    (tmp_path / "name").symlink_to(folder)
    assert confined(folder, "again.png", "a table").read_bytes() == b"a"
    assert confined(tmp_path / "name", "images/a.png", "a table").read_bytes() == b"a"
    assert confined(folder, "blob.png", "a table", also=[tmp_path / "secret"]).read_bytes() == b"b"
    with pytest.raises(ConfinementError):
        confined(folder, "blob.png", "a table", also=[tmp_path / "sec"])


def test_named_pipes_are_refused_and_not_opened(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("pipe.png")
    for name in ("pipe.png", "link.png"):
        with pytest.raises(ConfinementError, match="neither a file nor a folder"):
            confined(folder, name, "a table")


def test_many_names_take_little_time(folder):
    confine = Confinement(folder)
    begun = time.process_time()
    for number in range(20_000):
        confine(f"images/{number}.png", "a table")
    assert time.process_time() - begun < 2  # 1 M rows in 100 s at worst; 0.3 s here
