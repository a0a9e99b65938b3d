"""Negative log-likelihood of discrete hazards, the survival curves they give, and the risk.

Output k of a network is the logit of the hazard of interval k, the probability of the event in it for who has survived
the intervals before (Gensheimer and Narasimhan, A scalable discrete-time survival model for neural networks, PeerJ
7:e6257, 2019; with Zadeh and Schmid, IEEE TPAMI 43, 2021, on its bias).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DiscreteHazardLoss(nn.Module):
    """Mean over images of minus the log of the probability of what was observed.

    loss = - sum over survived intervals of log(1 - hazard) - event * log(hazard of the interval of the event)
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of (B, K) logits.

        Args:
            logits: Logits of the hazards.
            target: (B, 3): time, event (0 or 1), and number of intervals survived, which with an event is also the
                number of its interval, from 0.
        """
        interval = torch.arange(logits.shape[1], device=logits.device)
        survived = interval < target[:, 2:3]
        died = (interval == target[:, 2:3]) & (target[:, 1:2] > 0)
        terms = functional.softplus(logits) * survived + functional.softplus(-logits) * died
        return terms.sum(dim=1).mean()


def survival_curve(logits: Tensor) -> Tensor:
    """(B, K) probabilities of surviving each interval and those before it, of (B, K) logits of hazards."""
    return (-functional.softplus(logits.float()).cumsum(dim=1)).exp()


def risk_of(survival: Tensor) -> Tensor:
    """(B,) risk in 0..1, of (B, K) survival probabilities: the mean over the intervals of not surviving them."""
    return 1 - survival.mean(dim=1)
