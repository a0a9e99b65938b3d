"""The check of a GPU runs on a CPU, on tiny images, and its figures fill the section of the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gpu import report
from gpu.blocks import Block, Setting, run_blocks
from gpu.check import BLOCKS, main

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_check_runs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same_code = {"resnet34", "resnet50"}
    blocks = [name for name in BLOCKS if name not in same_code]
    path = tmp_path / "check.json"
    assert main(["--json", str(path), "--device", "cpu", "--tiny", "--blocks", *blocks]) == 0
    content = json.loads(path.read_text())
    found = {name: block["status"] for name, block in content["blocks"].items()}
    assert found.pop("lightstream") in ("ok", "skipped")
    assert set(found.values()) == {"ok"}, capsys.readouterr().out
    assert all(content["blocks"][name]["records"] for name in found)

    page = tmp_path / "benchmarks.md"
    page.write_text(report.PAGE.read_text())
    before, _, after = page.read_text().partition(report.START)
    assert report.main([str(path), "--page", str(page)]) == report.main([str(path), "--page", str(page)]) == 0
    written = page.read_text()
    assert written.startswith(before)
    assert written.endswith(after.partition(report.END)[2])
    assert "| resnet18 | 64 x 64 | plain |" in written
    assert "tiny images" in written
    assert report.main([str(path)]) == 1, "figures of a CPU would stand in the documentation"


def test_failing_and_slow_blocks_do_not_stop_others(tmp_path: Path) -> None:
    def fails(_: Setting):  # type: ignore[no-untyped-def]
        yield {"number": 1}
        raise RuntimeError("broken")

    def lasts(_: Setting):  # type: ignore[no-untyped-def]
        yield {"number": 2}
        while True:
            pass

    def lacks(_: Setting):  # type: ignore[no-untyped-def]
        raise ModuleNotFoundError("no module")
        yield {}

    def works(_: Setting):  # type: ignore[no-untyped-def]
        yield {"number": 3}

    blocks = {"fails": Block(fails, 5), "lasts": Block(lasts, 0.2), "lacks": Block(lacks, 5), "works": Block(works, 5)}
    path = tmp_path / "new" / "check.json"
    run_blocks(blocks, Setting(CPU, True, tmp_path), path, {}, limit_s=20)
    found = json.loads(path.read_text())["blocks"]
    assert {name: block["status"] for name, block in found.items()} == {
        "fails": "failed", "lasts": "out of time", "lacks": "skipped", "works": "ok",
    }  # fmt: skip
    assert [block["records"] for block in found.values()] == [[{"number": 1}], [{"number": 2}], [], [{"number": 3}]]
    assert found["fails"]["error"] == "RuntimeError: broken"
    late = run_blocks({"works": Block(works, 5)}, Setting(CPU, True, tmp_path), path, {}, limit_s=0)
    assert late["works"]["status"] == "out of time"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", str(tmp_path / "check.json")]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    content = {"machine": {"device": "a", "torch": "2", "date": "today", "tiny": False}, "blocks": {}}
    with pytest.raises(ValueError, match=r"page.md has no lines '<!-- gpu.*Add them where"):
        report.write(content, page)
