"""What `nopsd inspect` writes of a small pool: pages, texts and figures that are linked, labels shown only if given."""

import re

import numpy as np
import pytest

from nopsd.reporting.inspect import figures as drawn
from nopsd.reporting.inspect.overlap import Near, overlap
from nopsd.reporting.inspect.report import console_text, layer_text, neighbour_text, shortened, write_inspection
from nopsd.reporting.inspect.view import correlation_rows

PNG = b"\x89PNG\r\n\x1a\n"


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
