"""nopsd.evaluation.evaluate: from responses to judged questions; what can't be judged is refused by name."""

from dataclasses import replace

import pytest

from nopsd.data.reading import AnswerReader
from nopsd.errors import ArtefactError, DataError
from nopsd.evaluation.evaluate import check_answers, evaluate_domain


def test_a_small_evaluation_by_hand(make_evaluation):
    """Four questions: all right; a tie seen B first; two unparsed; none parsed."""
    result = make_evaluation({"q1": "AAAA", "q2": "BABA", "q3": "A--B", "q4": "----"})
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


def test_cut_responses_and_lengths_are_counted(make_question, make_rollouts, tagged, settings):
    by_uid = {"q": make_rollouts("q", tagged("AAAA"), "length")}
    result = evaluate_domain([make_question("q")], {"q": "A"}, by_uid, settings)
    assert result.metrics["truncated"] == 1.0
    assert result.metrics["mean_length"] == len("<answer>A</answer>")


def test_samples_are_judged_in_the_order_sampled_whatever_the_order_of_arrival(
    make_question, make_rollouts, tagged, settings
):
    """The vote's ties go to the first *sample*, so arrival order must not matter."""
    arrived = make_rollouts("q", tagged("BABA"))[::-1]
    result = evaluate_domain([make_question("q")], {"q": "A"}, {"q": arrived}, settings)
    assert result.rows[0].answers == ["B", "A", "B", "A"]
    assert result.rows[0].majority == "B"


def test_free_text_answers_are_compared_normalised(make_question, make_rollouts, settings):
    by_uid = {"q": make_rollouts("q", ["<answer>Forty  two.</answer>"] * 4)}
    result = evaluate_domain([make_question("q", options=())], {"q": " forty Two"}, by_uid, settings)
    assert result.metrics["avg"] == 1.0


def test_responses_cut_inside_a_think_block_of_the_prompt_are_unparsed(make_question, make_rollouts, settings):
    by_uid = {"q": make_rollouts("q", ["maybe A", "hm </think><answer>A</answer>", "B?", "the answer is A"], "length")}
    closed = evaluate_domain([make_question("q")], {"q": "A"}, by_uid, settings)
    opened = evaluate_domain([make_question("q")], {"q": "A"}, by_uid, settings, AnswerReader(think_open=True))
    assert (closed.metrics["unparsed"], opened.metrics["unparsed"]) == (0.0, 0.75)


@pytest.mark.parametrize(
    ("uid", "options", "key", "message"),
    [
        ("q7", True, {}, "gold.jsonl: question q7 has options but no answer"),
        ("q7", False, {}, "gold.jsonl: question q7 has no answer"),
        ("q7", True, {"q7": " "}, "gold.jsonl: question q7 has options but no answer"),
        ("q7", True, {"q7": "E"}, r"gold.jsonl: .* q7: its answer 'E' is not among its options \(A, B, C, D\)"),
        ("q7", False, {"q7": " . "}, "gold.jsonl: question q7: its answer ' . ' can't be read"),
    ],
)
def test_questions_that_cannot_be_judged_are_refused_by_file_and_uid(uid, options, key, message, make_question):
    """Breaks if sampling is paid for before a question without a usable answer is found."""
    asked = make_question(uid) if options else make_question(uid, options=())
    with pytest.raises(DataError, match=message) as refused:
        check_answers([asked], key, "gold.jsonl")
    assert "\n" not in str(refused.value)


def test_evaluation_itself_checks_the_answers(make_evaluation):
    with pytest.raises(DataError, match="q2"):
        make_evaluation({"q1": "AAAA", "q2": "AAAA"}, key={"q1": "A"})


@pytest.mark.parametrize("letters", ["AAA", "AAAAA", ""])
def test_a_question_without_its_n_samples_is_refused(letters, make_evaluation):
    with pytest.raises(ArtefactError, match="q1 has samples .* not the 4"):
        make_evaluation({"q1": letters})


def test_an_aborted_sample_is_refused(make_question, make_rollouts, tagged, settings):
    samples = make_rollouts("q", tagged("AAAA"))
    samples[2] = replace(samples[2], finish_reason="abort")
    with pytest.raises(ArtefactError, match=r"question q: samples \[2\] were aborted"):
        evaluate_domain([make_question("q")], {"q": "A"}, {"q": samples}, settings)


@pytest.mark.parametrize("domains", [[], ["bio", "chem"]])
def test_one_domain_at_a_time(domains, make_question, settings):
    """Breaks if two domains' questions are averaged as one."""
    with pytest.raises(DataError, match="one domain"):
        evaluate_domain([make_question(d, d) for d in domains], {}, {}, settings)
