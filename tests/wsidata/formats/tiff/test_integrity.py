"""Files that lost their end, or their way, are noticed before a pixel is shown."""

import struct
import time

import numpy as np
import pytest
import tifffile

from wsidata.errors import LimitExceededError, SlideError, UnreadableImageError
from wsidata.formats.tiff.integrity import check_integrity
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels


def picture(width=200, height=150):
    return np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vendor", "compression"),
    [("generic", "jpeg"), ("aperio", "jpeg"), ("aperio", "jpeg2000"), ("philips", "jpeg"), ("generic", "deflate")],
)
def test_a_cut_off_file_raises_or_is_right(tmp_path, vendor, compression):
    whole = write_pixels(tmp_path / "whole.tif", picture(), vendor=vendor, tile=64, levels=3, compression=compression)
    with Slide(whole) as slide:
        expected = [slide.numpy(level=level) for level in range(3)]
    data, cut = whole.read_bytes(), tmp_path / "cut.tif"
    refused = []
    for length in [*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 12, len(data))]:
        cut.write_bytes(data[:length])
        try:
            with Slide(cut) as slide:
                got = [slide.numpy(level=level) for level in range(slide.level_count)]
        except UnreadableImageError as error:
            refused.append(str(error))
            continue
        assert len(got) == 3, f"{length} of {len(data)} bytes: levels were lost in silence"
        for level in range(3):
            np.testing.assert_array_equal(got[level], expected[level])
    assert len(refused) > 100
    assert all("cut.tif" in message for message in refused)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_bytes_altered_in_the_directories_never_crash(tmp_path, compression):
    """Whatever the damage: a SlideError that names the file, or an image. Nothing else may come out."""
    whole = write_pixels(tmp_path / "whole.tif", picture(), tile=64, levels=2, compression=compression)
    data, bad = whole.read_bytes(), tmp_path / "bad.tif"
    rng, refused = np.random.default_rng(0), []
    for _ in range(120):
        altered = bytearray(data)
        altered[int(rng.integers(0, 700))] = int(rng.integers(0, 256))
        bad.write_bytes(altered)
        try:
            with Slide(bad) as slide:
                if slide.width * slide.height < 10**6:
                    slide.numpy(level=slide.level_count - 1)
        except SlideError as error:
            refused.append(str(error))
    assert refused
    assert all("bad.tif" in message for message in refused)


def directory(entries, following=0):
    table = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following)


def write(path, *parts):
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(parts))
    return path


def test_pointers_out_of_the_file_are_found(tmp_path):
    beyond = write(tmp_path / "a.tif", directory([(273, 4, 9, struct.pack("<I", 5000))]))
    with pytest.raises(UnreadableImageError, match="the value of tag 273 ends at byte 5036"):
        check_integrity(beyond)
    following = write(tmp_path / "b.tif", directory([], following=999))
    with pytest.raises(UnreadableImageError, match="the directory at byte 999 is incomplete"):
        check_integrity(following)
    subifd = write(tmp_path / "c.tif", directory([(330, 13, 1, struct.pack("<I", 777))]))
    with pytest.raises(UnreadableImageError, match="the directory at byte 777 is incomplete"):
        check_integrity(subifd)
    nothing = tmp_path / "d.tif"
    nothing.write_bytes(b"II*\0\0\0\0\0")
    with pytest.raises(UnreadableImageError, match="no directory"):
        check_integrity(nothing)


@pytest.mark.parametrize("missing", [322, 323, 324])
def test_tiles_without_all_of_their_tags_are_found(tmp_path, missing):
    """Readers would take the directory for strips, and a level of an SVS for its thumbnail."""
    tags = [(tag, 4, 1, struct.pack("<I", 16)) for tag in (322, 323, 324, 325)]
    check_integrity(write(tmp_path / "a.tif", directory(tags)))
    if missing == 324:
        tags.pop()
    with pytest.raises(UnreadableImageError, match="directory at byte 8 has some of the tags that make tiles"):
        check_integrity(write(tmp_path / "b.tif", directory([tag for tag in tags if tag[0] != missing])))


def test_directories_in_a_circle_end(tmp_path):
    check_integrity(write(tmp_path / "a.tif", directory([], following=8)))


def test_both_byte_orders_and_bigtiff_pass(tmp_path):
    import tifffile

    for order in "<>":
        for big in (False, True):
            path = tmp_path / f"a{big}.tif"
            tifffile.imwrite(path, picture(), byteorder=order, bigtiff=big, photometric="rgb")
            check_integrity(path)


GRAY_TAGS = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, 256)]


def chain(count, *, subifds=False, tags=GRAY_TAGS):
    """Gray directories in a row; each of them may name all of them as its SubIFDs."""
    size = 2 + 12 * (len(tags) + subifds) + 4
    table = 8 + size * count
    plain = [(tag, 4, 1, struct.pack("<I", value)) for tag, value in tags]
    subs = [(330, 4, count, struct.pack("<I", table))] if subifds else []
    following = [*(8 + size * (number + 1) for number in range(count - 1)), 0]
    parts = [directory([*plain, *subs], place) for place in following]
    return [*parts, np.arange(8, table, size, dtype="<u4").tobytes()]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "subifds"), [(200_000, False), (3000, True), (100, True)])
def test_directories_without_end_raise_in_time(tmp_path, count, subifds):
    path = write(tmp_path / "a.tif", *chain(count, subifds=subifds))
    started = time.perf_counter()
    with pytest.raises(LimitExceededError, match=r"a\.tif' asks for .* TIFF directories.*WSIDATA_MAX_DIRECTORIES"):
        Slide(path)
    assert time.perf_counter() - started < 5


@pytest.mark.slow
def test_tags_without_end_raise(tmp_path):
    many = write(tmp_path / "a.tif", *chain(1, tags=[(40_000 + number, 1) for number in range(5000)]))
    with pytest.raises(UnreadableImageError, match="has 5000 tags"):
        check_integrity(many)
    overlapping = write(tmp_path / "b.tif", *chain(200, tags=[(40_000 + number, 1) for number in range(4000)]))
    with pytest.raises(LimitExceededError, match=r"tags, those of 5,\d+ TIFF directories"):
        check_integrity(overlapping)


def test_values_that_overlap_raise(tmp_path):
    body = chain(40, tags=[])
    table = struct.pack("<HHII", 40_000, 7, 2**22, 8)
    parts = [struct.pack("<H", 1) + table + struct.pack("<I", 8 + 18 * (number + 1)) for number in range(40)]
    path = write(tmp_path / "a.tif", *parts[:-1], struct.pack("<H", 1) + table + bytes(4), *body, bytes(2**22))
    with pytest.raises(UnreadableImageError, match="the values of its tags overlap"):
        check_integrity(path)


@pytest.mark.parametrize(
    ("offset", "length", "words"),
    [(8, -5, "negative"), (-8, 5, "negative"), (2**62, 2**62, "end beyond"), (8, 2**62, "end beyond")],
)
def test_places_of_tiles_that_cannot_be_raise(tmp_path, offset, length, words):
    """A signed or huge byte count reached the operating system."""
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", bigtiff=True, metadata=None, rowsperstrip=150)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    for tag, value in ((273, offset), (279, length)):
        place = next(at for at in range(24, len(data)) if data[at : at + 2] == struct.pack("<H", tag))
        data[place : place + 20] = struct.pack("<HHQq", tag, 17, 1, value)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(UnreadableImageError, match=words):
        Slide(tmp_path / "a.tif")


@pytest.mark.parametrize("tag", [256, 277, 279])
@pytest.mark.parametrize("kind", [0, 2, 5, 7, 11, 12, 99])
def test_sizes_and_places_that_are_no_integers_raise(tmp_path, tag, kind):
    """Byte counts that were floats became 0, and the whole slide white."""
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", metadata=None, rowsperstrip=10)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    place = next(at for at in range(10, len(data)) if data[at : at + 2] == struct.pack("<H", tag))
    data[place + 2 : place + 4] = struct.pack("<H", kind)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(
        UnreadableImageError, match=rf"tag {tag} holds no integers, but values of type {kind}|ends at byte"
    ):
        Slide(tmp_path / "a.tif")
