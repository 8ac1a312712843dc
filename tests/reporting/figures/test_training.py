"""nopsd.reporting.figures.training: curves are the logged numbers, and logs with gaps are drawn."""

import numpy as np

from nopsd.reporting.figures.style import png
from nopsd.reporting.figures.training import (
    entropy_figure,
    health_figure,
    length_figure,
    loss_figure,
    running_mean,
)

PNG = b"\x89PNG\r\n\x1a\n"


def test_odd_training_logs_are_drawn(make_training):
    """Breaks if a lost or constant number fails the report."""
    for rows in (
        [{"step": 0}],
        make_training(2, loss=None, grad_norm=None),
        make_training(40, logprob_gap=0.0),
    ):
        for draw in (loss_figure, entropy_figure, length_figure, health_figure):
            assert png(draw(rows)).startswith(PNG)


def test_a_curve_is_what_was_logged(make_training):
    """Breaks if a panel shows another metric than it names, or nothing."""
    rows = make_training(4)
    loss, divergence = loss_figure(rows).axes
    assert loss.lines[0].get_ydata().tolist() == [1, 1 / 2, 1 / 3, 1 / 4]
    assert [line.get_ydata()[0] for line in divergence.lines] == [0.1, 0.2]
    both, gap = entropy_figure(rows).axes
    assert [line.get_ydata()[0] for line in both.lines] == [0.3, 0.2] and gap.lines[0].get_ydata()[0] == -0.1
    assert [line.get_ydata()[0] for line in length_figure(rows).axes[0].lines] == [9, 12]
    assert health_figure(rows).axes[2].get_yscale() == "log"
    assert "not logged" in [t.get_text() for t in health_figure([{"step": 0}]).axes[0].texts]


def test_running_mean():
    """Breaks if the thick curves lag or are flattened."""
    assert running_mean(np.array([2.0, 4.0, 6.0, 8.0]), 2).tolist() == [2, 3, 5, 7]
