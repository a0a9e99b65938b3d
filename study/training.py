"""Training of one arm with one learning rate and one seed, and what is written down of it."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from study.arms import Arm
from study.networks import build
from study.tasks.data import Data, Part, save
from wsidata.evaluation import weighted

_CHECKS = 5
"""Looks at the validation part during training."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        data: What it is trained on.
        arm: How.
        learning_rate: Highest learning rate of Adam; it rises for a twentieth of the steps, and falls as a cosine.
        seed: Of the first weights.
    """

    data: Data
    arm: Arm
    learning_rate: float
    seed: int

    def file(self, suffix: str) -> Path:
        """A file of its results, such as ".json" or ".pt"."""
        arm = "".join(letter if letter.isalnum() else "_" for letter in self.arm.name)
        name = f"{self.data.key}_{arm}_lr{self.learning_rate:g}_seed{self.seed}{suffix}"
        return self.data.folder / "runs" / name


def train(job: Job) -> dict[str, object]:
    """Train, unless it was done before, and return what the tables say of it.

    The time is CPU time of the steps alone, without drawing data and validation.
    """
    done = job.file(".json")
    if done.exists():
        found: dict[str, object] = json.loads(done.read_text())
        return found
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    data, model = job.data, _model(job)
    optimizer = torch.optim.Adam(model.parameters(), job.learning_rate)
    seconds, losses, curve = 0.0, list[float](), list[dict[str, float]]()
    for step, (batch, labels) in enumerate(islice(data.batches(job.arm), data.steps)):
        truth = labels.float()
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = job.learning_rate * _share(step / data.steps)
        loss = F.binary_cross_entropy_with_logits(model(batch), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.process_time() - start
        losses.append(loss.item())
        if (step + 1) % max(1, data.steps // _CHECKS) == 0:
            val = auroc(*scores(model, data, "val", job.arm))
            curve.append({"step": step + 1, "cpu_s": seconds, "loss": float(np.mean(losses[-50:])), "val_auroc": val})
    save(model.state_dict(), job.file(".pt"))
    result = {
        "arm": job.arm.name, "question": job.arm.question, **data.facts, "learning_rate": job.learning_rate,
        "seed": job.seed, "train_cpu_s": seconds, "train_loss": curve[-1]["loss"], "val_auroc": curve[-1]["val_auroc"],
        "curve": curve,
    }  # fmt: skip
    done.write_text(json.dumps(result))
    return result


def scores_of_test_part(job: Job) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and labels of the test part by the trained network of a job."""
    path = job.file(".test.pt")
    if not path.exists():
        save(scores(trained(job), job.data, "test", job.arm), path)
    found, labels = torch.load(path)
    return found.numpy(), labels.numpy()


def trained(job: Job) -> nn.Module:
    """The network of a job that is done."""
    model = _model(job)
    model.load_state_dict(torch.load(job.file(".pt")))
    return model.eval()


def scores(model: nn.Module, data: Data, part: Part, arm: Arm) -> tuple[Tensor, Tensor]:
    """Logits and labels of a part."""
    inputs, labels = data.held_out(part, arm)
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(batch) for batch in torch.split(inputs, 16)])
    model.train()
    return found, labels


def auroc(found: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve."""
    area, _ = weighted.ranking(labels.numpy() == 1, found.double().numpy(), np.ones((len(labels), 1)))
    return float(area[0])


def _model(job: Job) -> nn.Module:
    features = job.data.held_out("val", job.arm)[0].shape[-1] if job.arm.reads == "features" else 0
    return build(job.arm, job.data.look, strip_rows=job.data.strip_rows, features=features)


def _share(progress: float) -> float:
    """The learning rate at a share of the training, as a share of the highest."""
    return min(1.0, (progress + 1e-9) / 0.05) * 0.5 * (1 + math.cos(math.pi * progress))
