"""nopsd.evaluation.evaluate: from responses to judged questions; what can't be judged is refused by name."""

import json
from dataclasses import replace

import pytest

from nopsd.config import EvalConfig
from nopsd.data.records import Option, Question
from nopsd.errors import ArtefactError, DataError
from nopsd.evaluation.evaluate import (
    check_answers,
    evaluate_domain,
    fix_break,
    read_result,
    rows_path,
    write_metrics,
    write_rows,
)
from nopsd.rollout.types import Rollout

CONFIG = EvalConfig(n=4, bootstrap=50)
OPTIONS = tuple(Option(label, f"text {label}") for label in "ABCD")


def question(uid, domain="bio", options=OPTIONS):
    return Question(uid, domain, "test", f"what of {uid}?", options)


def rollouts(uid, texts, reason="stop"):
    return [Rollout(uid, i, [1, 2], list(range(len(t))), t, reason, 0) for i, t in enumerate(texts)]


def tag(letters):
    return ["no idea" if c == "-" else f"<answer>{c}</answer>" for c in letters]


def evaluate(letters_by_uid, key=None, config=CONFIG):
    questions = [question(uid) for uid in letters_by_uid]
    key = key or dict.fromkeys(letters_by_uid, "A")
    return evaluate_domain(questions, key, {u: rollouts(u, tag(x)) for u, x in letters_by_uid.items()}, config)


def test_a_small_evaluation_by_hand():
    """Four questions: all right; a tie seen B first; two unparsed; none parsed."""
    result = evaluate({"q1": "AAAA", "q2": "BABA", "q3": "A--B", "q4": "----"})
    assert [(r.majority, r.share) for r in result.rows] == [("A", 1.0), ("B", 0.5), ("A", 0.25), (None, 0.0)]
    m = result.metrics
    assert m["avg"] == pytest.approx((1 + 0.5 + 0.25 + 0) / 4)
    assert m["maj"] == pytest.approx(2 / 4)
    assert m["ece"] == pytest.approx((0 + 0.5 + 0.75 + 0) / 4)
    assert m["pass@4"] == pytest.approx(3 / 4)
    assert m["pass@2"] == pytest.approx((1 + 5 / 6 + 1 / 2 + 0) / 4)
    assert m["maj_minus_avg"] == pytest.approx(m["maj"] - m["avg"])
    assert m["unparsed"] == pytest.approx(6 / 16)
    assert m["distinct_answers"] == pytest.approx((1 + 2 + 2 + 0) / 4)
    assert (m["questions"], m["samples"], m["truncated"]) == (4, 4, 0)
    for name, interval in result.intervals.items():
        assert interval.value == pytest.approx(m[name])
    assert result.rows[2].correct == [True, False, False, False]


def test_cut_responses_and_lengths_are_counted():
    by_uid = {"q": rollouts("q", tag("AAAA"), "length")}
    result = evaluate_domain([question("q")], {"q": "A"}, by_uid, CONFIG)
    assert result.metrics["truncated"] == 1.0
    assert result.metrics["mean_length"] == len("<answer>A</answer>")


def test_samples_are_judged_in_the_order_sampled_whatever_the_order_of_arrival():
    """The vote's ties go to the first *sample*, so arrival order must not matter."""
    arrived = rollouts("q", tag("BABA"))[::-1]
    result = evaluate_domain([question("q")], {"q": "A"}, {"q": arrived}, CONFIG)
    assert result.rows[0].answers == ["B", "A", "B", "A"]
    assert result.rows[0].majority == "B"


def test_free_text_answers_are_compared_normalised():
    by_uid = {"q": rollouts("q", ["<answer>Forty  two.</answer>"] * 4)}
    result = evaluate_domain([question("q", options=())], {"q": " forty Two"}, by_uid, CONFIG)
    assert result.metrics["avg"] == 1.0


def test_responses_cut_inside_a_think_block_of_the_prompt_are_unparsed():
    by_uid = {"q": rollouts("q", ["maybe A", "hm </think><answer>A</answer>", "B?", "the answer is A"], "length")}
    closed = evaluate_domain([question("q")], {"q": "A"}, by_uid, CONFIG)
    opened = evaluate_domain([question("q")], {"q": "A"}, by_uid, CONFIG, think_open=True)
    assert (closed.metrics["unparsed"], opened.metrics["unparsed"]) == (0.0, 0.75)


@pytest.mark.parametrize(
    ("questions", "key", "message"),
    [
        ([question("q7")], {}, "gold.jsonl: question q7 has options but no answer"),
        ([question("q7", options=())], {}, "gold.jsonl: question q7 has no answer"),
        ([question("q7")], {"q7": " "}, "gold.jsonl: question q7 has options but no answer"),
        ([question("q7")], {"q7": "E"}, r"gold.jsonl: .* q7: its answer 'E' is not among its options \(A, B, C, D\)"),
        ([question("q7", options=())], {"q7": " . "}, "gold.jsonl: question q7: its answer ' . ' holds no text"),
    ],
)
def test_questions_that_cannot_be_judged_are_refused_by_file_and_uid(questions, key, message):
    with pytest.raises(DataError, match=message) as refused:
        check_answers(questions, key, "gold.jsonl")
    assert "\n" not in str(refused.value)


def test_evaluation_itself_checks_the_answers():
    with pytest.raises(DataError, match="q2"):
        evaluate({"q1": "AAAA", "q2": "AAAA"}, key={"q1": "A"})


@pytest.mark.parametrize("letters", ["AAA", "AAAAA", ""])
def test_a_question_without_its_n_samples_is_refused(letters):
    with pytest.raises(ArtefactError, match="q1 has samples .* not the 4"):
        evaluate({"q1": letters})


def test_an_aborted_sample_is_refused():
    samples = rollouts("q", tag("AAAA"))
    samples[2] = replace(samples[2], finish_reason="abort")
    with pytest.raises(ArtefactError, match=r"question q: samples \[2\] were aborted"):
        evaluate_domain([question("q")], {"q": "A"}, {"q": samples}, CONFIG)


@pytest.mark.parametrize("questions", [[], [question("a", "bio"), question("b", "chem")]])
def test_one_domain_at_a_time(questions):
    with pytest.raises(DataError, match="one domain"):
        evaluate_domain(questions, {}, {}, CONFIG)


def test_fix_and_break_counts():
    before = evaluate({"q1": "BBBB", "q2": "AAAA", "q3": "AAAA", "q4": "----"})
    after = evaluate({"q1": "AAAB", "q2": "BBBA", "q3": "AAAA", "q4": "----"})
    moved = fix_break(before, after)
    assert (moved.fixed, moved.broken, moved.stayed_right, moved.stayed_wrong) == (1, 1, 1, 1)


def test_only_the_same_questions_can_be_compared():
    with pytest.raises(DataError, match="different questions"):
        fix_break(evaluate({"q1": "AAAA"}), evaluate({"q2": "AAAA"}))


def test_rows_on_disk_give_the_same_result_again(tmp_path):
    result = evaluate({"q1": "AAAB", "q2": "B-BA"})
    path = write_rows(tmp_path, "base", result)
    assert path == tmp_path / "eval_base_bio.jsonl"
    row = json.loads(path.read_text().splitlines()[1])
    assert list(row) == ["uid", "answers", "gold", "correct", "majority", "share", "finish_reasons", "lengths"]
    assert row["answers"] == ["B", None, "B", "A"]
    assert read_result(tmp_path, "base", "bio", CONFIG) == result
    path.write_text('{"uid": "q1"}\n')
    with pytest.raises(ArtefactError, match="eval_base_bio.jsonl"):
        read_result(tmp_path, "base", "bio", CONFIG)


def test_metrics_file_holds_every_model_and_target(tmp_path):
    write_metrics(tmp_path, {"base": {"bio": evaluate({"q1": "AAAB"})}})
    stored = json.loads((tmp_path / "metrics.json").read_text())["base"]["bio"]
    assert stored["metrics"]["avg"] == 0.75
    assert stored["intervals"]["avg"] == [0.75, 0.75]


def test_a_domain_name_cannot_leave_the_folder(tmp_path):
    assert rows_path(tmp_path, "base", "../x y").parent == tmp_path
    assert rows_path(tmp_path, "base", "a/b") != rows_path(tmp_path, "base", "a_b")
