"""nopsd.reporting.report: the report shows what was measured and states what is missing."""

import re
from html.parser import HTMLParser

import pytest

from nopsd.config import Config, to_plain
from nopsd.reporting.report import selection_table, write_report
from nopsd.reporting.views import DemoView, ReportInputs

PNG = b"\x89PNG\r\n\x1a\n"
FIGURES = {
    "accuracy",
    "calibration",
    "loss",
    "entropy",
    "length",
    "health",
    "neuron_count",
    "selection",
    "demonstrations",
}


@pytest.fixture(scope="module")
def whole_run(make_result, make_training, make_pool):
    return ReportInputs(
        "runs/x",
        "bio",
        make_training(20),
        {"bio": make_result("bio", 0.5, 0), "chem": make_result("chem", 0.5, 1)},
        {"bio": make_result("bio", 0.9, 2), "chem": make_result("chem", 0.5, 3)},
        make_pool(),
        DemoView([[0.2, 0.5], [0.3, 0.4]], 0.8),
        to_plain(Config()),
        {"git_revision": "abc"},
    )


class Page(HTMLParser):
    """Images, text and unclosed tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.images, self.text, self.tags = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory, whole_run):
    return write_report(tmp_path_factory.mktemp("report"), whole_run)


def test_a_whole_run_has_every_figure_and_table(written):
    """Breaks if a section, figure or table is lost, or linked and not written."""
    markdown_path, _ = written
    text = markdown_path.read_text()
    linked = set(re.findall(r"\]\(figures/(\w+)\.png\)", text))
    assert linked == FIGURES
    for name in linked:
        assert (markdown_path.parent / "figures" / f"{name}.png").read_bytes().startswith(PNG)
    for heading in ("Result", "Training", "Neuron count", "Selection", "Demonstrations", "Provenance"):
        assert f"## {heading}" in text
    assert "| Avg@8 |" in text and "fraction: 0.2" in text and "git_revision: abc" in text


def test_the_html_needs_no_other_file(written):
    """Breaks if the page that a user sends on shows nothing at the other end."""
    page = Page(written[1].read_text())
    assert len(page.images) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in page.images)
    assert "table" in page.tags and "script" not in page.tags and "link" not in page.tags
    assert "in-domain: bio" in page.text


def test_a_run_with_nothing_in_it_states_every_gap(tmp_path):
    """Breaks if what is missing is silently left out."""
    markdown_path, html_path = write_report(tmp_path, ReportInputs("empty"))
    text = markdown_path.read_text()
    for gap in (
        "No before/after table",
        "No training log",
        "No neuron counts",
        "No selection",
        "No distances",
        "Environment: not given",
        "configuration: not given",
    ):
        assert gap in text
    assert Page(html_path.read_text()).images == []


@pytest.mark.usefixtures("unrendered")
def test_a_run_without_answers_still_shows_its_training_and_selection(tmp_path, make_training, make_pool):
    inputs = ReportInputs("mine", "mine", make_training(3), pool=make_pool(correct=None), demos=DemoView([[0.1]]))
    text = write_report(tmp_path, inputs)[0].read_text()
    assert "No before/after table" in text and "answers are not known" in text
    assert {"loss", "neuron_count", "selection", "demonstrations"} <= set(re.findall(r"figures/(\w+)\.png", text))


def test_secrets_are_withheld_and_names_cannot_become_html(tmp_path):
    """Breaks if a report that is passed on carries a key, or runs what a title holds."""
    config = to_plain(Config())
    config["server"]["api_key"] = "sk-very-secret"
    inputs = ReportInputs("<script>alert(1)</script>", config=config, provenance={"command": ["```", "<b>"]})
    for path in write_report(tmp_path, inputs):
        assert "sk-very-secret" not in path.read_text()
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags and "b" not in page.tags
    assert "(withheld)" in page.text and "zero_shot" in page.text


def test_the_selection_table_holds_means_of_what_is_known(make_pool):
    """Breaks if unknown answers count as wrong, or a row's mean is another's."""
    view = make_pool(
        4,
        counts=[1, 2, 3, 4],
        lengths=[10, 20, 30, 40],
        selected=[True, True, False, False],
        truncated=[False, True, False, False],
        correct=[1.0, None, None, None],
    )
    lines = selection_table(view).splitlines()
    assert lines[0] == "| mean of | questions | neuron count | length (tokens) | cut (share) | right (share) |"
    assert lines[2] == "| selected | 2 | 1.5 | 15.0 | 0.500 | 1.000 |"
    assert lines[3] == "| not selected | 2 | 3.5 | 35.0 | 0.000 | – |"
    assert lines[4] == "| pool | 4 | 2.5 | 25.0 | 0.250 | 1.000 |"
