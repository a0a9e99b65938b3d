"""Areas under ROC curves against scikit-learn's, and where classes are missing."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.metrics import roc_auc_score

from streammodels.training.metrics import BinaryROCArea, MulticlassROCArea, MultilabelROCArea


def test_all_classes_there_is_the_usual_mean() -> None:
    scores, target = torch.rand(60, 3).softmax(dim=1), torch.arange(60) % 3
    area = MulticlassROCArea(3)
    area.update(scores[:31], target[:31])
    area.update(scores[31:], target[31:])
    expected = roc_auc_score(target, scores.double() / scores.double().sum(dim=1, keepdim=True), multi_class="ovr")
    assert float(area.compute()) == pytest.approx(expected, abs=1e-6)


def test_class_that_no_image_has_does_not_count() -> None:
    target = torch.tensor([0, 0, 2, 2])
    perfect = torch.nn.functional.one_hot(target, 5).float()
    area = MulticlassROCArea(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        area.update(perfect, target)
        assert float(area.compute()) == 1.0


@pytest.mark.parametrize(
    ("area", "scores", "target"),
    [
        (MulticlassROCArea(2), torch.rand(4, 2).softmax(dim=1), torch.ones(4, dtype=torch.int64)),
        (MultilabelROCArea(2), torch.rand(4, 2), torch.tensor([[0, 1]] * 4)),
        (BinaryROCArea(), torch.rand(4), torch.zeros(4, dtype=torch.int64)),
    ],
)
def test_no_curve_at_all_is_nan(
    area: MulticlassROCArea | MultilabelROCArea | BinaryROCArea, scores: torch.Tensor, target: torch.Tensor
) -> None:
    area.update(scores, target)
    assert area.compute().isnan()


def test_labels_that_all_or_no_images_have_do_not_count() -> None:
    scores = torch.rand(20, 4)
    target = torch.stack([torch.ones(20), torch.arange(20) % 2, torch.zeros(20), torch.arange(20) % 3 == 0], 1).long()
    area = MultilabelROCArea(4)
    area.update(scores, target)
    expected = [roc_auc_score(target[:, label], scores[:, label]) for label in (1, 3)]
    assert float(area.compute()) == pytest.approx(sum(expected) / 2, abs=1e-6)


def test_single_label() -> None:
    scores, target = torch.rand(20), (torch.arange(20) % 3 == 0).long()
    area = BinaryROCArea()
    area.update(scores, target)
    assert float(area.compute()) == pytest.approx(roc_auc_score(target, scores), abs=1e-6)
