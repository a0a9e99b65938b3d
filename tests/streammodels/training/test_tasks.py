"""Labels of every task: what is taken, in which form it reaches loss and metrics, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import Tensor, nn

from streammodels.training.tasks import Multiclass, Multilabel, Ordinal, Regression, Survival, head_outputs, make_task


@pytest.mark.parametrize(
    ("name", "loss", "expected"),
    [
        (None, None, Multiclass),
        (None, nn.CrossEntropyLoss(), Multiclass),
        (None, nn.BCEWithLogitsLoss(), Multilabel),
        (None, nn.MSELoss(), Regression),
        (None, nn.HuberLoss(), Regression),
        (None, lambda outputs, target: outputs.sum(), Multiclass),
        ("ordinal", nn.CrossEntropyLoss(), Ordinal),
        ("regression", lambda outputs, target: outputs.sum(), Regression),
        ("multilabel", None, Multilabel),
        ("multilabel", nn.MultiLabelSoftMarginLoss(), Multilabel),
    ],
)
def test_task_is_the_one_named_or_that_of_the_loss(name: str | None, loss: Any, expected: type) -> None:
    assert type(make_task(name, 3, loss)) is expected


@pytest.mark.parametrize(
    ("name", "outputs", "loss", "message"),
    [
        (
            "segmentation",
            2,
            None,
            "task 'segmentation' is not known.*multiclass, ordinal, multilabel, regression, survival",
        ),
        ("multiclass", 2, nn.MSELoss(), "MSELoss is a loss for task='regression'"),
        ("regression", 2, nn.CrossEntropyLoss(), "CrossEntropyLoss is a loss for task='multiclass'"),
        ("ordinal", 3, nn.MSELoss(), "MSELoss is a loss for task='regression'"),
        ("ordinal", 3, nn.MultiMarginLoss(), "MultiMarginLoss is a loss for task='multiclass'"),
        ("multiclass", 1, None, "num_classes=2"),
        ("regression", 0, None, "at least 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(name: str, outputs: int, loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(name, outputs, loss)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_class_numbers_of_any_whole_type(dtype: torch.dtype) -> None:
    target = Multiclass(2).target(torch.tensor([0, 1, 1]).to(dtype), torch.zeros(3, 2))
    assert target.dtype == torch.int64
    assert target.tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32, torch.float64])
def test_yes_and_no_of_any_type(dtype: torch.dtype) -> None:
    label = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    target = Multilabel(2).target(label, torch.zeros(2, 2, dtype=torch.bfloat16))
    assert target.dtype == torch.float32
    assert target.tolist() == [[0, 1], [1, 1]]
    assert Multilabel(2).truth(target).dtype == torch.int64


@pytest.mark.parametrize("task", [Multilabel(1), Regression(1)])
def test_one_output_takes_a_vector_or_a_column_of_labels(task: Any) -> None:
    for label in (torch.tensor([0, 1, 1]), torch.tensor([[0], [1], [1]])):
        target = task.target(label, torch.zeros(3, 1, dtype=torch.float64))
        assert target.shape == (3, 1)
        assert target.dtype == torch.float64


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        (Multiclass(3), torch.zeros(2, 1, dtype=torch.int64), r"shape \(2,\), got \(2, 1\).*squeeze"),
        (Multiclass(3), torch.zeros(2, 3, dtype=torch.int64), "multilabel"),
        (Multiclass(3), torch.zeros(3, dtype=torch.int64), r"shape \(2,\), got \(3,\)"),
        (Multiclass(3), torch.zeros(2), "whole class numbers, got torch.float32"),
        (Multiclass(3), torch.tensor([0, 3]), r"labels 0\.\.2, found 0\.\.3.*from 0"),
        (Multiclass(3), torch.tensor([-1, 2]), r"found -1\.\.2"),
        (Ordinal(3), torch.tensor([1, 3]), r"task 'ordinal' with num_classes=3 takes labels 0\.\.2"),
        (Survival(3), torch.zeros(2, 2), r"shape \(2, 3\), got \(2, 2\). Columns are time, event"),
        (
            Survival(3),
            torch.tensor([[1.0, 1, 2], [1, 1, 3]]),
            r"num_classes=3 intervals survived, found \[1.0, 1.0, 3.0\]",
        ),
        (Survival(3), torch.tensor([[1.0, 0, 3], [1, 0.5, 2]]), "events of 0 or 1"),
        (Survival(3), torch.tensor([[1.0, 0, 3], [-1, 0, 2]]), "times of at least 0"),
        (Multilabel(3), torch.zeros(2), r"shape \(2, 3\), got \(2,\).*one_hot"),
        (Multilabel(3), torch.full((2, 3), 0.5), "0 and 1, and found others"),
        (Multilabel(3), torch.full((2, 3), torch.nan), "0 and 1, and found others"),
        (Regression(3), torch.zeros(2), r"shape \(2, 3\), got \(2,\).*num_classes=1"),
        (Regression(1), torch.zeros(2, 2), r"shape \(2, 1\) or \(2,\), got \(2, 2\)"),
        (Regression(3), torch.full((2, 3), torch.inf), "finite"),
        (Regression(3), torch.zeros(2, 3, dtype=torch.bool), "finite numbers"),
    ],
)
def test_labels_of_another_form_are_refused(task: Any, label: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.target(label, torch.zeros(2, task.outputs))


def test_labels_that_are_no_tensor_are_refused() -> None:
    for task in (Multiclass(2), Multilabel(2), Regression(2)):
        with pytest.raises(TypeError, match="got list"):
            task.target([0, 1], torch.zeros(2, 2))


@pytest.mark.parametrize("name", ["multiclass", "ordinal", "multilabel", "regression"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_defaults_work_together(name: str, outputs: int) -> None:
    one_class = name in ("multiclass", "ordinal")
    if one_class and outputs == 1:
        return
    task = make_task(name, outputs, None)
    logits = torch.randn(6, outputs, requires_grad=True)
    label = torch.arange(6) % 3 if one_class else (torch.arange(6)[:, None] + torch.arange(outputs)) % 2
    target = task.target(label, logits)
    task.default_loss()(logits, target).backward()
    metrics = task.default_metrics()
    metrics.update(task.predictions(logits.detach()), task.truth(target))
    assert all(bool(value.isfinite()) for value in metrics.compute().values())


def test_predictions_are_probabilities_or_numbers() -> None:
    outputs = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(Multiclass(3).predictions(outputs).sum(1), torch.ones(4))
    torch.testing.assert_close(Multilabel(3).predictions(outputs), torch.sigmoid(outputs.float()))
    torch.testing.assert_close(Regression(3).predictions(outputs), outputs.float())


def test_metrics_of_ordered_classes_are_those_of_the_median_class() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(5, (200,), generator=generator)
    score = 1.5 * label[:, None] - 3 + torch.randn(200, 1, generator=generator)
    task = make_task("ordinal", 5, None)
    link = task.link()
    assert link is not None
    assert head_outputs("ordinal", 5) == 1
    with torch.no_grad():
        outputs = link(score)
    metrics = task.default_metrics()
    metrics.update(task.predictions(outputs), task.truth(task.target(label, outputs)))
    found = {name: float(value) for name, value in metrics.compute().items()}
    named = (score > link.thresholds()).sum(dim=1)
    expected = cohen_kappa_score(label.numpy(), named.numpy(), weights="quadratic")
    distance = (named - label).abs().float()
    assert found == pytest.approx(
        {"accuracy": float((distance == 0).float().mean()), "kappa": expected, "mae": float(distance.mean())}, abs=1e-6
    )
