"""tools/hidden_labels.py: a direction counts as right only where labels and answers both say one."""

from nopsd.evaluation.artefacts import write_results
from nopsd.evaluation.bootstrap import Interval
from tests.reporting.conftest import drawn_result
from tools import hidden_labels

UP, DOWN, NEITHER = Interval(0.1, 0.05, 0.2), Interval(-0.1, -0.2, -0.05), Interval(0.0, -0.1, 0.1)


def test_a_direction_is_that_of_the_interval():
    assert [hidden_labels.sign(change) for change in (UP, DOWN, NEITHER, Interval(0.1))] == [1, -1, 0, 0]


def test_only_clear_cases_are_counted():
    """Broken if a case without a direction passes as right, or a wrong one is left out."""
    cases = [
        hidden_labels.Case("r", "a", UP, UP, UP, 1),
        hidden_labels.Case("r", "b", DOWN, UP, UP, 1),
        hidden_labels.Case("r", "c", DOWN, UP, NEITHER, 0),
        hidden_labels.Case("r", "d", NEITHER, UP, UP, 1),
    ]
    told = hidden_labels.tally(cases)
    assert told.startswith("4 cases, 3 with") and "in 2 of these, the right one in 1." in told
    assert "clear in 3, right in 1" in told
    lines = hidden_labels.table(cases).splitlines()
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["yes", "NO", "–", "–"]


def test_a_runs_domains_are_its_cases(tmp_path):
    run = tmp_path / "lab"
    for stage, name, rate in (("evaluate_base", "base", 0.6), ("evaluate", "final", 0.95)):
        write_results(run / stage, name, {"bio": drawn_result("bio", rate, 1, questions=60)})
    (case,) = hidden_labels.cases_of(run, 200)
    assert (case.name, case.domain) == ("lab", "bio") and hidden_labels.sign(case.accuracy) == 1 == case.concluded
