"""Ordered thresholds give the probabilities of the cumulative logit model, and find those that made the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from streammodels.models.cumulative_link import CumulativeLink, median_class


def test_probabilities_are_differences_of_the_cumulative_ones() -> None:
    torch.manual_seed(0)
    link = CumulativeLink(5).double()
    torch.testing.assert_close(
        link(torch.zeros(1, 1).double()).exp(), torch.full((1, 5), 0.2).double(), atol=1e-6, rtol=0
    )
    for parameter in link.parameters():
        nn.init.normal_(parameter, std=4)
    score = torch.randn(60, 1, dtype=torch.float64) * 6
    thresholds = link.thresholds().detach().numpy()
    assert (np.diff(thresholds) > 0).all()
    above = np.pad(expit(score.numpy() - thresholds), ((0, 0), (1, 1)), constant_values=(1, 0))
    above[:, -1] = 0
    probabilities = link(score).exp()
    np.testing.assert_allclose(probabilities.detach().numpy(), above[:, :-1] - above[:, 1:], atol=1e-14)
    assert median_class(probabilities).tolist() == (score.numpy() > thresholds).sum(axis=1).tolist()


def test_far_scores_have_finite_losses_and_gradients_also_in_16_bits() -> None:
    link = CumulativeLink(4)
    score = torch.tensor([[300.0], [-300.0]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu"):
        loss = nn.functional.cross_entropy(link(score), torch.tensor([1, 1]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert score.grad is not None
    assert score.grad.tolist() == [[0.5], [-0.5]]  # towards the true class, of either side


def test_thresholds_and_slope_that_made_the_classes_are_found() -> None:
    random = np.random.default_rng(0)
    x, thresholds, slope = random.uniform(-3, 3, 4000), np.array([-2.0, -0.5, 1.5]), 2.0
    label = torch.tensor((slope * x + random.logistic(size=4000) > thresholds[:, None]).sum(axis=0))
    link, layer = CumulativeLink(4).double(), nn.Linear(1, 1, bias=False).double()
    optimizer = torch.optim.LBFGS([*link.parameters(), *layer.parameters()], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(link(layer(torch.tensor(x)[:, None])), label)
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(link.thresholds().detach().numpy(), thresholds, atol=0.15)
    np.testing.assert_allclose(layer.weight.item(), slope, atol=0.1)


def test_what_is_no_single_score_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one score per image.*returns \(2, 4\).*Linear\(features, 1\)"):
        CumulativeLink(4)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least two"):
        CumulativeLink(1)


def test_probabilities_of_a_model_in_bfloat16_add_up_to_one() -> None:
    link = CumulativeLink(5).bfloat16()
    assert link.thresholds().dtype == torch.float32
    total = link(torch.randn(9, 1).bfloat16()).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(9))
