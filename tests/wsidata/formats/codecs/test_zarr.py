"""Zarr arrays run no code of whoever wrote them, and are decoded to no other size than they state."""

import gzip
import json
import os
import pickle
import struct
import threading
import time
import zlib

import numcodecs
import numpy as np
import pytest
import zarr

from wsidata.errors import LimitExceededError, SlideError, UnreadableImageError, UnsupportedImageError
from wsidata.slides.slide import Slide

SIDE = 32
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
OME = {
    "multiscales": [
        {"version": "0.4", "axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]},
    ]
}


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def store(path, *, version=2, chunk=16, **storage):
    """An OME-Zarr of one gray level, and the folder of its chunks."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.attrs.update(OME if version == 2 else {"ome": {**OME, "version": "0.5"}})
    array = group.create_array("0", shape=PIXELS.shape, chunks=(chunk, chunk), dtype="u1", **storage)
    array[...] = PIXELS
    return path


def chunks(path):
    return [file for file in (path / "0").rglob("*") if file.is_file() and not file.name.startswith((".z", "zarr"))]


def change_v2(path, **changes):
    """Change the metadata of the level, and the copy in consolidated metadata if there is one."""
    file = path / "0" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    merged = path / ".zmetadata"
    if merged.exists():
        content = json.loads(merged.read_text())
        content["metadata"]["0/.zarray"] |= changes
        merged.write_text(json.dumps(content))


def read(path, **options):
    with Slide(path, **options) as slide:
        return slide.numpy()


@pytest.mark.parametrize("scale", [None, (0, 255)])
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"compressor": {"id": "pickle", "protocol": 5}},
        {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]},
        {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}], "dtype": "|O", "fill_value": 0},
        {"compressor": {"id": "zlib", "level": 1}, "filters": [{"id": "pickle", "protocol": 5}]},
        {"compressor": None, "filters": [{"id": "vlen-bytes"}, {"id": "pickle"}], "dtype": "|O", "fill_value": ""},
        {"compressor": {"id": "pickle"}, "filters": [{"id": "vlen-bytes"}], "dtype": "|O", "fill_value": ""},
        {"compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}], "dtype": "|O", "fill_value": ""},
        {"compressor": None, "filters": [{"id": "vlen-bytes"}], "dtype": "|O", "fill_value": None},
        {"compressor": {"id": "bz2", "level": 1}},
        {"compressor": None, "filters": [{"id": "delta", "dtype": "|O"}]},
    ],
)
@pytest.mark.filterwarnings("ignore:.*(consolidated|Object|object|not have a Zarr V3):")
def test_codecs_of_metadata_run_no_code(tmp_path, monkeypatch, changes, consolidated, scale):
    """Whatever numcodecs itself refuses: pickle is allowed here, as before numcodecs 0.16.6."""
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True)
    trace = tmp_path / "it ran"
    path = store(tmp_path / "a.zarr", compressors=None)
    if consolidated:
        zarr.consolidate_metadata(path, zarr_format=2)
    change_v2(path, **changes)
    payload = pickle.dumps(Attack(trace))
    for chunk in chunks(path):
        chunk.write_bytes(zlib.compress(payload) if (changes["compressor"] or {}).get("id") == "zlib" else payload)
    with pytest.raises(SlideError, match=r"a\.zarr"):
        read(path, scale_to_8bit=scale)
    assert not trace.exists()


def test_the_attack_of_these_tests_is_one(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "it ran"))).close()
    assert (tmp_path / "it ran").exists()


@pytest.mark.parametrize("codec", [{"name": "numcodecs.pickle"}, {"name": "vlen-bytes"}, {"name": "numcodecs.bz2"}])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.filterwarnings("ignore:.*(Numcodecs codecs|vlen-bytes|not have a Zarr V3)")
def test_codecs_of_zarr_3_are_listed_too_inside_shards_as_well(tmp_path, codec, sharded):
    path = store(tmp_path / "a.zarr", version=3, shards=(SIDE, SIDE) if sharded else None)
    file = path / "0" / "zarr.json"
    content = json.loads(file.read_text())
    place = content["codecs"][0]["configuration"]["codecs"] if sharded else content["codecs"]
    place[-1:] = [{"configuration": {}} | codec]
    file.write_text(json.dumps(content))
    with pytest.raises(SlideError, match=r"a\.zarr"):
        read(path)


@pytest.mark.parametrize(
    "codec", [None, numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.GZip(), numcodecs.Zlib(), numcodecs.LZ4()]
)
@pytest.mark.parametrize("filters", [None, [numcodecs.Delta("u1")], [numcodecs.Shuffle(1)], [numcodecs.Fletcher32()]])
def test_listed_codecs_come_back(tmp_path, codec, filters):
    path = store(tmp_path / "a.zarr", compressors=codec, filters=filters)
    np.testing.assert_array_equal(read(path)[..., 0], PIXELS)


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize(
    "codec", [None, zarr.codecs.BloscCodec(), zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec(checksum=True)]
)
def test_codecs_come_back_from_shards(tmp_path, codec, location):
    shards = {"shape": (SIDE, SIDE), "index_location": location} if location == "start" else (SIDE, SIDE)
    try:
        path = store(tmp_path / "a.zarr", version=3, compressors=codec, shards=shards)
    except TypeError:
        pytest.skip("this release of zarr does not write the index first")
    np.testing.assert_array_equal(read(path)[..., 0], PIXELS)
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(20, 3, 10, 9)[..., 0], PIXELS[3:12, 20:30])


def zstd_that_says(size):
    """A frame of Zstandard whose header states a size."""
    return b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + struct.pack("<Q", size) + bytes([1, 0, 0])


@pytest.mark.parametrize(
    ("codec", "content"),
    [
        (numcodecs.Zstd(), zstd_that_says(2**40)),
        (numcodecs.Zstd(), zstd_that_says(257)),
        (numcodecs.Zstd(), zstd_that_says(2**40)[:6]),
        (numcodecs.LZ4(), struct.pack("<I", 2**31 - 1) + bytes(30)),
        (numcodecs.Blosc(), b"\2\1\1\1" + struct.pack("<III", 2**31 - 1, 256, 40) + bytes(24)),
    ],
)
def test_the_size_a_chunk_states_is_compared_before_it_is_decoded(tmp_path, monkeypatch, codec, content):
    path = store(tmp_path / "a.zarr", compressors=codec)
    for chunk in chunks(path):
        chunk.write_bytes(content)
    monkeypatch.setattr(type(codec), "decode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableImageError, match=r"chunk '.*' of level 0 is cut off or damaged"):
        read(path)


def test_the_size_a_chunk_of_a_shard_states_is_compared_before_it_is_decoded(tmp_path, monkeypatch):
    path = store(tmp_path / "a.zarr", version=3, compressors=zarr.codecs.ZstdCodec(), shards=(SIDE, SIDE))
    (shard,) = chunks(path)
    content = bytearray(shard.read_bytes())
    content[:13] = zstd_that_says(2**40)[:13]
    shard.write_bytes(content)
    monkeypatch.setattr(numcodecs.Zstd, "decode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableImageError, match=r"its header says 1099511627776 of 256 bytes"):
        read(path)
    content[-68:-60] = (2**63).to_bytes(8, "little")
    shard.write_bytes(content)
    with pytest.raises(UnreadableImageError, match="ends beyond its shard"):
        read(path)
    shard.write_bytes(content[:50])
    with pytest.raises(UnreadableImageError, match=r"shard '.*' of level 0 is cut off"):
        read(path)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_chunks_that_inflate_beyond_their_size_raise(tmp_path, monkeypatch, pack):
    path = store(tmp_path / "a.zarr", compressors=numcodecs.GZip() if pack is gzip.compress else numcodecs.Zlib())
    for chunk in chunks(path):
        chunk.write_bytes(pack(bytes(10**6)))
    monkeypatch.setenv("WSIDATA_MAX_DECODED_BYTES", "1e6")
    with pytest.raises(UnreadableImageError, match="it holds more than 256 bytes"):
        read(path)


def test_chunks_larger_than_memory_and_too_many_chunks_raise(tmp_path, monkeypatch):
    path = store(tmp_path / "a.zarr")
    change_v2(path, shape=[2**20, 2**20], chunks=[2**18, 2**18])
    with pytest.raises(LimitExceededError, match=r"chunks of 68\.7 GB, more than .*max_decoded_bytes"):
        Slide(path)
    change_v2(path, chunks=[1, 1])
    with pytest.raises(LimitExceededError, match=r"1,099,511,627,776 chunks in level '0'.*WSIDATA_MAX_CHUNKS"):
        Slide(path)


@pytest.mark.filterwarnings("ignore::wsidata.errors.MissingChunksWarning")
def test_a_pixel_costs_no_listing_of_all_chunks_there_may_be(tmp_path):
    path = store(tmp_path / "a.zarr")
    change_v2(path, shape=[50_000, 50_000])
    started = time.perf_counter()
    with Slide(path) as slide:
        assert slide.read_region(3, 4, 1, 1)[0, 0, 0] == PIXELS[4, 3]
    assert time.perf_counter() - started < 3  # 9.8 million chunks


def test_pipes_in_a_store_are_not_waited_for(tmp_path):
    path = store(tmp_path / "a.zarr")
    chunk = chunks(path)[0]
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(UnreadableImageError, match="is no file"):
        read(path)


@pytest.mark.parametrize("name", ["../other.zarr/0", "{}/other.zarr/0", "0/../../other.zarr/0"])
def test_levels_lie_inside_the_store(tmp_path, name):
    store(tmp_path / "other.zarr")
    path = store(tmp_path / "a.zarr")
    zarr.open_group(path).attrs["multiscales"] = [
        OME["multiscales"][0] | {"datasets": [{"path": name.format(tmp_path)}]}
    ]
    with pytest.raises(SlideError, match=r"a\.zarr"):
        read(path)


@pytest.mark.parametrize(("side", "error"), [(2**31, LimitExceededError), (2**16, UnreadableImageError)])
@pytest.mark.filterwarnings("ignore::wsidata.errors.MissingChunksWarning")
def test_the_index_of_a_shard_takes_no_more_memory_than_its_file(tmp_path, side, error):
    path = store(tmp_path / "a.zarr", version=3, shards=(SIDE, SIDE))
    file = path / "0" / "zarr.json"
    content = json.loads(file.read_text())
    content["chunk_grid"]["configuration"]["chunk_shape"] = [16, side]
    file.write_text(json.dumps(content))
    with pytest.raises(error, match=r"a\.zarr"):
        read(path)


@pytest.mark.parametrize("name", ["0/.zarray", ".zattrs", "0/.zattrs"])
def test_pipes_in_place_of_metadata_are_not_waited_for(tmp_path, name):
    path = store(tmp_path / "a.zarr")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    reader = threading.Thread(target=lambda: outcome.append(failure_of(path)), daemon=True)
    outcome = []
    reader.start()
    reader.join(20)
    if reader.is_alive():  # let it go
        os.close(os.open(path / name, os.O_RDWR | os.O_NONBLOCK))
        pytest.fail("it waits for the pipe")
    assert isinstance(outcome[0], UnreadableImageError)
    assert "is no file" in str(outcome[0])


def failure_of(path):
    try:
        return read(path)
    except Exception as error:
        return error


def test_more_levels_than_a_pyramid_has_raise_before_they_are_opened(tmp_path):
    path = store(tmp_path / "a.zarr")
    zarr.open_group(path).attrs["multiscales"] = [OME["multiscales"][0] | {"datasets": [{"path": "0"}] * 20_000}]
    with pytest.raises(UnsupportedImageError, match="names 20000 levels"):
        Slide(path)
