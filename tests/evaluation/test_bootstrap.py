"""nopsd.evaluation.bootstrap: intervals that are too narrow, or unpaired, would sell noise as gain."""

import numpy as np
import pytest
from scipy import stats

from nopsd.evaluation import metrics
from nopsd.evaluation.bootstrap import (
    Outcomes,
    headline,
    intervals,
    mean_intervals,
    paired_differences,
    pass_ks,
    resample_counts,
)


def outcomes(seed, questions=120, k=8, rate=0.6):
    rng = np.random.default_rng(seed)
    correct = rng.random((questions, k)) < np.clip(rate + 0.3 * rng.standard_normal((questions, 1)), 0, 1)
    right = correct.sum(axis=1)
    return Outcomes(correct, right >= k / 2, np.maximum(right, k - right) / k)


def test_headline_without_counts_is_the_metrics_themselves():
    o = outcomes(0)
    values = headline(o, 15)
    assert values["avg"][0] == pytest.approx(metrics.avg_at_k(o.correct_Nk))
    assert values["maj"][0] == pytest.approx(metrics.maj_at_k(o.vote_N))
    assert values["ece"][0] == pytest.approx(metrics.ece(o.share_N, o.vote_N, 15))
    assert values["pass@4"][0] == pytest.approx(metrics.pass_at_k(o.correct_Nk, 4))


def test_every_resample_equals_the_metrics_of_the_questions_drawn():
    """The matrix form is exact: an explicit loop over drawn questions gives the same numbers."""
    o = outcomes(1, questions=30)
    counts = resample_counts(30, 20, seed=5)
    assert (counts.sum(axis=1) == 30).all()
    values = headline(o, 15, counts)
    for b, row in enumerate(counts.astype(int)):
        drawn = np.repeat(np.arange(30), row)
        assert values["avg"][b] == pytest.approx(metrics.avg_at_k(o.correct_Nk[drawn]))
        assert values["ece"][b] == pytest.approx(metrics.ece(o.share_N[drawn], o.vote_N[drawn], 15))
        assert values["pass@2"][b] == pytest.approx(metrics.pass_at_k(o.correct_Nk[drawn], 2))


def test_the_interval_has_the_width_of_the_standard_error_and_is_reproducible():
    o = outcomes(2, questions=400)
    first = intervals(o, 15, 2000, seed=3)
    avg = first["avg"]
    se = o.correct_Nk.mean(axis=1).std() / np.sqrt(400)
    assert avg.low < avg.value < avg.high
    assert avg.high - avg.low == pytest.approx(2 * 1.96 * se, rel=0.1)
    assert intervals(o, 15, 2000, seed=3) == first
    assert intervals(o, 15, 2000, seed=4) != first


def test_the_interval_is_scipys_percentile_bootstrap():
    """Breaks if our product form draws or cuts otherwise than the well-known implementation, seed for seed."""
    o = outcomes(7, questions=50)
    theirs = stats.bootstrap(
        (o.correct_Nk.mean(axis=1),), np.mean, n_resamples=300, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    ours = intervals(o, 15, 300, seed=3)["avg"]
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_pairing_removes_what_the_questions_share():
    """A model a little better on the very same questions: paired, the gain is beyond doubt."""
    before = outcomes(4, questions=200, rate=0.5)
    better = before.correct_Nk.copy()
    better[:, 0] = True
    after = Outcomes(better, before.vote_N, before.share_N)
    paired = paired_differences([before], [after], 15, 1000, seed=0)["avg"]
    alone = intervals(after, 15, 1000, seed=0)["avg"]
    assert paired.value == pytest.approx(metrics.avg_at_k(better) - metrics.avg_at_k(before.correct_Nk))
    assert 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    same = paired_differences([before], [before], 15, 100, seed=0)
    assert all((v.value, v.low, v.high) == (0, 0, 0) for v in same.values())


def test_a_mean_over_domains_weighs_domains_not_questions():
    small, large = outcomes(5, questions=20, rate=0.2), outcomes(6, questions=200, rate=0.8)
    mean = mean_intervals([small, large], 15, 500, seed=0)["avg"]
    expected = (metrics.avg_at_k(small.correct_Nk) + metrics.avg_at_k(large.correct_Nk)) / 2
    assert mean.value == pytest.approx(expected)
    assert mean.low < expected < mean.high


def test_unequal_question_counts_are_refused():
    with pytest.raises(ValueError, match="10 and 11"):
        paired_differences([outcomes(0, 10)], [outcomes(0, 11)], 15, 10, seed=0)


def test_no_resamples_no_interval():
    value = intervals(outcomes(0), 15, 0, seed=0)["ece"]
    assert (value.low, value.high) == (None, None)


@pytest.mark.parametrize(("k", "expected"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_pass_ks(k, expected):
    assert pass_ks(k) == expected
