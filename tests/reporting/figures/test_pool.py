"""nopsd.reporting.figures.pool: histograms and scatters hold the pool's own numbers, whatever the pool."""

import numpy as np
import pytest

from nopsd.reporting.figures.pool import neuron_count_figure, selection_figure
from nopsd.reporting.figures.style import png

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"correct": None, "agreement": [0.5] * 80},  # constant: no correlation
        {"correct": [None] * 79 + [1.0]},
        {"threshold": None, "selected": np.ones(80, bool), "selector": "all"},
        {"counts": np.full(80, 7.0), "selected": np.zeros(80, bool), "threshold": 7.0},
        {"questions": 1, "counts": np.array([3.0]), "lengths": np.array([2]), "selected": [True], "correct": [1.0]},
        {"counts": np.linspace(0.1, 0.9, 80)},  # means over several rollouts are no whole numbers
    ],
)
def test_odd_pools_are_drawn(make_pool, changes):
    """Breaks if a report of a degenerate pool fails after hours of work."""
    view = make_pool(**changes)
    for draw in (neuron_count_figure, selection_figure):
        assert png(draw(view)).startswith(PNG)


def test_the_histogram_holds_the_selected_questions_and_the_threshold(make_pool):
    """Breaks if areas aren't the numbers of questions, or a threshold that is no count is drawn as one."""
    view = make_pool()
    counts = selection_figure(view).axes[0]
    heights = [sum(bar.get_height() for bar in group) for group in counts.containers]
    assert heights == [view.selected.sum(), (~view.selected).sum()]
    assert "threshold 58" in [t.get_text() for t in counts.get_legend().get_texts()]
    uniform = make_pool(threshold=0.2, selected=view.counts % 5 == 0, selector="random")
    assert not selection_figure(uniform).axes[0].lines
