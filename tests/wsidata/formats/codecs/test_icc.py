"""Colors are what the profile says, not what the bytes say."""

from pathlib import Path

import numpy as np
import pytest
import pyvips
from places import PHOTOS

from wsidata.errors import UnsupportedImageError
from wsidata.formats.codecs.icc import check_profile, to_srgb
from wsidata.formats.codecs.jpeg import read_jpeg_header

PATH = Path("folder/a.jpg")
SRGB, P3 = (bytes(pyvips.Image.profile_load(name)) for name in ("srgb", "p3"))
COLORS = np.random.default_rng(3).integers(30, 220, (8, 9, 3), dtype=np.uint8)

# From linear Display P3 to linear sRGB, both D65 (W3C, CSS Color Module Level 4, 18).
P3_TO_SRGB = np.array([[1.2249402, -0.2249402, 0.0], [-0.0420570, 1.0420570, 0.0], [-0.0196376, -0.0786361, 1.0982736]])


def gray_profile(gamma):
    """An ICC profile of gray with a plain gamma, version 2.4."""
    curve = b"curv" + bytes(4) + (1).to_bytes(4) + round(gamma * 256).to_bytes(2) + bytes(2)
    white = b"XYZ " + bytes(4) + b"".join(round(one * 65536).to_bytes(4) for one in (0.9642, 1.0, 0.8249))
    text = b"desc" + bytes(4) + (5).to_bytes(4) + b"gray\0" + bytes(78)
    text += bytes(-len(text) % 4)
    tags, place, table = {b"desc": text, b"wtpt": white, b"kTRC": curve}, 128 + 4 + 3 * 12, b""
    for name, body in tags.items():
        table += name + place.to_bytes(4) + len(body).to_bytes(4)
        place += len(body)
    header = place.to_bytes(4) + bytes(4) + bytes([2, 0x40, 0, 0]) + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    header += b"".join(round(one * 65536).to_bytes(4) for one in (0.9642, 1.0, 0.8249))
    return header.ljust(128, b"\0") + len(tags).to_bytes(4) + table + b"".join(tags.values())


def linear(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def curved(values):
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def test_display_p3_becomes_srgb_by_the_book():
    expected = curved(linear(COLORS / 255) @ P3_TO_SRGB.T) * 255
    got = to_srgb(COLORS, P3, PATH)
    assert np.abs(got - expected).max() < 3
    assert np.abs(got - expected).mean() < 0.5
    assert np.abs(got.astype(int) - COLORS).max() > 10


def test_srgb_and_no_profile_and_ink_leave_the_very_bytes():
    assert to_srgb(COLORS, SRGB, PATH) is COLORS
    assert to_srgb(COLORS, None, PATH) is COLORS
    assert to_srgb(COLORS, bytes(pyvips.Image.profile_load("cmyk")), PATH) is COLORS


def test_gray_is_shown_by_its_own_curve():
    gray = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    profile = gray_profile(1.8)
    expected = curved((gray / 255) ** 1.8) * 255
    got = to_srgb(gray, profile, PATH)
    assert got.shape == gray.shape
    assert np.abs(got - expected).max() < 2
    assert to_srgb(COLORS, profile, PATH) is COLORS  # colors: the profile is not of this image


def test_a_damaged_profile_is_refused_by_name():
    with pytest.raises(UnsupportedImageError, match=r"a\.jpg' has a color profile that cannot be applied.*apply_icc=F"):
        to_srgb(COLORS, P3[: len(P3) // 2], PATH)
    blanked = P3[:300] + bytes(len(P3) - 300)  # whole, but its tags are nothing
    for profile in (b"RGB", P3[:16] + b"RGB " + bytes(200), P3[:140], P3[:-1], blanked):
        with pytest.raises(UnsupportedImageError, match="cannot be applied"):
            to_srgb(COLORS, profile, PATH)


def test_bytes_after_a_whole_profile_do_no_harm():
    check_profile(P3 + bytes(3))
    np.testing.assert_array_equal(to_srgb(COLORS, P3 + bytes(3), PATH), to_srgb(COLORS, P3, PATH))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_real_photos_profiles_are_whole_and_most_are_srgb():
    kept = changed = 0
    for path in sorted(PHOTOS.glob("*.[jJ][pP][gG]")):
        with path.open("rb") as file:
            profile = read_jpeg_header(file).icc_profile
        if profile is not None:
            is_kept = to_srgb(COLORS, profile, path) is COLORS
            kept, changed = kept + is_kept, changed + (not is_kept)
    assert (kept, changed) == (76, 18)
