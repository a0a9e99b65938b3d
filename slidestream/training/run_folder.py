"""The folder of a training run, with what it was started by and all that it wrote."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from slidestream.versions import versions
from wsidata.utils.files import write_text

FILES = {
    "checkpoints/best.ckpt": "the network with the best validation score",
    "checkpoints/last.ckpt": "the network after the last epoch, to resume from",
    "metrics.csv": "every logged metric, by epoch",
    "split.csv": "which image was used for what",
    "predictions.csv": "prediction for each validation and test image",
    "scores.csv": "all scores, with 95 % intervals",
    "leaks.csv": "images found in two splits",
    "config.yaml": "all settings, to run it again",
    "report.html": "all of it to look at",
}
_STARTED = "SLIDESTREAM_STARTED"


@dataclass(frozen=True)
class RunFolder:
    """A folder of one training run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def facts(self) -> dict[str, Any]:
        """The content of run.json; empty if there is none."""
        file = self.path / "run.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def note(self, **facts: Any) -> None:
        """Add facts to run.json."""
        write_text(self.path / "run.json", json.dumps({**self.facts(), **facts}, indent=2, default=str) + "\n")

    def start(self, argv: Sequence[str]) -> None:
        """Note the command, the versions, and the time."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self.note(command=f"slidestream {shlex.join(argv)}", versions=versions(), started=now, finished=None)

    def finish(self) -> None:
        """Note that the run came to its end."""
        self.note(finished=datetime.now().astimezone().isoformat(timespec="seconds"))

    def listing(self) -> str:
        """The files that a run has written and what they hold, as text."""
        width = max(map(len, FILES))
        there = [f"    {name:<{width}}  {about}" for name, about in FILES.items() if (self.path / name).exists()]
        return "\n".join([f"  in {self.path}/", *there])

    def merge_metrics(self) -> None:
        """Write metrics.csv from the logs of the run and of its resumptions.

        A resumption goes back to its checkpoint; what was logged after that, before the interruption, is left out.
        """
        logs = sorted(self.path.glob("logs/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:]))
        merged = pd.DataFrame()
        for log in logs:
            try:
                rows = pd.read_csv(log)
            except pd.errors.EmptyDataError:
                continue
            if len(merged) and "step" in rows and len(rows):
                merged = merged[merged["step"] < rows["step"].min()]
            merged = pd.concat([merged, rows], ignore_index=True)
        if len(merged):
            write_text(self.path / "metrics.csv", merged.to_csv(index=False, lineterminator="\n"))


def default_folder(config: str | None) -> Path:
    """runs/<name of the configuration>/<time>; the same in all processes that a run starts."""
    started = os.environ.setdefault(_STARTED, time.strftime("%Y-%m-%d_%H-%M-%S"))
    return Path("runs", "fit" if config is None else Path(config).stem, started)


def show_progress() -> bool:
    """Whether to draw progress bars: only where somebody may look."""
    return sys.stderr.isatty()
