"""OME-Zarr in a ZIP archive: the pixels of the folder, within the same limits."""

import gc
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import zarr

from wsidata.errors import LimitExceededError, MissingChunksWarning, UnreadableImageError, UnsupportedImageError
from wsidata.slides.slide import Slide

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 150, 201), dtype=np.uint8)
LEVELS = (PIXELS, PIXELS[:, ::2, ::2])


def write_zarr(folder, *, sharded=False):
    group = zarr.open_group(folder, mode="w")
    datasets = []
    for level, pixels in enumerate(LEVELS):
        shards = {"shards": (1, 128, 128)} if sharded else {}
        array = group.create_array(str(level), shape=pixels.shape, dtype="uint8", chunks=(1, 64, 64), **shards)
        array[...] = pixels
        scale = [{"type": "scale", "scale": [1.0, 0.5 * 2**level, 0.5 * 2**level]}]
        datasets.append({"path": str(level), "coordinateTransformations": scale})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "cyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return folder


def pack(folder, archive, *, under="", method=zipfile.ZIP_STORED, leave_out=()):
    with zipfile.ZipFile(archive, "w", method) as packed:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and name not in leave_out:
                packed.write(file, f"{under}{name}")
    return archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_zarr(tmp_path_factory.mktemp("store") / "a.zarr")


@pytest.mark.parametrize(("under", "method"), [("", zipfile.ZIP_STORED), ("a.zarr/", zipfile.ZIP_DEFLATED)])
def test_an_archive_is_read_as_its_folder(folder, tmp_path, under, method):
    path = pack(folder, tmp_path / "a.ozx", under=under, method=method)
    with Slide(path, channels="rgb") as slide:
        assert (slide.kind, slide.reader, slide.mpp) == ("ome-zarr", "zarr", (0.5, 0.5))
        assert slide.is_one_file
        for level, pixels in enumerate(LEVELS):
            np.testing.assert_array_equal(slide.numpy(level=level), pixels.transpose(1, 2, 0))
        lazy, twin = slide.lazy(level=1), pickle.loads(pickle.dumps(slide))
    np.testing.assert_array_equal(lazy.rows(10, 20), LEVELS[1][:, 10:20])
    np.testing.assert_array_equal(twin.read_region(60, 60, 9, 8), PIXELS[:, 60:68, 60:69].transpose(1, 2, 0))
    twin.close()


def test_shards_and_handles(tmp_path):
    path = pack(write_zarr(tmp_path / "a.zarr", sharded=True), tmp_path / "a.zarr.zip")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Slide(path, channels="rgb") as slide:
            np.testing.assert_array_equal(slide.numpy(), PIXELS.transpose(1, 2, 0))
    del slide
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_damage_is_found(folder, tmp_path):
    path = pack(folder, tmp_path / "a.ozx")
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(UnreadableImageError, match="cut off: its end is missing"):
        Slide(path)
    place = whole.index(b"0/c/0/0/0") + 400
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with Slide(path, channels="rgb") as slide, pytest.raises(UnreadableImageError, match=r"CRC.*again from its source"):
        slide.numpy()
    for name, damage in ((b"PK\x03\x04", b"PK\x03\x05"), (b"0/c/0/0/1", b"0/c/0/0/9")):  # as its own header has it
        place = whole.index(name, whole.index(b"0/c/0/0/1") - 30)
        path.write_bytes(whole[:place] + damage + whole[place + len(damage) :])
        with Slide(path, channels="rgb") as slide, pytest.raises(UnreadableImageError, match="again from its source"):
            slide.numpy()
    pack(folder, path, leave_out=("0/c/0/0/0",))
    with Slide(path, channels="rgb") as slide, pytest.warns(MissingChunksWarning, match=r"1 of 36 chunks of level 0"):
        slide.numpy()


def test_other_archives_are_refused(folder, tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../zarr.json", "{}")
        packed.writestr("notes.txt", "")
    with pytest.raises(UnreadableImageError, match="is a ZIP archive: unpack it first"):
        Slide(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("zarr.json", "{}" * 100)
    with pytest.raises(UnsupportedImageError, match=r"compressed by method 14.*zip -r -0"):
        Slide(path)
    pack(folder, path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as packed:
        packed.writestr("zarr.json", "{}")
    with pytest.raises(UnreadableImageError, match="two files of one name"):
        Slide(path)


def test_bombs_are_not_unpacked(folder, tmp_path, monkeypatch):
    bomb, path = io.BytesIO(), tmp_path / "a.ozx"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zarr.json", b" " * 3_000_000)
    path.write_bytes(bomb.getvalue())
    monkeypatch.setenv("WSIDATA_MAX_DECODED_BYTES", "2e6")
    with pytest.raises(LimitExceededError, match=r"3,000,000 bytes of 'zarr\.json', unpacked at once"):
        Slide(path)
    monkeypatch.delenv("WSIDATA_MAX_DECODED_BYTES")
    pack(folder, path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x05\x06")
    entries = struct.unpack_from("<H", data, at + 10)[0]
    monkeypatch.setenv("WSIDATA_MAX_CHUNKS", str(entries - 1))
    with pytest.raises(LimitExceededError, match="files in a ZIP archive"):
        Slide(path)
