"""nopsd.reporting.compare.results: means, differences and intervals against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from nopsd.errors import DataError
from nopsd.reporting.compare.gathering import view_of
from nopsd.reporting.compare.plan import members
from nopsd.reporting.compare.results import (
    ALL,
    SCIENCE,
    cells_of,
    check_paired,
    numbers,
    over_questions,
    over_seeds,
    t_interval,
)
from nopsd.reporting.compare.views import layout_for
from tests.reporting.compare.conftest import finish, judge, only


@pytest.fixture
def view(finished):
    return view_of(*finished, {})


def avg(result):
    return 100 * np.mean([np.mean(row.correct) for row in result.rows])


def test_cells_are_means_over_seeds(view):
    """Breaks if a cell is another seed's, another source's or another target's."""
    found = numbers(only(view), "avg")
    runs = only(view).runs
    wanted = np.mean([avg(runs["top", "chemistry", seed]["colours"]) for seed in (0, 1)])
    assert found.methods["top"]["chemistry"]["colours"] == pytest.approx(wanted)
    assert found.base["biology"] == pytest.approx(np.mean([avg(only(view).base[s]["biology"]) for s in (0, 1)]))
    cells = cells_of(found, view.layout)["nopsd", "cross"]
    inside = [found.methods["nopsd"]["biology"][t] - found.base[t] for t in ("chemistry", "colours")]
    assert cells["biology"].delta == pytest.approx(np.mean(inside))


def test_seed_intervals_are_students(view):
    """Breaks if seeds are not paired with their own base, or the interval is normal's instead of Student's."""
    found = over_seeds(only(view), "avg", view.layout)["nopsd", "in"]["biology"]
    results = only(view)
    each = [avg(results.runs["nopsd", "biology", s]["biology"]) - avg(results.base[s]["biology"]) for s in (0, 1)]
    half = stats.t.ppf(0.975, 1) * np.std(each, ddof=1) / np.sqrt(2)
    assert (found.value, found.low, found.high) == pytest.approx(
        (np.mean(each), np.mean(each) - half, np.mean(each) + half)
    )
    assert t_interval([1.0, 2.0, 3.0, 4.0]).high == pytest.approx(
        stats.ttest_1samp([1, 2, 3, 4], 0).confidence_interval(0.95).high
    )
    with pytest.raises(ValueError):
        t_interval([1.0])


def test_question_intervals_draw_the_same_questions_for_all_seeds(view):
    """Breaks if base and method, or two seeds, are resampled apart: the interval would not be paired."""
    found = over_questions(only(view), "avg", view.layout, 40, seed=3)["nopsd", "in"]["biology"]
    results = only(view)
    per_question = np.zeros(12)
    for seed in (0, 1):
        after, before = (r["biology"].rows for r in (results.runs["nopsd", "biology", seed], results.base[seed]))
        per_question += [100 * (np.mean(a.correct) - np.mean(b.correct)) / 2 for a, b in zip(after, before)]
    order = list(results.base[0])  # targets get their draws in the order in which the base has them
    rng = np.random.default_rng(3 + order.index("biology"))
    drawn = [per_question[rng.integers(12, size=12)].mean() for _ in range(40)]
    assert found.value == pytest.approx(per_question.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_a_row_is_set_against_another_question_by_question(view):
    """Breaks if two methods are compared through the base, source by another source, or on questions drawn apart."""
    runs = only(view).runs
    cells = cells_of(numbers(only(view), "avg"), view.layout, "nopsd")
    assert {label for label, _ in cells} == {"top"}
    gaps = [
        np.mean([avg(runs["top", "chemistry", s][t]) - avg(runs["nopsd", "chemistry", s][t]) for s in (0, 1)])
        for t in ("biology", "colours")
    ]
    assert cells["top", "cross"]["chemistry"].delta == pytest.approx(np.mean(gaps))
    found = over_questions(only(view), "avg", view.layout, 40, seed=3, against="nopsd")["top", "in"]["biology"]
    per_question = np.zeros(12)
    for seed in (0, 1):
        top, nopsd = (runs[label, "biology", seed]["biology"].rows for label in ("top", "nopsd"))
        per_question += [100 * (np.mean(a.correct) - np.mean(b.correct)) / 2 for a, b in zip(top, nopsd)]
    rng = np.random.default_rng(3 + list(only(view).base[0]).index("biology"))
    drawn = [per_question[rng.integers(12, size=12)].mean() for _ in range(40)]
    assert (found.value, found.low, found.high) == pytest.approx(
        (per_question.mean(), *np.quantile(drawn, [0.025, 0.975]))
    )
    each = [avg(runs["top", "biology", s]["biology"]) - avg(runs["nopsd", "biology", s]["biology"]) for s in (0, 1)]
    assert over_seeds(only(view), "avg", view.layout, "nopsd")["top", "in"]["biology"] == t_interval(each)


def test_a_source_that_the_other_row_lacks_is_not_set_against_it(plan_of):
    plan = plan_of(seeds=[0])
    for member in members(plan):
        if (member.label, member.source) != ("nopsd", "chemistry"):
            finish(member)
    found = numbers(only(view_of(plan, members(plan), {})), "avg")
    cells = cells_of(found, layout_for(["biology", "chemistry"]), "nopsd")["top", "in"]
    assert set(cells) == {"biology", SCIENCE, ALL} and cells[SCIENCE] == cells["biology"]


def test_a_missing_source_drops_out_of_value_and_baseline(plan_of):
    plan = plan_of(seeds=[0])
    for member in members(plan):
        if (member.label, member.source) != ("top", "chemistry"):
            finish(member)
    view = view_of(plan, members(plan), {"top, chemistry, seed 0": "it broke"})
    cells = cells_of(numbers(only(view), "avg"), view.layout)["top", "in"]
    assert "chemistry" not in cells and cells[SCIENCE] == cells["biology"]
    assert view.missing == ["top, chemistry, seed 0: it broke"]


def test_other_questions_than_the_bases_are_refused(view):
    """Breaks if a stale evaluation is compared with a base that answered other questions."""
    base = only(view).base[0]
    base["biology"] = replace(base["biology"], rows=base["biology"].rows[::-1])
    with pytest.raises(DataError, match="different questions"):
        check_paired(only(view))


def test_checkpoints_given_have_a_row(plan_of, tmp_path):
    from nopsd.run.folder import RunFolder

    plan = plan_of(
        seeds=[0], also={"mine": {"path": "x"}, "theirs": {"path": "y", "method": "ttrl", "source": "biology"}}
    )
    runs = members(plan)
    for member in runs:
        finish(member)
    for name in plan.also:
        root = tmp_path / "out" / "also" / name
        judge(root / "biology-0", "model", {"biology": 0.8, "chemistry": 0.7}, 5, runs[0].config)
        RunFolder(root).commit("biology-0", {"fake": 1})
    results = only(view_of(plan, runs, {}))
    assert set(results.others) == {"mine"} and ("ttrl", "biology", 0) in results.runs
