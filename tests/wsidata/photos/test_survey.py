"""Photo files are checked by their headers."""

import io
import struct

import cv2
import numpy as np
import pytest
import pyvips

from wsidata.photos import survey as headers
from wsidata.photos.survey import PhotoSurvey, PlaceholderWarning, is_cut_off, warn_of_placeholders
from wsidata.synthetic.photos import encode_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def encoded(suffix, **options):
    return pyvips.Image.new_from_array(PIXELS, interpretation="srgb").write_to_buffer(suffix, **options)


def with_thumbnail():
    """A JPEG whose EXIF holds a small JPEG of its own, end mark and all, and a fill byte before the next marker."""
    photo, small = encode_photo(PIXELS), encode_photo(PIXELS[:16, :16])
    payload = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + small
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + b"\xff" + photo[2:]


WHOLE = {
    "plain.jpg": encode_photo(PIXELS),
    "progressive.jpg": encoded(".jpg", interlace=True),
    "thumbnail.jpg": with_thumbnail(),
    "film behind.jpg": encode_photo(PIXELS) + b"\0\0\0\x18ftypmp42" + bytes(5000),
    "png.png": encoded(".png"),
    "webp.webp": encoded(".webp"),
    "gif.gif": encoded(".gif"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_pass(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(WHOLE[name])
    survey = PhotoSurvey()
    assert survey.look([path]) == []
    assert survey.sizes == {str(path): (60, 80)}


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "film behind.jpg"])
@pytest.mark.parametrize("left", [0.6, 0.97])
def test_cut_off_files_are_found_without_decoding(tmp_path, name, left):
    path = tmp_path / name
    path.write_bytes(WHOLE[name][: int(left * len(WHOLE[name]))])
    assert is_cut_off(path)
    [problem] = PhotoSurvey().look([path])
    assert problem.startswith(f"{path}: was cut off") or "UnreadableImageError" in problem


def test_jpeg_that_ends_within_its_header_is_cut_off(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(with_thumbnail()[:-100][:700])
    assert is_cut_off(path)


def test_all_bad_files_are_named_with_their_reason(tmp_path):
    contents = {"empty.jpg": b"", "page.jpg": b"<!doctype html><title>404</title>", "good.jpg": encode_photo(PIXELS)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in (*contents, "gone.jpg", "empty.jpg")]
    survey = PhotoSurvey()
    problems = survey.look(paths)
    assert [problem.split(": ")[0] for problem in problems] == [str(paths[0]), str(paths[1]), str(paths[3])]
    assert "is empty (0 bytes)" in problems[0]
    assert "UnreadableImageError" in problems[1]
    assert "FileNotFoundError" in problems[2]
    assert list(survey.sizes) == [str(paths[2])]


def test_files_are_opened_once(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_photo(PIXELS))
    survey = PhotoSurvey(resize_px=30)
    survey.look([path])
    monkeypatch.setattr(headers, "photo_size", lambda path: pytest.fail("opened again"))
    assert survey.look([path, path]) == []
    assert survey.sizes == {str(path): (30, 40)}


def test_damage_within_shows_only_when_decoding(tmp_path):
    data = bytearray(encode_photo(PIXELS))
    middle = len(data) // 2
    data[middle : middle + 60] = b"\xff\x01" * 30
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert PhotoSurvey().look([path]) == []
    [problem] = PhotoSurvey(decode=True).look([path])
    assert "UnreadableImageError" in problem


def huge_jpeg(height, width):
    """A JPEG that says it is of this size; of its pixels only the beginning is there, and its end."""
    data = bytearray(encode_photo(PIXELS))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def test_photo_that_does_not_fit_in_memory_is_found_by_its_header(tmp_path):
    path = tmp_path / "wall.jpg"
    path.write_bytes(huge_jpeg(60_000, 60_000))
    [problem] = PhotoSurvey().look([path])
    assert "60000 x 60000 px: 10.8 GB in memory" in problem
    assert "resize_px=" in problem
    assert PhotoSurvey(resize_px=256).look([path]) == []
    path.write_bytes(huge_jpeg(10, 60_000))
    [problem] = PhotoSurvey(resize_px=1000).look([path])
    assert "resized 1000 x 6000000 px: 18.0 GB" in problem


def test_tiff_is_known_by_its_header(tmp_path):
    path = tmp_path / "a.tif"
    pyvips.Image.new_from_array(PIXELS, interpretation="srgb").write_to_file(str(path))
    survey = PhotoSurvey()
    assert survey.look([path]) == []
    assert survey.sizes[str(path)] == (60, 80)


def test_bmp_is_a_photo(tmp_path):
    path = tmp_path / "a.bmp"
    cv2.imwrite(str(path), PIXELS)
    assert PhotoSurvey().look([path]) == []
    assert io.BytesIO(path.read_bytes()).read(2) == b"BM"


def test_a_few_gifs_among_photos_are_reported():
    photos = [f"{number}.jpg" for number in range(60)]
    with pytest.warns(PlaceholderWarning, match=r"2 of 62 photos are GIFs .*missing\.gif.*Look at them"):
        warn_of_placeholders([*photos, "a/missing.gif", "b/none.GIF"])
    warn_of_placeholders(photos)
    warn_of_placeholders(["a.gif", "b.gif", *photos[:9]])  # a collection of both
