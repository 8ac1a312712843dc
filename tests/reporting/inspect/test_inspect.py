"""What `nopsd inspect` draws and writes of a small pool: the numbers must be the pool's, labels shown only if given."""

import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nopsd.reporting.figures.style import BLUE, GREEN, ORANGE, panels, png
from nopsd.reporting.inspect import figures as drawn
from nopsd.reporting.inspect.overlap import Near, overlap
from nopsd.reporting.inspect.report import console_text, layer_text, neighbour_text, shortened, write_inspection
from nopsd.reporting.inspect.tensorboard import write_board
from nopsd.reporting.inspect.view import correlation_rows

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def view(make_view):
    return make_view()


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made but not rendered: that takes most of the time."""
    pixel = png(panels(1, 1.5, 1.5)[0])
    monkeypatch.setattr("nopsd.reporting.figures.style.png", lambda figure: pixel)


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
    axis = drawn.layers_figure(view).axes[0]
    others, selected, even = (line.get_ydata() for line in axis.lines)
    np.testing.assert_allclose(others, view.members[~view.selected].mean(0))
    np.testing.assert_allclose(selected, view.members[view.selected].mean(0))
    np.testing.assert_allclose(even, view.members.sum(1).mean() * np.array([40, 20, 60]) / 120)
    assert axis.lines[1].get_color() == ORANGE
    assert len(drawn.layers_figure(make_view(selected=None)).axes[0].lines) == 2


def test_many_domains_share_a_colour_beyond_the_sixth():
    """Colours that repeat would merge domains silently."""
    colours = drawn.shown_domains([f"d{i}" for i in range(9) for _ in range(9 - i)])
    assert list(colours) == ["d0", "d1", "d2", "d3", "d4", drawn.OTHERS] and len(set(colours.values())) == 6
    assert list(drawn.shown_domains(["b", "a", "b"])) == ["b", "a"]


def test_everything_is_written_and_linked(view, tmp_path):
    """A figure that is linked and absent, or written and not linked, is lost to the reader."""
    figures = write_inspection(tmp_path, view, correlation_rows(view))
    text = (tmp_path / "inspect.md").read_text()
    linked = re.findall(r"\]\((\w+)\.png\)", text)
    assert sorted(linked) == sorted(figures) == sorted(p.stem for p in tmp_path.glob("*.png"))
    assert set(figures) == {"counts", "correlations", "confidence", "overlap", "map", "layers"}
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.glob("*.png"))
    page = (tmp_path / "inspect.html").read_text()
    assert page.count('src="data:image/png;base64,') == 6 and 'src="counts.png"' not in page
    assert "&lt;answer&gt;" in page and "<answer>" not in page


@pytest.mark.usefixtures("unrendered")
def test_accuracy_is_shown_only_with_an_evaluation_and_said_to_be_labels(make_view, tmp_path):
    """Labels in an unlabelled pool's pages would be a leak; a stale figure of an earlier call too."""
    correct = np.where(np.arange(30) % 2 == 0, 1.0, np.nan)
    correct[2] = 0.0
    labelled = make_view(correct=correct, correct_from="my/eval.json")
    rows = correlation_rows(labelled)
    assert rows[-1].labelled and rows[-1].found.questions == 15
    figures = write_inspection(tmp_path, labelled, rows)
    text = (tmp_path / "inspect.md").read_text()
    assert "accuracy" in figures and "accuracy (labels)" in text and "`my/eval.json`" in text
    assert "no stage before evaluation reads it" in text
    assert len(drawn.accuracy_figure(labelled).axes[0].collections[0].get_offsets()) == 15

    plain = make_view()
    rows = correlation_rows(plain)
    assert "accuracy" not in write_inspection(tmp_path, plain, rows) and not (tmp_path / "accuracy.png").exists()
    text = (tmp_path / "inspect.md").read_text()
    assert "No accuracy" in text and "(labels)" not in text and "answers right" not in text
    assert "No accuracy" in console_text(plain, rows, tmp_path)


def test_neighbours_read_as_text(view, make_view):
    """Question, own answer, then the nearest with J, shared neurons and layers: what the stage's product looks like."""
    shown = view.neighbourhoods[0]
    text = neighbour_text(view, shown)
    order = [text.index(said) for said in ("### q04: asked for", "What is 4?", "It is <answer>4</answer>")]
    for place, near in enumerate(shown.near, start=1):
        order.append(text.index(f"**{place}. q{near.row:02d}**: J = {near.distance:.3f}, {near.shared} shared neurons"))
        order.append(text.index(f"What is {near.row}?"))
    assert order == sorted(order) and len(shown.near) == 3
    assert f"of {view.members[4].sum()} and {view.members[shown.near[0].row].sum()}, in layers" in text
    assert f"s(x) = {view.counts[4]:g}, {view.lengths[4]} tokens, biology" in text and "cut at the limit" in text
    hostile = make_view(texts=[view.texts[0].__class__("a|<b>", None, "```\n# x") for _ in range(30)])
    text = neighbour_text(hostile, shown)
    assert "not there" in text and "<b>" not in text and "```\n# x" not in text


def test_long_texts_keep_their_beginning_and_end():
    """The answer of a long response stands at its end; cutting it off would hide what the neighbour says."""
    text = "start " + "x" * 5000 + " <answer>B</answer>"
    short = shortened(text, 400)
    assert short.startswith("start xx") and short.endswith("<answer>B</answer>") and len(short) < 450
    assert f"[... {len(text) - 400:,} characters ...]" in short
    assert shortened(" short \n", 400) == "short"


def test_layers_that_share_most_come_first():
    """36 layers can't all be named; those that matter must be."""
    by_layer = np.array([0, 5, 9, 1, 1, 1, 1, 2])
    near = Near(0, 0.5, 20, by_layer)
    assert layer_text(near) == "in layers 2 (9), 1 (5), 7 (2), 3 (1), 4 (1), 5 (1), others (1)"
    assert layer_text(Near(0, 1.0, 0, np.zeros(8, int))) == "in no layer"


def test_tensorboard_has_images_histograms_and_text(view, tmp_path):
    """A board without the figures or with an earlier call's would show nothing, or the wrong run."""
    rows = correlation_rows(view)
    figures = {"counts": drawn.counts_figure(view), "map": drawn.map_figure(view)}
    for _ in range(2):
        write_board(tmp_path / "tb", view, rows, {name: png(figure) for name, figure in figures.items()})
    assert len(list((tmp_path / "tb").iterdir())) == 1
    board = EventAccumulator(str(tmp_path / "tb"), size_guidance={"histograms": 0, "images": 0, "tensors": 0})
    board.Reload()
    tags = board.Tags()
    assert tags["images"] == ["inspect/counts", "inspect/map"]
    image = board.Images("inspect/counts")[0]
    height, width = np.array(figures["counts"].get_size_inches() * figures["counts"].dpi, int)[::-1]
    assert (image.height, image.width) == (height, width)
    assert {"inspect/neuron_count", "inspect/length", "inspect/jaccard", "inspect/majority_conf", "layer/002"} <= set(
        tags["histograms"]
    )
    assert board.Histograms("inspect/neuron_count")[0].histogram_value.num == 30
    assert any("neighbours/q04" in tag for tag in tags["tensors"])
    assert not any(tag.startswith("labels") for kind in ("images", "histograms") for tag in tags[kind])


@pytest.mark.parametrize("questions", [1, 2, 4])
def test_a_pool_of_few_or_equal_questions_is_drawn(make_view, sets, tmp_path, questions):
    """Tiny pools and constant counts must not end in a traceback."""
    ids, members, widths = sets
    n = questions
    whole = make_view()
    view = make_view(
        ids=ids[:n],
        counts=np.full(n, 7.0),
        lengths=np.full(n, 3),
        selected=np.ones(n, bool),
        threshold=7.0,
        signals={"majority_conf": np.ones(n)},
        neighbourhoods=[],
        texts=whole.texts[:n],
        domains=["a"] * n,
        members=members[:n],
        truncated=np.zeros(n, bool),
        overlap=overlap(ids[:n], members[:n], widths),
    )
    assert all(image.startswith(PNG) for image in write_inspection(tmp_path, view, correlation_rows(view)).values())
    assert (view.overlap is None) == (n < 3)
