"""Messages speak of flags, in one line."""

from pathlib import Path

import pytest

from slidestream.__main__ import main
from slidestream.cli.messages import in_flags
from slidestream.configs import config_path
from slidestream.training.command import with_config_files


def test_python_arguments_are_named_as_flags() -> None:
    message = "Pass image_size= (crops), lazy=True, or allow_changed=['resolution']; best=0.5 stays."
    assert in_flags(message, "fit") == (
        "Pass --data.image_size (crops), --data.lazy=True, or --data.allow_changed=['resolution']; best=0.5 stays."
    )
    assert in_flags("Pass weights=None.", "fit") == "Pass --model.weights=null."
    assert in_flags("Pass mpp_override=.", "predict") == "Pass --mpp-override."
    assert in_flags("Replace it with overwrite=True.", "features") == "Replace it with --overwrite."


def test_folders_may_be_named_like_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    assert with_config_files(["--config", "slides"]) == ["--config", str(config_path("slides"))]
    (tmp_path / "photos").touch()
    assert with_config_files(["--config=photos"]) == ["--config=photos"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "--config", "nothing"], "'nothing' is no file, and no configuration. There are camelyon16"),
        (["fit", "--config", "slides", "--data.mppp", "2"], "'mppp' is not"),
        (["fit", "--config", "slides", "--data.table", "nothing.csv"], "table 'nothing.csv' does not exist"),
        (
            ["fit", "--config", "slides", "--trainer.logger", "TensorBoardLogger"],
            "'lightning.pytorch.loggers.TensorBoardLogger': the following arguments are required: save_dir\n",
        ),
        (["fit", "--config", "slides", "--fold", "1"], "--fold 1 needs --folds"),
        (["configs", "nothing"], "'nothing' is no file"),
    ],
)
def test_errors_are_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"slidestream {arguments[0]}: ")
    assert said in error


def test_configurations_are_listed_and_written(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert main(["configs"]) == 0
    assert "mushrooms" in capsys.readouterr().out
    assert main(["configs", "camelyon16"]) == 0
    assert main(["configs", "camelyon16"]) == 2  # it is there
    assert "exists" in capsys.readouterr().err


@pytest.mark.slow
def test_a_shell_completes_flags_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "--trainer.max_epochs" in script
    assert "--data.image_size" in script
    assert "--model.memory" in script
