"""Which trainings the study consists of, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace

from study.arms import LEARNING_RATES, Arm
from study.tasks.data import Data
from study.training import Job, train
from wsidata.jobs.pools import outcomes

SEEDS = (0, 1, 2)
LONGER = 4
"""Times the steps with which learning rates are chosen."""
_BEGUN = 0.67
"""Training loss of an arm that has begun to learn; one that knows nothing has 0.693."""


def tune(data: Data, arms: Iterable[Arm]) -> list[Job]:
    """One training for each arm and learning rate, with the first seed."""
    return [Job(data, arm, rate, SEEDS[0]) for arm in arms for rate in LEARNING_RATES]


def chosen(data: Data, arms: Iterable[Arm], of: Data | None = None) -> list[Job]:
    """For each arm, a training of the first seed with the learning rate that is best on the validation part.

    Args:
        data: What is trained on.
        arms: The arms.
        of: The data on which the rate was chosen, if other.
    """

    def quality(job: Job) -> float:
        return float(str(train(job)["val_auroc"]))

    best = (max(tune(of or data, [arm]), key=quality) for arm in arms)
    return [replace(job, data=data) for job in best]


def has_begun(job: Job) -> bool:
    """Whether a training came below the loss of knowing nothing."""
    return float(str(train(job)["train_loss"])) < _BEGUN


def with_seeds(jobs: Iterable[Job]) -> list[Job]:
    """The same trainings with every seed."""
    return [replace(job, seed=seed) for job in jobs for seed in SEEDS]


def run(jobs: Iterable[Job], executor: Executor | None, say: Callable[[str], None] = print) -> Iterator[Job]:
    """Do trainings that are not done yet, and give back each that is.

    Raises:
        RuntimeError: the first failure, naming the arm; what is done stays done.
    """
    waiting = list(jobs)
    with closing(outcomes(train, waiting, executor)) as results:
        for number, (job, result) in enumerate(results):
            if isinstance(result, Exception):
                raise RuntimeError(f"'{job.arm.name}' on {job.data.key} failed. Run the command again.") from result
            say(
                f"{number + 1}/{len(waiting)}  {job.data.key}  {job.arm.name}  "
                f"lr {job.learning_rate:g}  seed {job.seed}"
                f"  val AUROC {result['val_auroc']:.3f}  loss {result['train_loss']:.3f}  {result['train_cpu_s']:.0f} s"
            )
            yield job
