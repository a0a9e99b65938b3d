"""TIFF slides on a web server, read by ranges: the pixels of the file, few requests, or an error."""

import pickle
import shutil

import fsspec
import numpy as np
import pytest
from web_server import serving

from wsidata.errors import UnreachableImageError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.kept import KEPT
from wsidata.slides.slide import Slide, slide_info
from wsidata.synthetic.slides import write_pixels
from wsidata.utils import retries


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1600, 3), dtype=np.uint8)
    write_pixels(folder / "a.svs", noise, vendor="aperio", tile=128)
    write_pixels(folder / "b.tif", noise[:80, :120], compression="deflate", tile=64)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    (folder / "login.tif").write_text("<!doctype html> please log in")
    (folder / "empty.tif").touch()
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as served:
        yield served


@pytest.fixture(autouse=True)
def _anew(server, monkeypatch):
    KEPT.clear()
    server.ranges = server.tags = True
    server.move = None
    server.status.clear()
    server.forget()
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)


def test_pixels_are_those_of_the_file(server, folder):
    for name in ("a.svs", "b.tif"):
        with Slide(folder / name) as local, Slide(f"{server.base}/{name}") as remote:
            assert (remote.kind, remote.reader, remote.mpp) == (local.kind, local.reader, local.mpp)
            assert (remote.levels, remote.is_one_file) == (local.levels, True)
            for level in range(local.level_count):
                np.testing.assert_array_equal(remote.numpy(level=level), local.numpy(level=level))
            np.testing.assert_array_equal(remote.numpy(downsample=3), local.numpy(downsample=3))
            assert list(remote.associated_images) == list(local.associated_images)
            for one in local.associated_images:
                np.testing.assert_array_equal(
                    remote.associated_images[one].numpy(), local.associated_images[one].numpy()
                )
            lazy, twin = remote.lazy(downsample=2), pickle.loads(pickle.dumps(remote))
            rows = local.lazy(downsample=2).rows(3, 30)
        np.testing.assert_array_equal(lazy.rows(3, 30), rows)  # when the slide is closed
        assert lazy.pixel_version is not None
        with twin, Slide(folder / name) as local:
            np.testing.assert_array_equal(twin.read_region(50, 40, 60, 20), local.read_region(50, 40, 60, 20))


def test_a_region_costs_few_requests_and_not_the_file(server, folder):
    size = (folder / "a.svs").stat().st_size
    with Slide(f"{server.base}/a.svs") as slide:
        opened = len(server.asked)
        assert opened <= 8
        assert server.sent_bytes < size / 2
        slide.read_region(500, 500, 300, 300)  # of 12 tiles
    assert len(server.asked) - opened <= 5
    assert server.sent_bytes < size / 2
    server.forget()
    with Slide(f"{server.base}/a.svs"):  # its structure was kept: is it the same file?
        assert server.asked == [("/a.svs", "bytes=0-0")]


def test_a_file_that_changes_is_refused(server, folder, tmp_path):
    name = "changing.svs"
    shutil.copy(folder / "a.svs", folder / name)
    with Slide(f"{server.base}/{name}") as slide:
        slide.read_region(0, 0, 64, 64, level=slide.level_count - 1)
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(UnreadableImageError, match=r"changing.svs' was replaced.*version .*Open it again"):
            slide.numpy(level=0)
    with Slide(f"{server.base}/{name}") as slide:
        assert slide.width == 1600
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImageError, match="is cut off"):
        Slide(f"{server.base}/{name}")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        Slide(f"{server.base}/{name}")


def test_a_server_that_fails_now_and_then_is_asked_again(server, monkeypatch):
    server.status += [503, 429, 500]
    with Slide(f"{server.base}/b.tif") as slide:
        assert slide.width == 120
    monkeypatch.setenv(retries.VARIABLE, "2")
    server.status += [503] * 3
    KEPT.clear()
    with pytest.raises(
        UnreachableImageError, match=r"b.tif' cannot be reached: reading it failed 3 times in a row.*server"
    ):
        Slide(f"{server.base}/b.tif")
    server.forget()
    server.status += [403]
    with pytest.raises(UnreachableImageError, match=r"answered 403 Forbidden\. Check the address"):
        Slide(f"{server.base}/b.tif")
    assert len(server.asked) == 1


def test_a_server_without_ranges_is_refused_at_once(server, folder):
    server.ranges = False
    with pytest.raises(UnsupportedImageError, match=r"sends whole files only.*Download the file once"):
        Slide(f"{server.base}/a.svs")
    assert len(server.asked) == 1
    with Slide(f"{server.base}/b.tif") as slide, Slide(folder / "b.tif") as local:
        np.testing.assert_array_equal(slide.numpy(), local.numpy())  # smaller than what is asked for at first


def test_what_is_no_tiff_is_named(server):
    for name, why in {
        "photo.jpg": "is no TIFF. From a server only TIFF and OME-Zarr are read. Download",
        "login.tif": "is a web page",
        "empty.tif": "is empty",
        "a.mrxs": "no such file",
    }.items():
        with pytest.raises((UnsupportedImageError, UnreadableImageError, FileNotFoundError), match=why):
            Slide(f"{server.base}/{name}")
    assert "no such file" in slide_info(f"{server.base}/none.tif").error


def test_secrets_are_not_shown_and_needed(server):
    address = f"{server.base}/b.tif?signature=secret"
    with Slide(address) as slide:
        assert (slide.path.name, "secret" in repr(slide)) == ("b.tif", False)
        with pytest.raises(UnsupportedImageError, match="without its query"):
            Slide(str(slide.path))
    assert server.asked[0][0] == "/b.tif?signature=secret"


def test_an_object_store_is_read_and_watched(folder):
    store = fsspec.filesystem("memory")
    store.pipe_file("/slides/a.svs", (folder / "a.svs").read_bytes())
    with Slide("memory://slides/a.svs") as slide, Slide(folder / "a.svs") as local:
        np.testing.assert_array_equal(slide.numpy(level=1), local.numpy(level=1))
        store.pipe_file("/slides/a.svs", (folder / "a.svs").read_bytes())
        with pytest.raises(UnreadableImageError, match="was replaced by another file"):
            slide.numpy(level=0)
    store.rm("/slides/a.svs")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Slide("memory://slides/a.svs")
