"""The loss of discrete hazards is the likelihood written out, and finds the hazards that made the data."""

from __future__ import annotations

import numpy as np
import torch

from streammodels.losses.hazards import DiscreteHazardLoss, risk_of, survival_curve
from streammodels.training.metrics import ConcordanceIndex


def observed(events: np.ndarray, survived: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.c_[survived + 0.5, events, survived], dtype=torch.float64)


def test_loss_is_the_likelihood_of_what_was_observed() -> None:
    random = np.random.default_rng(0)
    logits, events = random.normal(size=(40, 4)), random.random(40) < 0.5
    survived = random.integers(0, np.where(events, 4, 5))
    hazard = 1 / (1 + np.exp(-logits))
    likelihood = [
        np.prod(1 - row[:count]) * (row[count] if event else 1)
        for row, event, count in zip(hazard, events, survived, strict=True)
    ]
    found = DiscreteHazardLoss()(torch.tensor(logits), observed(events, survived))
    np.testing.assert_allclose(found.item(), -np.log(likelihood).mean(), rtol=1e-12)
    curve = survival_curve(torch.tensor(logits))
    np.testing.assert_allclose(curve.numpy(), np.cumprod(1 - hazard, axis=1), rtol=1e-5)
    np.testing.assert_allclose(risk_of(curve).numpy(), 1 - np.cumprod(1 - hazard, axis=1).mean(axis=1), rtol=1e-5)


def test_best_hazards_are_events_among_those_at_risk() -> None:
    random = np.random.default_rng(1)
    events = random.random(500) < 0.6
    survived = random.integers(0, np.where(events, 4, 5))
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = DiscreteHazardLoss()(logits.expand(500, 4), observed(events, survived))
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    died = np.array([(events & (survived == interval)).sum() for interval in range(4)])
    passed = np.array([(survived > interval).sum() for interval in range(4)])
    np.testing.assert_allclose(logits.sigmoid().detach().numpy(), died / (died + passed), atol=1e-4)


def test_concordance_of_batches_is_that_of_all_pairs() -> None:
    random = np.random.default_rng(2)
    survival = torch.tensor(random.integers(0, 5, (50, 3)) / 4).sort(dim=1, descending=True).values
    time, event = random.integers(0, 12, 50), random.random(50) < 0.5
    target = torch.tensor(np.c_[time, event, np.zeros(50)])
    metric = ConcordanceIndex()
    for rows in range(0, 50, 20):
        metric.update(survival[rows : rows + 20], target[rows : rows + 20])
    risk = risk_of(survival)
    right = pairs = 0.0
    for i in range(50):
        for j in range(50):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    np.testing.assert_allclose(metric.compute().item(), right / pairs, rtol=1e-6)
    alone = ConcordanceIndex()
    alone.update(survival[:1], target[:1])
    assert alone.compute().isnan()
