"""nopsd.reporting.correlations against scipy, least squares and resampling by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nopsd.evaluation.bootstrap import resample_counts
from nopsd.reporting import correlations
from nopsd.reporting.correlations import correlation, pearson, resamples_for, spearman


@pytest.fixture
def columns():
    """Counts with ties, a column that follows them, and a length behind both."""
    rng = np.random.default_rng(1)
    length = rng.integers(20, 400, 60).astype(float)
    x = np.round(5 * np.log(length) + rng.normal(0, 3, 60))
    y = np.round(2 * np.log(length) - 0.1 * x + rng.normal(0, 1, 60), 1)
    return x, y, np.log(length)


def residuals(y, z):
    design = np.stack([np.ones_like(z), z], 1)
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


def test_values_are_scipys(columns):
    """Wrong correlations would mislead every reader of the table."""
    x, y, _ = columns
    found = correlation(x, y)
    assert found.questions == 60 and found.partial is None
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_partial_correlation_is_that_of_regression_residuals(columns):
    """A length control that leaves length in would sell the length confound as confidence."""
    x, y, z = columns
    partial = correlation(x, y, z).partial
    assert partial.value == pytest.approx(np.corrcoef(residuals(x, z), residuals(y, z))[0, 1], abs=1e-10)
    assert abs(partial.value - correlation(x, y).pearson.value) > 0.1


def test_intervals_are_those_of_samples_drawn_one_by_one(columns, monkeypatch):
    """The weighted form of the bootstrap (ranks anew in each sample) must be the bootstrap."""
    x, y, z = columns
    monkeypatch.setattr(correlations, "RESAMPLES", 100)
    drawn = []
    for counts in resample_counts(60, 100, 7).astype(int):
        a, b, c = (np.repeat(column, counts) for column in columns)
        drawn.append(
            (
                stats.pearsonr(a, b).statistic,
                stats.spearmanr(a, b).statistic,
                np.corrcoef(residuals(a, c), residuals(b, c))[0, 1],
            )
        )
    found = correlation(x, y, z, seed=7)
    for side, draws in zip((found.pearson, found.spearman, found.partial), np.array(drawn).T):
        assert [side.low, side.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-9)
        assert side.low < side.value < side.high


def test_blocks_do_not_change_what_is_covered(columns, monkeypatch):
    """A pool too large for one block must get as many resamples as a small one."""
    x, y, z = columns
    seen = []
    drawn = correlations.resample_counts
    monkeypatch.setattr(correlations, "resample_counts", lambda n, k, seed: seen.append(k) or drawn(n, k, seed))
    monkeypatch.setattr(correlations, "BLOCK", 60 * 64)
    correlation(x, y, z)
    assert sum(seen) == correlations.RESAMPLES and max(seen) == 64
    assert resamples_for(5636) == 1000 and resamples_for(10**6) == correlations.LEAST_RESAMPLES


def test_unknown_values_are_left_out_and_constants_have_no_correlation(columns):
    """Questions without a value must not count as zero, nor a constant column as uncorrelated."""
    x, y, z = columns
    holed = np.where(np.arange(60) % 3 == 0, np.nan, y)
    known = np.isfinite(holed)
    assert correlation(x, holed, z).questions == known.sum() == 40
    assert correlation(x, holed).pearson.value == pytest.approx(np.corrcoef(x[known], y[known])[0, 1])
    constant = correlation(x, np.ones(60), z)
    assert np.isnan(constant.pearson.value) and constant.pearson.low is None and constant.partial is None
    assert correlation(x, y, np.ones(60)).partial is None  # nothing to hold fixed
    assert correlation(x, z, z).partial is None  # nothing left beside the control
    assert correlation(x[:2], y[:2]).questions == 2 and np.isnan(correlation(x[:2], y[:2]).pearson.value)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40))
def test_coefficients_with_ties_and_constants(points):
    """Breaks if ties get other ranks than their mean, or a constant side is called uncorrelated."""
    x, y = np.array(points, dtype=float).T
    ranks = [np.array([(column < v).sum() + ((column == v).sum() + 1) / 2 for v in column]) for column in (x, y)]
    if np.ptp(x) and np.ptp(y):
        assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
        assert spearman(x, y) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    else:
        assert np.isnan(pearson(x, y)) and np.isnan(spearman(x, y))
