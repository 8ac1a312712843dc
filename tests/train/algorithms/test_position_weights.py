"""Weights by position on numbers worked out by hand."""

import math

import pytest
import torch

from nopsd.config import DistillConfig, load_config
from nopsd.errors import ConfigError
from nopsd.train.algorithms.position_weights import falling, rising
from nopsd.train.batches import Batching, Example, rank_micro_batches
from nopsd.train.losses.token_head import statistics_of
from nopsd.train.planning import Limits

EXAMPLES = [Example("a", [1], [1, 2], [5, 6, 7]), Example("b", [1, 2], [1], [8, 9, 4, 3])]


def batches(**span):
    return rank_micro_batches(EXAMPLES, 0, 1, Batching(Limits(1), **span))


def test_rising_weights_have_the_mean_1_within_each_response():
    """2t/(T+1): (½, 1, 3/2) of three tokens; else long responses would count more or less than their tokens."""
    found = rising(EXAMPLES, batches(), DistillConfig())
    by_length = {len(weights): weights.tolist() for weights in found}
    assert by_length == {3: [0.5, 1.0, 1.5], 4: pytest.approx([0.4, 0.8, 1.2, 1.6])}


def test_rising_weights_begin_where_the_loss_does():
    """One token skipped, and the first three alone counted: two tokens carry loss, whatever the response has."""
    cut = batches(skip_first=1, max_tokens=3)
    found = rising(EXAMPLES, cut, DistillConfig(skip_first_tokens=1, max_loss_tokens=3))
    assert [weights.tolist() for weights in found] == [pytest.approx([2 / 3, 4 / 3])] * 2


def test_drift_counts_the_tokens_before_and_never_raises_a_weight():
    """Gaps 2, −1, 3: before each 0, 2, 1. A prefix likelier to the teacher (−4) weighs 1, not e^0.4."""
    gaps = torch.tensor([[2.0, -1.0, 3.0], [-4.0, 1.0, float("nan")]], dtype=torch.float64)
    found = falling(gaps, 10.0)
    assert found[0].tolist() == pytest.approx([1, math.exp(-0.2), math.exp(-0.1)], abs=1e-15)
    assert found[1].tolist() == [1, 1, 1]
    assert float(falling(torch.tensor([[1e9, 0.0]]), 1.0).min()) > 0, "a weight of 0 is a padded token's"


def test_the_teachers_log_prob_is_that_of_the_sampled_token():
    """A row off, and the drift would be another token's."""
    hidden, weight = torch.randn(3, 4), torch.randn(9, 4)
    own = torch.log_softmax(hidden.double() @ weight.double().T, -1)[range(3), [2, 0, 8]]
    assert torch.allclose(statistics_of(hidden, torch.tensor([2, 0, 8]), weight)[2].double(), -own, atol=1e-5)


def test_drift_from_a_mixture_of_models_is_refused():
    with pytest.raises(ConfigError, match="distill.position_weight=drift"):
        load_config("lab", ["distill.position_weight=drift", "teacher.kind=trust_region"])
