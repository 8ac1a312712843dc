"""nopsd.reporting.figures.evaluation: accuracies stand beside their domains, calibration at its bins."""

import numpy as np
import pytest

from nopsd.reporting.figures.evaluation import accuracy_figure, calibration_figure


def test_domains_are_named_the_pools_own_first(make_result):
    """Breaks if a dot stands beside another domain's name."""
    before = {"chem": make_result("chem", 0.5, 1), "bio": make_result("bio", 0.5, 0)}
    axis = accuracy_figure(before, {}, "bio").axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["bio (pool)", "chem"]
    dots = axis.containers[0].lines[0]
    assert dots.get_xdata().tolist() == [100 * before[d].metrics["avg"] for d in ("bio", "chem")]


def test_calibration_points_are_accuracies_of_their_bins(make_judged):
    """Breaks if the curve isn't the one that ECE is computed from."""
    result = make_judged("bio", ["AAAA", "BBBB", "AABC", "BBAC"])
    line = calibration_figure(result, None).axes[0].lines[1]
    assert line.get_xdata() == pytest.approx([0.5, 1.0]) and line.get_ydata() == pytest.approx([0.5, 0.5])
    assert np.array(calibration_figure(None, None)).item() is None
