"""Hostile text in every field of every page: if these fail, opening a report runs what a data set's author wrote."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markdown import markdown as any_viewer

from nopsd.config import Config, to_plain
from nopsd.data.records import Option, Question
from nopsd.evaluation.unlabelled import AnswerRow, compare
from nopsd.reporting.compare.gathering import view_of
from nopsd.reporting.compare.plan import members
from nopsd.reporting.compare.report import write_comparison
from nopsd.reporting.escaping import csv_text, escape, page_html
from nopsd.reporting.examples import Example
from nopsd.reporting.figures.style import panels, png
from nopsd.reporting.inspect.report import write_inspection
from nopsd.reporting.inspect.view import QuestionText, correlation_rows
from nopsd.reporting.report import write_report
from nopsd.reporting.table import Entry, Table, as_csv, latex, markdown, picture
from nopsd.reporting.views import DemoView, HeldOut, ReportInputs
from tests.reporting.compare.conftest import finish, plan_in

TEXTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[press](javascript:alert(1))",
    "\\[press\\](javascript:alert(1))",
    "![seen](https://evil.example/pixel.png)",
    "[ref]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "```\n</pre><script>1</script>",
    "=HYPERLINK(1)|x",
    "$\\frac$ $x",
    "a\n\n<b>bold</b>",
)
HOSTILE = " ".join(TEXTS)
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "ul", "li", "em", "strong", "sub", "br"),
    *("img", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"),
}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "alt", "src", "style", "class"}


class Seen(HTMLParser):
    """Every tag, attribute and image of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.sources = set[str](), set[str](), list[str]()
        self.meta: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.sources += [value or "" for name, value in attributes if name == "src"]
        self.meta += [dict(attributes)] if tag == "meta" else []


def check_folder(folder: Path, images: int | None = None) -> None:
    """No page of the folder holds a tag, attribute, link or image but those of our own making."""
    pages = sorted(folder.rglob("*.html"))
    assert pages
    for path in pages:
        seen = Seen(path.read_text())
        assert seen.tags <= TAGS and seen.attributes <= ATTRIBUTES, path
        assert all(source.startswith("data:image/png;base64,") for source in seen.sources)
        policy = next(m["content"] or "" for m in seen.meta if m.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy and "script-src" not in policy
    for path in folder.rglob("*.md"):
        seen = Seen(any_viewer(path.read_text(), extensions=["tables", "fenced_code"]))
        assert seen.tags <= TAGS and "href" not in seen.attributes, (path, seen.tags)
        assert all("//" not in source for source in seen.sources), path


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    pixel = png(panels(1, 1.5, 1.5)[0])
    monkeypatch.setattr("nopsd.reporting.figures.style.png", lambda figure: pixel)
    monkeypatch.setattr("nopsd.reporting.compare.report.png", lambda figure: pixel)


def held_out() -> HeldOut:
    """Held-out questions whose texts, options and answers are all hostile."""
    question = Question("q", HOSTILE, "s", HOSTILE, (Option(HOSTILE, HOSTILE), Option("=b", HOSTILE)))
    before, after = (AnswerRow("q", [a, a], a, 1.0, ["stop"] * 2, [1, 1], 0.0) for a in (HOSTILE, "=b"))
    return HeldOut(compare([before], [after], 10, 0), [HOSTILE], {"q": question})


def test_the_report(tmp_path, make_result, make_training, make_pool):
    """Figures too are drawn: a formula in a name ended the stage."""
    other = f"other {HOSTILE}"
    config = to_plain(Config())
    config["data"]["domain"] = HOSTILE
    inputs = ReportInputs(
        HOSTILE,
        HOSTILE,
        make_training(5),
        {HOSTILE: make_result(HOSTILE, 0.9, 0), other: make_result(other, 0.9, 1)},
        {HOSTILE: make_result(HOSTILE, 0.1, 2), other: make_result(other, 0.1, 3)},
        make_pool(),
        DemoView([[0.2, 0.5]], 0.8, HOSTILE),
        config,
        {HOSTILE: HOSTILE, "command": [HOSTILE]},
        [HOSTILE, *TEXTS],
        held=held_out(),
        examples=[Example("changed", HOSTILE, HOSTILE, escape(HOSTILE), (escape(HOSTILE),) * 2, HOSTILE, HOSTILE)],
        done=[HOSTILE],
        command=HOSTILE,
    )
    write_report(tmp_path, inputs)
    check_folder(tmp_path)


@pytest.mark.usefixtures("unrendered")
def test_the_inspection(tmp_path, make_view):
    texts = [QuestionText(f"{HOSTILE}{i}", HOSTILE, HOSTILE) for i in range(30)]
    view = make_view(title=HOSTILE, texts=texts, domains=[HOSTILE, f"{HOSTILE}2"] * 15, notes=[HOSTILE])
    write_inspection(tmp_path, view, correlation_rows(view))
    check_folder(tmp_path)


@pytest.mark.usefixtures("unrendered")
def test_the_comparison(tmp_path):
    methods = {HOSTILE: {"method": "nopsd"}, f"{HOSTILE} 2": {"method": "nopsd", "set": {"train.lr": 1e-6}}}
    plan = plan_in(tmp_path, methods=methods, sources=["biology"], seeds=[0])
    runs = members(plan)
    for member in runs:
        finish(member)
    write_comparison(tmp_path / "shown", view_of(plan, runs, {HOSTILE: HOSTILE}))
    check_folder(tmp_path / "shown")
    for path in (tmp_path / "shown").rglob("*.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text())))
        assert not any(cell.startswith(("=", "@", "\t", "\r")) for row in rows for cell in row)


def test_a_table_in_every_format():
    entry = Entry(1.0, -0.5)
    rows = tuple((text, f"={text}", "-1+cmd", None, entry) for text in (*TEXTS, HOSTILE))
    table = Table("t", HOSTILE, (HOSTILE, "=a", "+b", "-c", "d"), rows, (HOSTILE,), labels=3)
    assert Seen(page_html(markdown(table), {})).tags <= TAGS
    assert png(picture(table)).startswith(b"\x89PNG") and "\\frac$" not in latex(table)
    header, *cells = csv.reader(io.StringIO(as_csv(table)))
    assert header[1:4] == ["'=a", "'+b", "'-c"]
    assert all(row[1].startswith("'=") and row[2] == "'-1+cmd" and row[4:] == ["1.00", "-0.50"] for row in cells)


def test_what_is_harmless_stays_as_it_is():
    assert escape("edu_feedback [a] `b` *c*") == "edu_feedback [a] `b` *c*" and csv_text("Biology") == "Biology"
    assert page_html("| a |\n|---|\n| 1 <sub>-0.5</sub> |", {}).count("<sub>-0.5</sub>") == 1


def test_a_formula_in_a_name_is_text_in_a_figure_and_powers_stay_powers():
    figure, (axis,) = panels(1)
    axis.plot(np.arange(1, 4), [1, 10, 1e6], label="$\\frac$")
    axis.set_yscale("log")
    axis.set_title("$\\frac{a")
    axis.set_xticks([1, 2], ["$\\nope$", "b"])
    axis.legend()
    assert png(figure).startswith(b"\x89PNG")
