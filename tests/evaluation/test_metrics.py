"""nopsd.evaluation.metrics: the numbers every claim of the product is made of."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nopsd.evaluation import metrics
from nopsd.evaluation.metrics import ece
from tests.programs import run_peer

QUICK = settings(max_examples=40, deadline=None)


def ece_by_histogram(share, right, bins):
    """An independent ECE: numpy's own histogram (left edges included) instead of our binning."""
    count, _ = np.histogram(share, bins, (0, 1))
    confidence, _ = np.histogram(share, bins, (0, 1), weights=share)
    accuracy, _ = np.histogram(share, bins, (0, 1), weights=np.asarray(right, dtype=float))
    filled = count > 0
    gaps = np.abs(accuracy[filled] / count[filled] - confidence[filled] / count[filled])
    return float((count[filled] / len(share) * gaps).sum())


VOTES = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=60)


def test_ece_each_eighth_has_its_own_bin():
    """With n = 8 the k/8 fall in bins 0 (k = 0), 1, 3, 5, 7, 9, 11, 13 and 14."""
    bins = metrics.calibration_bins(np.arange(9) / 8, 15)
    assert bins.tolist() == [0, 1, 3, 5, 7, 9, 11, 13, 14]


@QUICK
@given(VOTES)
def test_ece_is_the_sum_over_eighths(votes):
    """ECE = sum_k (n_k / N) |acc_k - k/8|, and equals an independent histogram's."""
    eighths, right = np.array([v[0] for v in votes]), np.array([v[1] for v in votes])
    expected = sum(
        (eighths == k).mean() * abs(right[eighths == k].mean() - k / 8) for k in range(9) if (eighths == k).any()
    )
    value = metrics.ece(eighths / 8, right, 15)
    assert value == pytest.approx(expected, abs=1e-12)
    assert value == pytest.approx(ece_by_histogram(eighths / 8, right, 15), abs=1e-12)


def test_ece_by_hand():
    """Two sure and right, one sure and wrong, one at 0.5 and right: 3/4·|2/3 - 1| + 1/4·|1 - 1/2|."""
    assert metrics.ece([1.0, 1.0, 1.0, 0.5], np.array([1, 1, 0, 1])) == pytest.approx(0.25 + 0.125)
    assert metrics.ece([0.0], np.array([0])) == 0.0  # nothing parsed: wrong, with confidence 0


@QUICK
@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=1, max_size=80), st.integers(1, 20))
def test_ece_with_any_confidences_equals_the_histogram(votes, bins):
    share, right = np.array([v[0] for v in votes]), np.array([v[1] for v in votes])
    share = share[np.abs(share * bins - np.round(share * bins)) > 1e-6]  # off the edges, where conventions differ
    right = right[: len(share)]
    if len(share):
        assert metrics.ece(share, right, bins) == pytest.approx(ece_by_histogram(share, right, bins), abs=1e-9)


def test_a_share_on_an_edge_belongs_to_the_bin_below():
    assert metrics.calibration_bins(np.arange(1, 16) / 15, 15).tolist() == list(range(15))
    assert metrics.calibration_bins([3 / 5], 5).tolist() == [2]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["A", "B", "B", None], ("B", 0.5)),
        (["B", "A", "A", "B"], ("B", 0.5)),  # tie: the first seen
        ([None, "C", "A"], ("C", 1 / 3)),
        ([None, None], (None, 0.0)),
    ],
)
def test_majority(answers, expected):
    assert metrics.majority_answer(answers) == expected


def test_avg_and_maj_by_hand():
    assert metrics.avg_at_k(np.array([[1, 1, 0, 0], [1, 0, 0, 0]])) == 0.375
    assert metrics.maj_at_k(np.array([True, False, True, True])) == 0.75


@QUICK
@given(st.integers(1, 7), st.data())
def test_pass_at_k_counts_the_subsets_with_a_right_sample(n, data):
    correct = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=5)))
    k = data.draw(st.integers(1, n))
    expected = np.mean([np.mean([any(chosen) for chosen in combinations(row, k)]) for row in correct.tolist()])
    assert metrics.pass_at_k(correct, k) == pytest.approx(expected)


def test_pass_at_1_is_avg_and_more_draws_than_samples_are_refused():
    correct = np.random.default_rng(0).random((40, 8)) < 0.4
    assert metrics.pass_at_k(correct, 1) == pytest.approx(metrics.avg_at_k(correct))
    with pytest.raises(ValueError, match="pass@9"):
        metrics.pass_at_k(correct, 9)


def test_shares_of_samples_are_over_all_samples():
    answers = [["A", None, "A"], [None, None, "B"]]
    assert metrics.unparsed_share(answers) == 0.5
    assert metrics.distinct_answers(answers) == 1.0
    assert metrics.truncated_share([["stop", "length"], ["stop", "stop"]]) == 0.25
    assert metrics.mean_length([[1, 2], [3, 6]]) == 3.0


def pairs(k, n, seed):
    """Shares of k samples and votes that are right a little less often than they say."""
    rng = np.random.default_rng(seed)
    share = rng.integers(1, k + 1, size=n) / k
    return share, rng.random(n) < 0.85 * share


def test_ece_is_torchmetrics(tmp_path):
    """Breaks if our bins, weights or norm are not those of the library that others report ECE by. k = 8 and 4, 15 bins:
    no share lies on an edge of a bin, where the two conventions would differ (0 and 1 apart, which fall alike)."""
    cases = [
        (*pairs(k, n, seed), bins)
        for k, n, seed, bins in ((8, 400, 0, 15), (8, 37, 1, 15), (4, 250, 2, 15), (8, 120, 3, 10), (16, 500, 4, 15))
    ]
    sent = [(torch.from_numpy(share), torch.from_numpy(vote.astype(int)), bins) for share, vote, bins in cases]
    theirs = run_peer("torchmetrics", Path(__file__).with_name("torchmetrics_reference.py"), sent, tmp_path)
    ours = [ece(share, vote, bins) for share, vote, bins in cases]
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert min(ours) > 0.02, "a check on nothing"
