"""OME-Zarr on a server: the pixels of the folder, and a word about chunks that are not there."""

import shutil

import fsspec
import numpy as np
import pytest
import zarr
from web_server import serving

from wsidata.errors import ConfinementError, MissingChunksWarning, UnreadableImageError
from wsidata.slides.slide import Slide

PIXELS = np.random.default_rng(0).integers(1, 256, (3, 100, 150), dtype=np.uint8)


def write_zarr(folder, *, zarr_format=3, at="", **options):
    root = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    group = root.create_group(at) if at else root
    array = group.create_array("0", shape=PIXELS.shape, dtype="uint8", chunks=(1, 64, 64), **options)
    array[...] = PIXELS
    ome = {"multiscales": [{"version": "0.4", "axes": [{"name": axis} for axis in "cyx"], "datasets": [{"path": "0"}]}]}
    group.attrs.update({"ome": {**ome, "version": "0.5"}} if zarr_format == 3 else ome)
    if at:
        root.attrs["bioformats2raw.layout"] = 3
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_zarr(folder / "a.zarr")
    write_zarr(folder / "sharded.zarr", shards=(3, 128, 192))
    write_zarr(folder / "series.zarr", zarr_format=2, at="0")
    shutil.make_archive(folder / "b.zarr", "zip", folder / "a.zarr")
    with serving(folder) as served:
        served.folder = folder
        yield served


@pytest.mark.parametrize("name", ["a.zarr", "sharded.zarr", "series.zarr", "b.zarr.zip"])
def test_pixels_are_those_of_the_store(server, name):
    server.forget()
    with Slide(f"{server.base}/{name}", channels="rgb") as slide:
        assert (slide.kind, slide.width) == ("ome-zarr", 150)
        np.testing.assert_array_equal(slide.read_region(70, 10, 60, 40), PIXELS[:, 10:50, 70:130].transpose(1, 2, 0))
        assert "/a.zarr/0/c/0/0/0" not in {path for path, _ in server.asked}  # another chunk
        np.testing.assert_array_equal(slide.numpy(), PIXELS.transpose(1, 2, 0))


def test_chunks_that_a_server_does_not_have(server):
    shutil.copytree(server.folder / "a.zarr", server.folder / "holes.zarr")
    (server.folder / "holes.zarr/0/c/1/0/0").unlink()
    with Slide(f"{server.base}/holes.zarr", channels="rgb") as slide:
        np.testing.assert_array_equal(slide.read_region(70, 10, 60, 40), PIXELS[:, 10:50, 70:130].transpose(1, 2, 0))
        with pytest.warns(MissingChunksWarning, match="server has no chunk 'c/1/0/0' of level 0.*fill value 0"):
            assert not slide.numpy()[:64, :64, 1].any()
    shutil.rmtree(server.folder / "holes.zarr/0/c")
    with (
        Slide(f"{server.base}/holes.zarr", channels="rgb") as slide,
        pytest.warns(MissingChunksWarning),
        pytest.raises(UnreadableImageError, match="none of the chunks"),
    ):
        slide.read_region(0, 0, 9, 9)


def test_a_store_names_no_arrays_elsewhere(server):
    folder = write_zarr(server.folder / "out.zarr")
    text = (folder / "zarr.json").read_text()
    for name in ("../a.zarr/0", f"{server.base}/a.zarr/0"):
        (folder / "zarr.json").write_text(text.replace('"path": "0"', f'"path": "{name}"'))
        server.forget()
        with pytest.raises((UnreadableImageError, ConfinementError)):
            Slide(f"{server.base}/out.zarr", channels="rgb")
        assert all(path.startswith("/out.zarr/") and ".." not in path for path, _ in server.asked)


def test_an_object_store_is_listed(server):
    store = fsspec.filesystem("memory")
    store.put(str(server.folder / "a.zarr"), "/stores/a.zarr", recursive=True)
    with Slide("memory://stores/a.zarr", channels="rgb") as slide:
        np.testing.assert_array_equal(slide.numpy(), PIXELS.transpose(1, 2, 0))
    store.rm("/stores/a.zarr/0/c/0", recursive=True)
    with Slide("memory://stores/a.zarr", channels="rgb") as slide, pytest.warns(MissingChunksWarning, match="6 of 18"):
        slide.numpy()
