"""Pages of nopsd.viewer: what a table leaves out or a filter lets through is what a reader believes of the run."""

import json
import math

import numpy as np
import pytest

from nopsd.config import load_config
from nopsd.errors import UserError
from nopsd.files import write_json, write_jsonl
from nopsd.run.status import RunStatus
from nopsd.traces.schema import COUNTED
from nopsd.viewer.advice import URGENT, WARNING, advice
from nopsd.viewer.pages import compare, overview, questions, rollouts, training
from nopsd.viewer.query import PER_PAGE, Query, Window
from nopsd.viewer.render import link
from nopsd.viewer.source import STAGE_OF, titles
from tests.viewer.made import BATCH, STEPS, made_run, metrics_row, site

PAGES = ("overview", "training", "rollouts", "response", "questions", "question", "compare")
QUERIES = {"response": {"step": "2", "row": "1"}, "question": {"uid": "q003"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return site(made_run(root / "a"), made_run(root / "b", overrides=["train.lr=0.5"], labelled=False))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("run", ["0", "1"])
def test_every_page_is_made_of_every_run(made, page, run):
    html = made.page(page, {"run": run, **QUERIES.get(page, {})})
    assert html.startswith("<!doctype html>") and html.rstrip().endswith("</html>")


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_has_just_begun_can_be_looked_at(tmp_path, page):
    """Watching begins before there is anything to see."""
    config = load_config("lab", [f"run_dir={tmp_path / 'new'}"])
    early = site(config)
    if page in QUERIES:
        with pytest.raises(UserError):
            early.page(page, QUERIES[page])
    else:
        assert "<main" in early.page(page, {})


def held_row(number, answers):
    share = max(answers.count(a) for a in answers) / len(answers)
    return {
        "uid": f"h{number}",
        "answers": answers,
        "majority": answers[0],
        "share": share,
        "finish_reasons": ["stop"] * len(answers),
        "lengths": [9] * len(answers),
        "repeated": 0.0,
    }


def test_the_overview_of_a_run_without_labels_has_its_figures_and_conclusion(tmp_path):
    """Broken if who has no labels, the central user, finds an empty page, or yesterday's figures."""
    config = made_run(tmp_path / "unlabelled", labelled=False)
    shown, folders = site(config), {m: tmp_path / "unlabelled" / s for m, s in STAGE_OF.items()}
    write_jsonl(folders["base"] / "holdout_base.jsonl", [held_row(i, ["A", "A", "B", "A"]) for i in range(5)])
    before = shown.page("overview", {})
    assert "75.0% of its votes" in before and "on questions held out" not in before
    write_json(folders["base"].parent / "train" / "gain.json", {"teacher_kl": 0.25, "by_question": {"a": 0.25}})
    assert "moved the base model by 0.2500 nats" in shown.page("overview", {})
    write_jsonl(folders["final"] / "holdout_final.jsonl", [held_row(i, ["A"] * 4) for i in range(5)])
    after = shown.page("overview", {})
    assert "on questions held out" in after and "More agreement is not more accuracy" in after
    (share,) = [line for line in overview.held_headlines(shown.sources[0]) if line.name.startswith("majority")]
    assert (share.before, share.after, share.change[:5]) == ("75.0", "100.0", "+25.0")


def test_new_steps_appear_while_the_run_goes_on(tmp_path):
    config = made_run(tmp_path / "live")
    live = site(config)
    before = live.page("training", {})
    with open(tmp_path / "live" / "train" / "metrics.jsonl", "a") as log:
        log.write(json.dumps(metrics_row(STEPS)) + "\n")
    assert f"step {STEPS}\n" not in before and f"step {STEPS}\n" in live.page("training", {})


def test_the_mean_kl_is_over_the_tokens_that_count(made):
    source = made.sources[0]
    table = source.trace.table(1)
    shown = rollouts.mean_kl(table)
    for row, (kl, counted) in enumerate(zip(table["reverse_kl"].to_pylist(), table[COUNTED].to_pylist())):
        assert shown[row] == pytest.approx(np.mean([value for value, c in zip(kl, counted) if c]))


@pytest.mark.parametrize(
    ("query", "keeps"),
    [
        ({}, lambda r: True),
        ({"finish": "length"}, lambda r: r.finish == "length"),
        ({"answer": "B"}, lambda r: r.answer == "B"),
        ({"answer": "none"}, lambda r: r.answer is None),
        ({"min_kl": "0.3"}, lambda r: r.kl >= 0.3),
        ({"min_length": "6"}, lambda r: r.tokens >= 6),
        ({"max_length": "5"}, lambda r: r.tokens <= 5),
        ({"uid": "q00"}, lambda r: "q00" in r.uid),
        ({"uid": "zz"}, lambda r: False),
    ],
)
def test_filters_keep_what_they_say(made, query, keeps):
    source = made.sources[0]
    everything = rollouts.table(source, Query({"step": "2"}))["rows"]
    assert len(everything) == BATCH
    assert rollouts.table(source, Query({"step": "2", **query}))["rows"] == [row for row in everything if keeps(row)]


def test_orders_are_kept(made):
    kls = [r.kl for r in rollouts.table(made.sources[0], Query({"sort": "kl"}))["rows"]]
    assert kls == sorted(kls, reverse=True)
    scores = [r.score for r in questions.table(made.sources[0], Query({"sort": "high"}))["rows"]]
    assert scores == sorted(scores, reverse=True)


def test_a_response_shows_each_token_with_both_probabilities(made):
    source = made.sources[0]
    found = rollouts.response(source, Query({"step": "2", "row": "1"}))
    raw = {name: values[1] for name, values in source.trace.table(2).to_pydict().items()}
    token = found["tokens"][0]
    assert f"student: p = {math.exp(raw['student_logprob'][0]):.4g}" in token.hint
    assert f"teacher: p = {math.exp(raw['teacher_logprob'][0]):.4g}" in token.hint
    assert [t.counted for t in found["tokens"]] == [True] * 4 + [False]
    assert token.shade == sum(raw["reverse_kl"][0] >= low for low in rollouts.SHADES)
    assert found["demonstrations"] == ("x", "y") and found["teacher_prompt"] != found["student_prompt"]


def test_a_question_has_its_neighbours_steps_and_answers(made):
    found = questions.one(made.sources[0], Query({"uid": "q003"}))
    assert [n.uid for n, _, _ in found["neighbours"]] == ["q008", "q009", "q010"]
    assert all("so it is" in text for _, _, text in found["neighbours"])
    traced = made.sources[0].trace
    assert found["steps"] == [s for s in traced.steps if "q003" in traced.table(s)["uid"].to_pylist()]
    assert len(found["answers"]) == 2 and found["row"].share == 0.5
    assert questions.one(made.sources[0], Query({"uid": "q009"}))["shown_for"]


def test_labels_are_shown_only_where_an_evaluation_is(made):
    """Without labels there is nothing right or wrong, and the pages must not look as if there were."""
    assert "The label is" in made.page("question", {"uid": "qt0"})
    assert "The label is" not in made.page("question", {"run": "1", "uid": "qt0"})
    assert "The label is" not in made.page("question", {"uid": "q003"})


def test_changed_answers_are_counted_as_fixed_or_broken(made):
    row = {"answers": ["A", "A", "B"], "correct": [True, True, False], "majority": "A", "gold": "A"}
    wrong = {"answers": ["C", "C", "B"], "correct": [False] * 3, "majority": "C", "gold": "A"}
    assert [compare.kind_of(a, b) for a, b in [(row, wrong), (wrong, row), (row, row)]] == ["broken", "fixed", ""]
    assert compare.kind_of(wrong, {**wrong, "majority": "B"}) == "other"
    found = compare.page([made.sources[0]], Query({}))
    assert [(kind, uid) for kind, uid, *_ in found["rows"]] == [("fixed", "qt1")]


def test_settings_that_differ_are_found(made):
    found = compare.page(made.sources, Query({}))
    assert dict(found["differing"])["train.lr"] == ["0.0001", "0.5"]
    assert "run_dir" not in dict(found["differing"])


def test_runs_lie_over_each_other_in_their_own_colours(made):
    both = training.curves(made.sources, Query({}), link)
    loss = next(drawn for chart, drawn in both["first"] if chart.title == "Loss")
    assert [colour for colour, _, _ in loss[1]] == [0, 1]
    one = made.page("training", {"hide": "1"})
    assert 'class="line s1"' not in one.split("</figure>")[0]


def test_headlines_have_intervals_and_a_direction():
    side = {"metrics": {"avg": 0.5, "maj": 0.5, "ece": 0.1, "samples": 8}, "intervals": {"avg": [0.4, 0.6]}}
    after = {"metrics": {"avg": 0.7, "maj": 0.5, "ece": 0.2, "samples": 8}, "intervals": {}}
    avg, maj, ece = overview.headlines({"d": side}, {"d": after})
    assert (avg.before, avg.change, avg.moved) == ("50.0 [40.0, 60.0]", "+20.0", "up")
    assert maj.moved == "even" and ece.moved == "down"  # a larger calibration error is worse


def status(**given):
    plain = {
        "run_dir": "r",
        "method": "m",
        "state": "done",
        "stages": [],
        "seconds": 0,
        "rank_hours": 0,
        "left_s": None,
        "ends_at": None,
    }
    return RunStatus(**{**plain, "not_estimated": [], "error": None, "error_stage": None, "note": "", **given})


def test_advice_names_the_key_most_urgent_first():
    rows = [{"step": i, "guard/max_repeated": int(i > 3), "truncated_share": 0.5, "loss": 0.1} for i in range(6)]
    points = advice(status(state="failed", error="no space", error_stage="train"), rows, {}, {})
    assert [p.level for p in points] == [URGENT, URGENT, WARNING]
    assert "first at step 4" in points[1].seen and "train.lr" in points[1].remedy
    assert "train.max_response" in points[2].remedy
    assert advice(status(), [], {}, {}) == []


@pytest.mark.parametrize(
    ("page", "query", "message"),
    [
        ("overview", {"run": "7"}, "there are 2 runs"),
        ("rollouts", {"step": "x"}, "step=x"),
        ("rollouts", {"min_kl": "inf"}, "min_kl=inf"),
        ("rollouts", {"page": "-1"}, "page=-1"),
        ("response", {"step": "2", "row": "99"}, "there is no row 99"),
        ("response", {"step": "77", "row": "0"}, "step-00000077"),
        ("question", {"uid": "nobody"}, "nobody"),
        ("compare", {"domain": "physics"}, "physics"),
    ],
)
def test_an_address_that_means_nothing_is_one_clear_line(made, page, query, message):
    with pytest.raises(UserError, match=message):
        made.page(page, query)


def test_pages_of_a_table_cover_it():
    windows = [Window.of(Query({"page": str(p)}), 2 * PER_PAGE + 3) for p in (1, 2, 3, 9)]
    assert [(w.first, w.last) for w in windows[:3]] == [(0, 50), (50, 100), (100, 103)]
    assert windows[3] == windows[2] and Window.of(Query({}), 0).pages == 1


def test_a_table_of_several_pages_leads_from_one_to_the_next(tmp_path):
    made = site(made_run(tmp_path / "long", pool=2 * PER_PAGE + 3))
    first = made.page("questions", {"sort": "score"})
    assert 'rel="next" href="/questions?sort=score&amp;page=2"' in first and 'rel="prev"' not in first
    last = made.page("questions", {"sort": "score", "page": "3"})
    assert 'rel="prev" href="/questions?sort=score&amp;page=2"' in last and "101 to 103 of 103" in last


def test_a_damaged_pool_is_one_clear_line(tmp_path):
    config = made_run(tmp_path / "bad")
    (tmp_path / "bad" / "data" / "pool.jsonl").write_text('{"uid": "a"}\n{"uid":\n')
    with pytest.raises(UserError, match=r"pool\.jsonl line 2"):
        site(config).page("questions", {})
    site(config).sources[0].warm()


def test_titles_tell_runs_apart(tmp_path):
    assert titles([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]
    assert titles([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
