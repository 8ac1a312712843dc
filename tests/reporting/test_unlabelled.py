"""The report's part without labels: numbers, answers as text, and what is missing."""

import pytest

from nopsd.data.records import Option, Question
from nopsd.evaluation.conclusion import conclude
from nopsd.evaluation.unlabelled import compare
from nopsd.reporting.report import write_report
from nopsd.reporting.unlabelled import answer_text, clipped, figures_table, flips_table, levels_table
from nopsd.reporting.views import HeldOut, ReportInputs
from tests.evaluation.test_unlabelled import row

QUESTIONS = {uid: Question(uid, "d", "s", f"What of {uid}?", (Option("A", "fish"), Option("B", "b"))) for uid in "ab"}


@pytest.fixture
def found():
    return compare([row("a", "AAAB"), row("b", "BBBB")], [row("a", "BBBB"), row("b", "BBBB")], 50, 0)


def test_changes_have_intervals_and_what_was_not_measured_has_no_row(found):
    lines = figures_table(found).splitlines()
    shares = next(line for line in lines if line.startswith("| majority's share"))
    assert "| 87.5 | 100.0 | +12.5 [+0.0, +25.0] |" in shares
    assert not any("surprise" in line for line in lines)


def test_answers_that_changed_stand_as_text(found):
    """Broken if a reader is shown letters without their options, or a question that stayed."""
    lines = flips_table(found.flips, QUESTIONS).splitlines()
    assert lines[2:] == ["| What of a? | A: fish (75%) | B: b (100%) |"]
    assert answer_text(QUESTIONS["a"], None) == "none read" and clipped("abcd", 3) == "ab…"


def test_a_labelled_set_tells_what_a_vote_share_is_worth(found, make_judged):
    base = make_judged("other", ["AAAA", "AAAA", "BBBB", "ABCD"])
    lines = levels_table(found, {"other": (base, None)}).splitlines()
    assert lines[0] == "| majority's share | base | trained | right in other, base |"
    assert lines[-1] == "| all alike | 1 | 2 | 67 % of 3 |" and lines[3] == "| up to half | 0 | 0 | 100 % of 1 |"


@pytest.mark.usefixtures("unrendered")
def test_an_unlabelled_runs_report_begins_with_the_conclusion(tmp_path, found):
    """Broken if a user without labels hears that there is nothing to measure."""
    held = HeldOut(found, conclude(found).sentences, QUESTIONS)
    inputs = ReportInputs("mine", "d", held=held, done=["Two questions."], command="nopsd run --preset x")
    text = write_report(tmp_path, inputs)[0].read_text()
    assert "nothing to measure" not in text and "No before/after table" not in text
    places = [text.index(part) for part in ("nopsd run --preset x", "## Result", "More agreement is not", "A: fish")]
    assert places == sorted(places)
    assert (
        "*No comparison without labels: none held."
        in write_report(tmp_path / "gap", ReportInputs("mine", "d", held=HeldOut(gap="none held.")))[0].read_text()
    )
