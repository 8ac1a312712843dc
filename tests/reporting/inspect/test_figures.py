"""What `nopsd inspect` draws of a small pool: the numbers must be the pool's."""

import numpy as np
import pytest

from nopsd.reporting.figures.style import BLUE, GREEN, ORANGE
from nopsd.reporting.inspect import figures as drawn
from nopsd.reporting.inspect.view import correlation_rows


def test_counts_by_domain_and_against_length(view):
    """Each domain's histogram holds its questions, each point is a question, the threshold is the selector's."""
    histogram, scatter = drawn.counts_figure(view).axes
    assert histogram.get_xlabel() == "neuron count s(x)" and scatter.get_xlabel() == "response length (tokens)"
    legend = [text.get_text() for text in histogram.get_legend().get_texts()]
    assert any(text.startswith("biology (15)") for text in legend)
    assert any(text.startswith("physics (15)") for text in legend)
    assert f"selected: at most {view.threshold:g}" in legend
    areas = [p.get_xy()[:, 1] for p in histogram.patches if hasattr(p, "get_xy") and np.ndim(p.get_xy()) == 2]
    assert len(areas) == 2
    bars = [p.get_height() for p in histogram.patches if np.ndim(p.get_xy()) == 1]
    assert sum(bars) == 30
    points = np.concatenate([c.get_offsets() for c in scatter.collections])
    assert sorted(points[:, 1].tolist()) == sorted(view.counts.tolist())
    assert [len(c.get_offsets()) for c in scatter.collections] == [(~view.selected).sum(), view.selected.sum()]


def test_one_domain_is_one_histogram_that_ends_at_the_threshold(make_view):
    """In a pool of one domain the bar left of the line holds the selected questions and no other."""
    view = make_view(domains=["biology"] * 30)
    axis = drawn.counts_figure(view).axes[0]
    line = view.threshold + 0.5
    left = sum(bar.get_height() for bar in axis.patches if bar.get_x() + bar.get_width() <= line + 1e-9)
    assert left == view.selected.sum() and sum(bar.get_height() for bar in axis.patches) == 30


def test_a_threshold_of_another_selector_is_not_drawn_as_a_count(make_view):
    """A threshold in nats drawn on the axis of counts would mislead."""
    axis = drawn.counts_figure(make_view(threshold=0.4)).axes[0]
    assert not any("selected" in text.get_text() for text in axis.get_legend().get_texts())


def test_every_signal_has_its_panel(make_view):
    """A signal drawn under another's name, or questions without a value drawn as something, would mislead."""
    rng = np.random.default_rng(0)
    holed = np.where(np.arange(30) < 10, np.nan, rng.random(30))
    view = make_view(signals=dict.fromkeys(("majority_conf", "seq_nll", "mine", "token_entropy"), holed))
    axes = drawn.signals_figure(view).axes
    assert [axis.get_title().split("\n")[0] for axis in axes] == ["majority_conf", "seq_nll", "mine", "token_entropy"]
    assert axes[0].get_ylabel() == "majority answer's share" and axes[2].get_ylabel() == "mine"
    assert all(len(axis.collections[0].get_offsets()) == 20 for axis in axes)
    assert drawn.signals_figure(make_view(signals={})) is None


def test_correlations_are_drawn_where_they_are(view):
    """The dots must stand at the table's values."""
    rows = correlation_rows(view)
    axis = drawn.correlations_figure(rows).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["length", "majority_conf", "token_entropy"]
    dots = {c.get_label(): c.lines[0].get_xdata() for c in axis.containers}
    assert dots["Pearson"].tolist() == [row.found.pearson.value for row in rows]
    assert dots["Pearson"][0] == pytest.approx(np.corrcoef(view.counts, view.lengths)[0, 1])
    assert dots["Pearson, log length held fixed"].tolist() == [row.found.partial.value for row in rows[1:]]


def test_the_overlap_map_marks_its_own_rows(view):
    """Domain and selection marks must belong to the heatmap's rows, in its order."""
    figure = drawn.overlap_figure(view)
    heat, histogram = figure.axes[:2]
    assert np.array_equal(heat.images[0].get_array(), view.overlap.distances)
    strips = {axis.get_xlabel(): axis.images[0].cmap.colors for axis in heat.child_axes}
    colours = dict(zip(("biology", "physics"), (BLUE, GREEN)))
    assert list(strips["domain"]) == [colours[view.domains[row]] for row in view.overlap.rows]
    assert [c == "#222222" for c in strips["selected"]] == view.selected[view.overlap.rows].tolist()
    assert sum(bar.get_height() for bar in histogram.patches) == 30 * 29 / 2
    assert f"mean {view.overlap.pairs.mean():.3f}" in [t.get_text() for t in histogram.get_legend().get_texts()]


def test_the_map_shows_each_question_once_by_domain_and_by_selection(view, make_view):
    """A point in the wrong colour puts a question into the wrong group."""
    by_domain, by_selection = drawn.map_figure(view).axes
    first = by_domain.collections[0].get_offsets()
    rows = [row for row in view.overlap.rows if view.domains[row] == "biology"]
    assert len(first) == len(rows) == 15
    places = {row: place for place, row in enumerate(view.overlap.rows)}
    np.testing.assert_allclose(first, view.overlap.map_n2[[places[row] for row in rows]])
    assert len(by_selection.collections[1].get_offsets()) == view.selected.sum()
    alone = drawn.map_figure(make_view(domains=["biology"] * 30, selected=None))
    assert sorted(alone.axes[0].collections[0].get_array().tolist()) == sorted(view.counts.tolist())


def test_layers_are_means_of_selected_and_others(view, make_view):
    """The per-layer histogram must be the artefact's, split by selection."""
    axis = drawn.layers_figure(view.members, view.widths, view.selected).axes[0]
    others, selected, even = (line.get_ydata() for line in axis.lines)
    np.testing.assert_allclose(others, view.members[~view.selected].mean(0))
    np.testing.assert_allclose(selected, view.members[view.selected].mean(0))
    np.testing.assert_allclose(even, view.members.sum(1).mean() * np.array([40, 20, 60]) / 120)
    assert axis.lines[1].get_color() == ORANGE
    assert len(drawn.layers_figure(view.members, view.widths, None).axes[0].lines) == 2


def test_many_domains_share_a_colour_beyond_the_sixth():
    """Colours that repeat would merge domains silently."""
    colours = drawn.shown_domains([f"d{i}" for i in range(9) for _ in range(9 - i)])
    assert list(colours) == ["d0", "d1", "d2", "d3", "d4", drawn.OTHERS] and len(set(colours.values())) == 6
    assert list(drawn.shown_domains(["b", "a", "b"])) == ["b", "a"]
