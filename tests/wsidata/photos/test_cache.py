"""Cached photos match decoded ones, for the current content of the file, in any number of processes."""

import os
import pickle
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from wsidata.errors import UnreadableImageError
from wsidata.photos import cache as decoded_cache
from wsidata.photos.cache import DecodedCache
from wsidata.photos.read import decode_photo, read_photo

RNG = np.random.default_rng(0)


def write(path, seed=0, size=(60, 80)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))
    return path


@pytest.fixture
def photo(tmp_path):
    return write(tmp_path / "a.jpg")


@pytest.fixture(params=["memory", "folder"])
def cache(request, tmp_path):
    return DecodedCache(10**7 if request.param == "memory" else tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch):
    """Paths that were decoded, not cached."""
    paths = []

    def decode(data, path, **options):
        paths.append(path)
        return decode_photo(data, path, **options)

    monkeypatch.setattr(decoded_cache, "decode_photo", decode)
    return paths


@pytest.mark.parametrize("short_side_px", [None, 20])
def test_the_second_time_gives_the_same_without_decoding(cache, photo, decoded, short_side_px):
    expected = read_photo(photo, short_side_px=short_side_px)
    for _ in range(3):
        pixels = cache.get(photo, short_side_px)
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
    assert decoded == [photo]


def test_sizes_and_use_of_profiles_are_cached_separately(cache, photo, decoded):
    for _ in range(2):
        assert cache.get(photo).shape == (60, 80, 3)
        assert cache.get(photo, 30).shape == (30, 40, 3)
        assert cache.get(photo, 30, apply_icc=False).shape == (30, 40, 3)
    assert len(decoded) == 3


def test_a_changed_photo_of_the_same_name_size_and_date_is_decoded(cache, tmp_path):
    first, second = (np.full((16, 16, 3), value, np.uint8) for value in (10, 200))
    path = tmp_path / "a.bmp"
    Image.fromarray(first).save(path)
    before = path.stat()
    np.testing.assert_array_equal(cache.get(path), first)
    Image.fromarray(second).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    np.testing.assert_array_equal(cache.get(path), second)


def test_a_moved_photo_is_cached(cache, photo, decoded):
    cache.get(photo, 20)
    cache.get(photo.rename(photo.with_name("b.png")), 20)
    assert len(decoded) == 1


def test_cached_pixels_are_read_only(cache, photo):
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            cache.get(photo)[0, 0, 0] = 1


def test_damaged_photos_raise_every_time_and_are_not_cached(cache, photo, tmp_path):
    photo.write_bytes(photo.read_bytes()[:-300])
    for _ in range(2):
        with pytest.raises(UnreadableImageError, match=r"a\.jpg'"):
            cache.get(photo)
    assert cache.nbytes == 0
    assert not (tmp_path / "cache").exists()


def test_memory_is_filled_and_not_overrun(tmp_path, decoded):
    one_photo = 60 * 80 * 3
    cache = DecodedCache(2 * one_photo + 100)
    photos = [write(tmp_path / f"{number}.jpg", seed=number) for number in range(4)]
    for _ in range(3):
        for photo in photos:
            cache.get(photo)
    assert cache.nbytes == 2 * one_photo
    assert [decoded.count(photo) for photo in photos] == [1, 1, 3, 3]  # the first two stay, epoch after epoch


def test_pickling_leaves_the_photos_out(tmp_path, photo):
    for where in (10**6, tmp_path / "cache"):
        cache = DecodedCache(where)
        cache.get(photo)
        copy = pickle.loads(pickle.dumps(cache))
        assert len(pickle.dumps(cache)) < 1000
        assert copy.nbytes == 0
        np.testing.assert_array_equal(copy.get(photo, 20), cache.get(photo, 20))


def test_several_threads_get_the_same(cache, tmp_path):
    photos = [write(tmp_path / f"{number}.jpg", seed=number) for number in range(6)]
    expected = [read_photo(photo) for photo in photos]
    wrong = []

    def work(seed):
        for number in np.random.default_rng(seed).integers(0, 6, 30):
            if not np.array_equal(cache.get(photos[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.nbytes in (0, 6 * 60 * 80 * 3)


def sum_all(cache, photos):
    return sum(int(cache.get(photo).sum()) for _ in range(3) for photo in photos)


@pytest.mark.slow
def test_several_processes_share_a_folder(tmp_path):
    photos = [write(tmp_path / f"{number}.jpg", seed=number) for number in range(8)]
    expected = 3 * sum(int(read_photo(photo).sum()) for photo in photos)
    cache = DecodedCache(tmp_path / "cache")
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        orders = [photos, photos[::-1], photos]
        assert [task.result() for task in [pool.submit(sum_all, cache, order) for order in orders]] == [expected] * 3
    files = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == len(photos)
    assert all(name.endswith(".npz") for name in files)


@pytest.mark.parametrize("damage", ["cut off", "altered", "empty", "something else"])
def test_a_damaged_cache_file_is_replaced(tmp_path, photo, decoded, damage):
    cache = DecodedCache(tmp_path / "cache")
    expected = cache.get(photo)
    [kept] = (tmp_path / "cache").rglob("*.npz")
    sound = kept.read_bytes()
    middle = len(sound) // 2
    altered = sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]
    kept.write_bytes({"cut off": sound[:middle], "altered": altered, "empty": b""}.get(damage, b"something else"))
    np.testing.assert_array_equal(cache.get(photo), expected)
    assert len(decoded) == 2
    np.testing.assert_array_equal(cache.get(photo), expected)
    assert len(decoded) == 2
    assert kept.read_bytes()[:middle] == sound[:middle]


def test_a_folder_deleted_meanwhile_is_filled_again(tmp_path, photo, decoded):
    cache = DecodedCache(tmp_path / "cache")
    cache.get(photo)
    shutil.rmtree(tmp_path / "cache")
    for _ in range(2):
        cache.get(photo)
    assert len(decoded) == 2


def test_an_unwritable_folder_warns_once_and_is_otherwise_harmless(tmp_path, photo, decoded):
    (tmp_path / "cache").write_text("a file, not a folder")
    cache = DecodedCache(tmp_path / "cache")
    with pytest.warns(UserWarning, match=r"cannot be kept in '.*cache'.*Make room there"):
        first = cache.get(photo)
    np.testing.assert_array_equal(cache.get(photo), first)
    assert len(decoded) == 2


def test_other_versions_of_the_decoders_are_other_pixels(cache, photo, decoded, monkeypatch):
    cache.get(photo)
    monkeypatch.setattr(decoded_cache, "_made_by", lambda: "simplejpeg 99")
    cache.get(photo)
    assert len(decoded) == 2


@pytest.mark.parametrize("where", [0, -1, True])
def test_no_memory_at_all_raises(where):
    with pytest.raises(ValueError, match="pass a number of bytes, at least 1, or the path of a folder"):
        DecodedCache(where)


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.slow
def test_any_flipped_bit_is_noticed_and_the_photo_decoded_anew(tmp_path):
    photo = write(tmp_path / "a.jpg", size=(6, 8))
    cache = DecodedCache(tmp_path / "cache")
    expected = cache.get(photo)
    (entry,) = (tmp_path / "cache").rglob("*.npz")
    intact = entry.read_bytes()
    unnoticed = 0
    for bit in range(8 * len(intact)):
        entry.write_bytes(flipped(intact, bit))
        loaded = decoded_cache._load(entry)
        assert loaded is None or np.array_equal(loaded, expected)  # some bits of the archive mean nothing
        unnoticed += loaded is not None
    assert unnoticed < 2 * len(intact)
    entry.write_bytes(flipped(intact, 8 * (len(intact) // 2)))
    np.testing.assert_array_equal(cache.get(photo), expected)
    assert entry.read_bytes() == intact
