import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile

from wsidata.__main__ import main
from wsidata.slides.slide import Slide
from wsidata.splits.split_file import load_splits
from wsidata.stats.compute import channel_stats
from wsidata.stats.result import ChannelStats


def slides(camelyon, count=3):
    return [str(path) for path in sorted((camelyon / "images").glob("*.tif"))[:count]]


def table(camelyon):
    return [str(camelyon / "evaluation" / "reference.csv"), "--image-dir", str(camelyon / "images"), "--quiet"]


def test_info_names_levels_spacing_and_reader(camelyon, capsys):
    assert main(["info", slides(camelyon)[0]]) == 0
    text = capsys.readouterr().out
    assert "read by" in text
    assert "um/px, from" in text
    with Slide(slides(camelyon)[0]) as slide:
        assert f"\n  0      {slide.width:>8}{slide.height:>8}  1 " in text


def test_info_in_json_goes_on_after_a_bad_slide(camelyon, tmp_path, capsys):
    (tmp_path / "bad.svs").write_bytes(b"nothing")
    assert main(["info", str(tmp_path / "bad.svs"), *slides(camelyon, 1), "--json"]) == 1
    with Slide(slides(camelyon)[0]) as slide:
        slide_width = slide.width
    bad, good = json.loads(capsys.readouterr().out)
    assert "bad.svs" in bad["error"]
    assert (good["error"], good["levels"][0]["width"]) == ("", slide_width)


def test_info_shows_progress_on_standard_error_and_draws(camelyon, tmp_path, capsys):
    assert main(["info", *slides(camelyon), "--plot", str(tmp_path / "spacing.png")]) == 0
    out, err = capsys.readouterr()
    assert "slides: " in err
    assert "slides: " not in out
    assert (tmp_path / "spacing.png").stat().st_size > 5000


@pytest.mark.slow
def test_split_is_written_and_counted(camelyon, tmp_path, capsys):
    arguments = ["split", *table(camelyon), "--test-prefix", "test_", "-o", str(tmp_path / "split.csv")]
    assert main([*arguments, "--plot", str(tmp_path / "balance.png")]) == 0
    out = capsys.readouterr().out
    assert "no leakage between splits" in out
    assert out.splitlines()[-2].split() == ["all", "10", "2", "4"]
    frame = load_splits(tmp_path / "split.csv")
    assert frame["split"].value_counts().to_dict() == {"train": 10, "test": 4, "val": 2}
    assert (tmp_path / "balance.png").exists()


def test_folds_and_repeats_are_a_file_each(camelyon, tmp_path, capsys):
    arguments = ["split", *table(camelyon), "--folds", "3", "--repeats", "2", "-o", str(tmp_path / "s.csv")]
    assert main([*arguments, "--json", "--leaks", "off"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len({answer["digest"] for answer in answers}) == 6
    assert {path.name for path in tmp_path.iterdir()} == {f"s_repeat{r}_fold{f}.csv" for r in (0, 1) for f in (0, 1, 2)}
    validated = [load_splits(tmp_path / f"s_repeat1_fold{fold}.csv")["split"] == "val" for fold in range(3)]
    assert (sum(part.astype(int) for part in validated) == 1).all()


def test_split_replaces_no_file_unasked(camelyon, tmp_path, capsys):
    output = tmp_path / "split.csv"
    arguments = ["split", *table(camelyon), "--leaks", "off", "--quiet", "-o", str(output)]
    assert main(arguments) == 0
    before = output.read_text()
    os.utime(output, ns=(1, 1))
    assert main(arguments) == 0  # an equal split is not written again
    assert output.stat().st_mtime_ns == 1
    assert main([*arguments, "--seed", "1"]) == 2
    assert "holds another split, or none. Nothing was written" in capsys.readouterr().err
    assert output.read_text() == before
    assert main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert output.read_text() != before


def test_split_of_folds_writes_all_files_or_none(camelyon, tmp_path, capsys):
    (tmp_path / "s_fold2.csv").write_text("image,class\n")  # such as the labels themselves
    arguments = ["split", *table(camelyon), "--leaks", "off", "--folds", "3", "-o", str(tmp_path / "s.csv")]
    assert main(arguments) == 2
    assert "s_fold2.csv' exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["s_fold2.csv"]


def test_stats_replace_statistics_only(camelyon, tmp_path, capsys):
    output = tmp_path / "labels.csv"
    output.write_text("image,class\n")
    arguments = ["stats", *slides(camelyon, 1), "--level", "2", "--quiet", "-o", str(output)]
    assert main(arguments) == 2
    assert "holds no channel statistics" in capsys.readouterr().err
    assert output.read_text() == "image,class\n"
    assert main([*arguments, "--overwrite"]) == 0
    assert main(arguments) == 0


def test_no_command_writes_over_what_it_reads(camelyon, tmp_path, capsys):
    shutil.copytree(camelyon, tmp_path / "copy")
    labels, slide = tmp_path / "copy" / "evaluation" / "reference.csv", tmp_path / "copy" / "images" / "normal_001.tif"
    split, images = str(tmp_path / "split.csv"), ["--image-dir", str(slide.parent), "--quiet"]
    assert main(["split", str(labels), *images, "--leaks", "off", "-o", split]) == 0
    kept = {path: path.read_bytes() for path in (labels, slide, tmp_path / "split.csv")}
    (tmp_path / "link.json").symlink_to(slide)
    for arguments in (
        ["split", str(labels), *images, "--leaks", "off", "--overwrite", "-o", str(labels)],
        ["stats", "--split", split, *images, "--level", "2", "--overwrite", "-o", split],
        ["stats", str(slide), "--level", "2", "--quiet", "--overwrite", "-o", str(tmp_path / "link.json")],
    ):
        assert main(arguments) == 2
        assert "is read here: name another file with --output" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_plots_replace_nothing_but_plots(camelyon, tmp_path, capsys, suffix):
    slide = shutil.copy(slides(camelyon)[0], tmp_path / f"a{suffix}")
    before = slide.read_bytes()
    assert main(["info", "--plot", str(slide), *slides(camelyon)[1:]]) == 2  # as the shell makes of --plot *.tif
    assert "--plot" in capsys.readouterr().err
    assert slide.read_bytes() == before
    split = tmp_path / "split.csv"
    assert main(["split", *table(camelyon), "--leaks", "off", "-o", str(split), "--plot", str(slide)]) == 2
    assert not split.exists()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plots_can_be_drawn_again(camelyon, tmp_path, suffix):
    arguments = ["info", *slides(camelyon, 1), "--quiet", "--plot", str(tmp_path / f"plot{suffix}")]
    assert [main(arguments), main(arguments)] == [0, 0]


def test_a_split_whose_slides_are_not_beside_it_asks_for_their_folder(camelyon, tmp_path, capsys):
    split = str(tmp_path / "split.csv")
    assert main(["split", *table(camelyon), "--leaks", "off", "-o", split]) == 0
    assert main(["stats", "--split", split, "--level", "2", "--quiet"]) == 2
    assert "Pass --image-dir" in capsys.readouterr().err
    assert main(["stats", "--split", table(camelyon)[0], *table(camelyon)[1:], "--level", "2"]) == 2
    assert "`wsidata split` writes such files" in capsys.readouterr().err


def test_leaking_split_is_an_error_if_asked(camelyon, tmp_path, capsys):
    for name in ("a", "b"):
        shutil.copy(camelyon / "images" / "normal_001.tif", tmp_path / f"{name}.tif")
    pd.DataFrame({"image": ["a", "b"], "class": "x", "split": ["train", "val"]}).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["split", str(tmp_path / "t.csv"), "--split-column", "split", "-o", str(tmp_path / "s.csv"), "--quiet"]
    assert main(arguments) == 0
    assert main([*arguments, "--leaks", "error"]) == 1
    assert "the same file (equal bytes) is in train ('a') and val ('b')" in capsys.readouterr().err


def test_stats_are_those_of_the_library_and_can_be_used_again(camelyon, tmp_path, capsys):
    expected = channel_stats(slides(camelyon), level=2)
    assert main(["stats", *slides(camelyon), "--level", "2", "-o", str(tmp_path / "stats.json"), "--quiet"]) == 0
    assert f"mean  {expected.mean[0]:.6f}" in capsys.readouterr().out
    assert ChannelStats.load(tmp_path / "stats.json") == expected
    assert main(["stats", *slides(camelyon), "--level", "2", "--json", "--quiet"]) == 0
    assert ChannelStats.from_json(capsys.readouterr().out) == expected


def test_stats_of_a_part_of_a_split(camelyon, tmp_path, capsys):
    split = str(tmp_path / "split.csv")
    assert main(["split", *table(camelyon), "--test-prefix", "test_", "-o", split, "--leaks", "off"]) == 0
    arguments = ["stats", "--split", split, "--part", "val", "--image-dir", str(camelyon / "images"), "--level", "2"]
    capsys.readouterr()
    assert main([*arguments, "--json", "--quiet"]) == 0
    assert ChannelStats.from_json(capsys.readouterr().out).image_count == 2


@pytest.mark.filterwarnings("always::wsidata.stats.result.StatsWarning")
def test_stats_of_channels_crops_and_what_can_be_read(camelyon, tmp_path, capsys):
    stack = np.random.default_rng(0).integers(0, 4000, (3, 70, 90), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.ome.tif", stack, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "FITC", "Cy5"]}}
    )
    channels = ["--channels", "Cy5, 0", "--scale-to-8bit", "0", "4000"]
    assert main(["stats", str(tmp_path / "a.ome.tif"), "--level", "0", *channels, "--json", "--quiet"]) == 0
    stats = ChannelStats.from_json(capsys.readouterr().out)
    scaled = np.rint(stack[[2, 0]] * (255 / 4000)).reshape(2, -1) / 255
    assert stats.mean == pytest.approx(scaled.mean(axis=1).tolist(), abs=1e-4)
    assert stats.max_value == 255
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    arguments = ["stats", *slides(camelyon), str(tmp_path / "broken.tif"), "--level", "2", "--crop", "tissue", "--json"]
    assert main(arguments) == 2
    assert "broken.tif" in capsys.readouterr().err
    assert main([*arguments, "--on-error", "skip", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "broken.tif" in said.err
    kept = ChannelStats.from_json(said.out)
    assert kept.mean == channel_stats(slides(camelyon), level=2, crop="tissue").mean
    assert [name for name, _ in kept.skipped] == [str(tmp_path / "broken.tif")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split", "absent.csv"], "table 'absent.csv' does not exist"),
        (["stats", "--level", "0"], "name slides, or pass --split"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_exits_with_2(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_help_answers_without_heavy_imports():
    code = "import sys, wsidata.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('HEAVY', {'torch', 'pandas', 'lightning', 'pyvips'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "info" in run.stdout
    assert "HEAVY set()" in run.stdout
