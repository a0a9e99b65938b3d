import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import pyvips

from wsidata.splits.leaks import LeakError, LeakReport, LeakWarning, check_leaks
from wsidata.synthetic.slides import write_slide
from wsidata.tables.parts import SplitError

SPLIT = ["train"] * 5 + ["val"] * 4 + ["test"] * 4


@pytest.fixture
def slides(camelyon, tmp_path):
    paths = sorted((camelyon / "images").glob("*.tif"))[:13]
    for path in paths:
        shutil.copy(path, tmp_path / path.name)
    names = [path.name for path in paths]
    return pd.DataFrame(
        {"image_id": [name[:-4] for name in names], "path": [str(tmp_path / n) for n in names], "split": SPLIT}
    )


def members(leak):
    return dict(leak.members)


def test_different_slides_do_not_leak(slides):
    report = check_leaks(slides)
    assert not report
    assert report.checked == ("content", "thumbnail")
    assert str(report) == "no leakage between splits (checked: content, thumbnail)"


def test_copied_file_is_found_once_and_by_its_bytes(slides):
    shutil.copy(slides["path"][0], slides["path"][7])
    shutil.copy(slides["path"][1], slides["path"][2])  # twice in one part is no leak
    [leak] = check_leaks(slides).leaks
    assert (leak.kind, members(leak)) == ("content", {slides["image_id"][0]: "train", slides["image_id"][7]: "val"})


def test_files_that_differ_in_one_byte_in_the_middle_are_not_the_same_file(slides, tmp_path):
    content = bytearray(np.random.default_rng(0).bytes(5 << 20))
    for row, change in ((0, 0), (6, 1), (10, 0)):
        content[2_000_000] ^= change
        (tmp_path / slides["image_id"][row]).write_bytes(content)
        slides.loc[row, "path"] = str(tmp_path / slides["image_id"][row])
        content[2_000_000] ^= change
    [leak] = check_leaks(slides, checks=["content"]).leaks
    assert set(members(leak).values()) == {"train", "test"}


ALTERED = {
    "recompressed": lambda image: pyvips.Image.new_from_buffer(image.jpegsave_buffer(Q=40), ""),
    "halved": lambda image: image.resize(0.5),
    "turned": lambda image: image.rot90(),
    "mirrored": lambda image: image.fliphor(),
    "lightened": lambda image: image.linear(0.85, 20).cast("uchar"),
    "cropped": lambda image: image.crop(3, 3, image.width - 8, image.height - 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", ALTERED)
def test_slide_that_was_saved_again_is_found_by_its_look(slides, tmp_path, change):
    image = pyvips.Image.new_from_file(slides["path"][0])
    ALTERED[change](image).write_to_file(str(tmp_path / "again.png"))
    slides.loc[8, "path"] = str(tmp_path / "again.png")
    report = check_leaks(slides, executor=None)
    assert [leak.kind for leak in report.leaks] == ["thumbnail"]
    assert members(report.leaks[0]) == {slides["image_id"][0]: "train", slides["image_id"][8]: "val"}


def test_patients_and_sites_in_two_parts_are_found(slides):
    slides["group"] = [f"p{i}" for i in range(8)] + ["p0", "p9", "p10", "p11", "p9"]
    slides["site"] = ["Nijmegen"] * 7 + ["Utrecht"] * 6
    report = check_leaks(slides, checks=["patient", "site"])
    assert [(leak.kind, leak.what) for leak in report.leaks] == [
        ("patient", "'p0'"),
        ("site", "'Nijmegen'"),
        ("site", "'Utrecht'"),
    ]
    assert set(report.frame["leak"]) == {0, 1, 2}
    assert report.frame["split"].value_counts().to_dict() == {"train": 6, "val": 5, "test": 4}


def test_unreadable_and_plain_slides_are_said_and_do_not_stop_the_rest(slides, tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"II*\0nonsense")
    pyvips.Image.black(300, 200, bands=3).write_to_file(str(tmp_path / "plain.png"))
    pyvips.Image.black(310, 200, bands=3).write_to_file(str(tmp_path / "plain2.png"))
    for row, name in ((0, "bad.tif"), (1, "plain.png"), (6, "plain2.png")):
        slides.loc[row, "path"] = str(tmp_path / name)
    shutil.copy(slides["path"][2], tmp_path / "x.tif")
    slides.loc[7, "path"] = str(tmp_path / "x.tif")
    calls = []
    with ThreadPoolExecutor(2) as pool:
        report = check_leaks(slides, executor=pool, progress=lambda done, total: calls.append((done, total)))
    assert [leak.kind for leak in report.leaks] == ["content"]
    assert [line.split(": ")[-1] for line in report.unread[1:]] == ["plain", "plain"]
    assert "3 images were not compared" in str(report)
    assert calls[-1] == (13, 13)
    with pytest.warns(LeakWarning, match="no leakage between splits .*\n.*3 images were not compared"):
        LeakReport((), report.checked, report.unread).report("warn")


def test_report_warns_or_raises_as_asked(slides):
    slides["group"] = ["p"] * 13
    report = check_leaks(slides, checks=["patient"])
    with pytest.raises(LeakError, match=r"1 leaks between splits .*\n  - patient 'p' is in train .* and val .*test"):
        report.report("error")
    with pytest.warns(LeakWarning, match="group_column="):
        report.report("warn")


def test_checks_that_cannot_be_made_are_refused(slides):
    with pytest.raises(SplitError, match=r"patient needs 'group'.*group_column="):
        check_leaks(slides, checks=["patient"])
    with pytest.raises(SplitError, match="checks='name' is not one of patient, content"):
        check_leaks(slides, checks=["name"])


def test_files_that_are_gone_are_not_read_and_named(tmp_path):
    for name in "abc":
        write_slide(tmp_path / f"{name}.tif", width=200, height=150, tile=64, seed=ord(name))
    paths = [str(tmp_path / f"{name}.tif") for name in "abc"]
    frame = pd.DataFrame({"image_id": list("abc"), "path": paths, "split": ["train", "val", "test"]})
    (tmp_path / "b.tif").unlink()
    report = check_leaks(frame)
    assert not report
    assert len(report.unread) == 1
    assert "b.tif" in report.unread[0]
