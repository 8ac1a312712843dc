"""The token's loss and slope of GRPO against plain loops and autograd in float64."""

from __future__ import annotations

import math

import pytest
import torch

from nopsd.train.losses.grpo import GrpoLoss


def brute(logprob: float, old: float, advantage: float, reference: float, clip: float, beta: float) -> float:
    """The definition, for one token."""
    ratio = math.exp(logprob - old)
    bounded = min(max(ratio, 1 - clip), 1 + clip)
    kl = math.exp(reference - logprob) - (reference - logprob) - 1
    return -min(ratio * advantage, bounded * advantage) + beta * kl


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_values_and_slopes_are_the_definitions(beta: float):
    """A gradient where the clip is flat, or none where it isn't, trains another objective than the logged one."""
    generator = torch.Generator().manual_seed(0)
    logprob, old, reference, advantage = torch.randn(4, 200, generator=generator, dtype=torch.float64).unbind()
    logprob, old, reference = -logprob.abs(), -logprob.abs() + 0.3 * old, -reference.abs()
    loss_of = GrpoLoss(advantage, old, reference, 0.2, beta)
    value, slope = loss_of(logprob[50:], slice(50, 200))
    step = 1e-6
    for i in range(150):
        row = [old[50 + i].item(), advantage[50 + i].item(), reference[50 + i].item(), 0.2, beta]
        x = logprob[50 + i].item()
        assert value[i].item() == pytest.approx(brute(x, *row), rel=1e-12)
        assert slope[i].item() == pytest.approx((brute(x + step, *row) - brute(x - step, *row)) / (2 * step), abs=1e-5)
    ratio, clipped, kl = loss_of.logged_values(logprob)
    assert 0.1 < clipped.mean() < 0.9 and (kl >= 0).all()
    assert ((slope == 0) == (clipped[50:] == 1)).all() or beta > 0


def test_unknown_old_log_probs_count_as_the_policys_own():
    """A server that gives none must not turn the whole gradient into NaN."""
    logprob, advantage = torch.tensor([-1.0, -2.0]), torch.tensor([0.5, -0.5])
    for old in (None, torch.full((2,), math.nan)):
        loss_of = GrpoLoss(advantage, old, None, 0.2, 0.0)
        value, slope = loss_of(logprob, slice(0, 2))
        assert torch.equal(value, -advantage) and torch.equal(slope, -advantage)
        assert [t.tolist() for t in loss_of.logged_values(logprob)] == [[1, 1], [0, 0]]
