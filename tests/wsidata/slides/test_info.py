import base64
import re

import pyvips

from wsidata.slides.slide import Slide, slide_info


def test_slide_shows_itself_in_a_notebook(camelyon):
    with Slide(camelyon / "images" / "normal_001.tif") as slide:
        shown, level = slide._repr_html_(), slide.levels[0]
    picture = pyvips.Image.new_from_buffer(base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1]), "")
    assert max(picture.width, picture.height) == 256
    assert "<b>normal_001.tif</b>" in shown
    assert f"{level.width} &times; {level.height}" in shown
    assert "closed" in slide._repr_html_()


def test_names_are_escaped(camelyon, tmp_path):
    (tmp_path / "<b>.tif").write_bytes((camelyon / "images" / "normal_001.tif").read_bytes())
    with Slide(tmp_path / "<b>.tif") as slide:
        assert "&lt;b&gt;.tif" in slide._repr_html_()


def test_sixteen_bit_channels_are_stretched_to_be_seen(tmp_path):
    pixels = pyvips.Image.identity(ushort=True, size=4096).embed(0, 0, 4096, 64, extend="copy")
    pixels.tiffsave(str(tmp_path / "deep.tif"))
    with Slide(tmp_path / "deep.tif", channels=[0]) as slide:
        shown = slide._repr_html_()
    picture = pyvips.Image.new_from_buffer(base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1]), "")
    assert picture.format == "uchar"
    assert picture.max() - picture.min() > 200


def test_info_keeps_the_warnings_of_opening(camelyon):
    info = slide_info(camelyon / "images" / "normal_001.tif", mpp_override=7.0)
    assert info.mpp == (7.0, 7.0)
    assert len(info.warnings) == 1
    assert f"warning: {info.warnings[0]}" in str(info)
