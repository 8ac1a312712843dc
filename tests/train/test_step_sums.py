"""Sums of a step: the share of the loss on style tokens, by hand."""

from types import SimpleNamespace

import pytest
import torch

from nopsd.train.algorithms.distill_metrics import StepSums
from nopsd.train.losses.fused_linear import FusedResult
from nopsd.train.losses.tile import STATISTICS


def added(style_ids):
    """Four tokens of KL 1, 2, 3, 4; the last has weight 0 and must not count."""
    kl_N = torch.tensor([1.0, 2.0, 3.0, 4.0])
    sums = torch.zeros(len(STATISTICS), dtype=torch.float64)
    sums[STATISTICS.index("tokens")], sums[STATISTICS.index("reverse_kl")] = 3, 6.0
    batch = SimpleNamespace(
        student=SimpleNamespace(names=("q",)),
        weights_N=torch.tensor([1.0, 1.0, 1.0, 0.0]),
        targets_N=torch.tensor([7, 8, 7, 7]),
        served_N=torch.full((4,), torch.nan),
    )
    step = StepSums("cpu", style_ids)
    step.add(batch, FusedResult(torch.tensor(6.0), sums, torch.zeros(4), kl_N))
    return step.values()


def test_share_of_the_loss_on_style_tokens():
    assert added((7,))["style_token_share"] == pytest.approx(4 / 6)


def test_without_style_words_there_is_no_share():
    assert "style_token_share" not in added(())
