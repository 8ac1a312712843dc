"""Figures of a comparison."""

from nopsd.reporting.compare.figures import pooled_points
from nopsd.reporting.compare.views import Pool


def test_figure_3_is_normalised_within_its_source():
    """Breaks if sources of other neuron counts are not brought to one scale, or an unknown answer counts as wrong."""
    points = pooled_points(
        {"a": Pool([10, 30, 20, 99], [1.0, 0.0, 0.5, float("nan")], 1), "flat": Pool([5, 5], [1, 0], 1)}
    )
    x, y = points["a"]
    assert x.tolist() == [0.0, 0.5, 1.0] and y.tolist() == [-0.5, 0.0, 0.5] and "flat" not in points
