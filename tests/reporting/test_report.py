"""nopsd.reporting.report, figures and checks: the report shows what was measured and states what is missing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nopsd.config import Config, EvalConfig, to_plain
from nopsd.evaluation.evaluate import QuestionRow, result_from_rows
from nopsd.evaluation.metrics import majority_answer
from nopsd.reporting import figures, figures_pool
from nopsd.reporting.checks import observations
from nopsd.reporting.report import write_report
from nopsd.reporting.views import DemoView, PoolView, ReportInputs

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


def result(domain, rate, seed, questions=30):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(questions):
        answers = ["A" if rng.random() < rate else str(rng.choice(["B", "C"])) for _ in range(8)]
        majority, share = majority_answer(answers)
        rows.append(
            QuestionRow(
                f"{domain}{i}", answers, "A", [a == "A" for a in answers], majority, share, ["stop"] * 8, [20] * 8
            )
        )
    return result_from_rows(domain, rows, EvalConfig(bootstrap=50))


def training(steps, **overrides):
    return [
        {
            "step": s,
            "loss": 1 / (s + 1),
            "kl_reverse": 0.1,
            "kl_forward": 0.2,
            "entropy_student": 0.3,
            "entropy_teacher": 0.2,
            "entropy_gap": -0.1,
            "response_length_mean": 9.0,
            "response_length_max": 12,
            "truncated_share": 0.0,
            "grad_norm": 1.0,
            "top16_overlap": 0.9,
            "logprob_gap": 1e-6,
            "logprob_gap_max": 1e-5,
            **overrides,
        }
        for s in range(steps)
    ]


def pool(questions=80, **overrides):
    rng = np.random.default_rng(0)
    counts = rng.integers(50, 90, questions)
    view = {
        "counts": counts,
        "lengths": rng.integers(5, 40, questions),
        "selected": counts <= 58,
        "threshold": 58.0,
        "truncated": np.zeros(questions, bool),
        "correct": (counts < 70).astype(float),
    }
    return PoolView(**(view | overrides))


def whole_run():
    return ReportInputs(
        "runs/x",
        "bio",
        training(20),
        {"bio": result("bio", 0.5, 0), "chem": result("chem", 0.5, 1)},
        {"bio": result("bio", 0.9, 2), "chem": result("chem", 0.5, 3)},
        pool(),
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
def written(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), whole_run())


def test_a_whole_run_has_every_figure_and_table(written):
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
    page = Page(written[1].read_text())
    assert len(page.images) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in page.images)
    assert "table" in page.tags and "script" not in page.tags and "link" not in page.tags
    assert "in-domain: bio" in page.text


def test_a_run_with_nothing_in_it_states_every_gap(tmp_path):
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


def test_a_run_without_answers_still_shows_its_training_and_selection(tmp_path):
    inputs = ReportInputs("mine", "mine", training(3), pool=pool(correct=None), demos=DemoView([[0.1]]))
    text = write_report(tmp_path, inputs)[0].read_text()
    assert "No before/after table" in text and "answers are not known" in text
    assert {"loss", "neuron_count", "selection", "demonstrations"} <= set(re.findall(r"figures/(\w+)\.png", text))


def test_secrets_are_withheld_and_names_cannot_become_html(tmp_path):
    config = to_plain(Config())
    config["server"]["api_key"] = "sk-very-secret"
    inputs = ReportInputs("<script>alert(1)</script>", config=config, provenance={"command": ["```", "<b>"]})
    for path in write_report(tmp_path, inputs):
        assert "sk-very-secret" not in path.read_text()
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags and "b" not in page.tags
    assert "(withheld)" in page.text and "rollout_zs" in page.text


@pytest.mark.parametrize(
    "view",
    [
        pool(correct=None, agreement=[0.5] * 80),  # constant: no correlation
        pool(correct=[None] * 79 + [1.0]),
        pool(threshold=None, selected=np.ones(80, bool), selector="all"),
        pool(counts=np.full(80, 7.0), selected=np.zeros(80, bool), threshold=7.0),
        pool(1, counts=np.array([3.0]), lengths=np.array([2]), selected=[True], correct=[1.0]),
        pool(counts=np.linspace(0.1, 0.9, 80)),  # means over several rollouts are no whole numbers
    ],
)
def test_odd_pools_are_drawn(view):
    for draw in (figures_pool.neuron_count_figure, figures_pool.selection_figure):
        assert figures.png(draw(view)).startswith(PNG)


def test_odd_training_logs_are_drawn():
    for rows in ([{"step": 0}], training(2, loss=None, grad_norm=None), training(40, logprob_gap=0.0)):
        for draw in (figures.loss_figure, figures.health_figure):
            assert figures.png(draw(rows)).startswith(PNG)


def test_figures_draw_the_data():
    """Not only a file: the loss curve's points and the histogram's areas are the numbers given."""
    axis = figures.loss_figure(training(4)).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [1, 1 / 2, 1 / 3, 1 / 4]
    view = pool()
    counts = figures_pool.selection_figure(view).axes[0]
    heights = [sum(bar.get_height() for bar in group) for group in counts.containers]
    assert heights == [view.selected.sum(), (~view.selected).sum()]
    assert "threshold 58" in [t.get_text() for t in counts.get_legend().get_texts()]
    uniform = pool(threshold=0.2, selected=view.counts % 5 == 0, selector="random")  # a draw's bound, no neuron count
    assert not figures_pool.selection_figure(uniform).axes[0].lines
    accuracy = figures.accuracy_figure(whole_run().before, {}, "bio").axes[0]
    assert [t.get_text() for t in accuracy.get_yticklabels()] == ["bio (pool)", "chem"]


def test_running_mean():
    assert figures.running_mean(np.array([2.0, 4.0, 6.0, 8.0]), 2).tolist() == [2, 3, 5, 7]


def test_what_went_wrong_is_said():
    good, bad = result("bio", 0.9, 0, 200), result("bio", 0.3, 1, 200)
    said = " ".join(
        observations(
            ReportInputs(
                "x",
                "bio",
                training(5, entropy_gap=0.01, loss=None),
                {"bio": good},
                {"bio": bad},
                pool(lengths=pool().counts * 2),
            )
        )
    )
    for word in ("accuracy fell", "calibration got worse", "not surer", "number in 5 of 5", "length go together"):
        assert word in said
    assert observations(ReportInputs("x", "bio", training(5), {"bio": bad}, {"bio": good}, pool())) == []


def test_a_guards_count_is_told_with_its_first_step_and_longest_streak():
    """Broken if a collapse's signs are in the log alone, or a probe's count, which stands between probes, adds up."""
    rows = [
        dict(row, **{"guard/max_repeated": n, "guard/min_entropy": 0, "guard/max_unparsed": p})
        for row, n, p in zip(training(7), (0, 1, 0, 1, 2, 3, 0), (0, 0, 1, 1, 1, 2, 2))
    ]
    said = observations(ReportInputs("x", training=rows))
    assert len(said) == 2
    assert said[0].startswith("guard.max_repeated was passed 4 times in 7 steps, first at step 1, 3 in a row at most")
    assert said[1].startswith("guard.max_unparsed was passed 2 times in 7 steps, first at step 2, 2 in a row at most")
