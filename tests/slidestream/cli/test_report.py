"""`slidestream report` writes a report from a table of predictions, and says in one line why it cannot."""

from pathlib import Path

import pytest

from slidestream.__main__ import main

ROWS = "image,split,label,value_age\na,val,1.5,1.4\nb,val,2,2.5\nc,val,3,2.9\n"


def test_a_table_of_predictions_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "predictions.csv").write_text(ROWS)
    out = tmp_path / "age.html"
    command = ["report", str(tmp_path / "predictions.csv"), "--out", str(out), "--title", "Age", "--unit", "photos"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "<h1>Age</h1>" in out.read_text()


def test_what_is_wrong_is_one_line_about_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "predictions.csv").write_text(ROWS)
    for arguments, said in (
        ([str(tmp_path / "nowhere")], "neither a run folder nor a table"),
        ([str(tmp_path), "--out", str(tmp_path / "predictions.csv")], "name another file with --out"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert (tmp_path / "predictions.csv").read_text() == ROWS
