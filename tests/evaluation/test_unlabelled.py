"""Two models compared without labels: each figure by hand, and no label can enter."""

from dataclasses import fields

import numpy as np
import pytest

from nopsd.data.reading import AnswerReader
from nopsd.errors import ArtefactError, DataError
from nopsd.evaluation.unlabelled import AnswerRow, Flip, answer_rows, as_before, compare, share_levels, with_base_vote


def row(uid, letters, reason="stop", nats=None, base_nats=None, length=4):
    answers = [None if letter == "-" else letter for letter in letters]
    read = [answer for answer in answers if answer]
    best = max(dict.fromkeys(read), key=read.count) if read else None
    k = len(answers)
    share = read.count(best) / k if best else 0.0
    return AnswerRow(uid, answers, best, share, [reason] * k, [length] * k, 0.25, nats, base_nats)


def test_an_unjudged_row_has_no_place_for_a_label():
    """Broken if a comparison of unlabelled questions could read one."""
    assert not {field.name for field in fields(AnswerRow)} & {"gold", "correct", "answer", "label"}


def test_rows_are_read_as_the_judge_reads_them(make_question, make_rollouts, tagged):
    questions = [make_question("a"), make_question("b")]
    by_uid = {"a": make_rollouts("a", tagged("AAB-")), "b": make_rollouts("b", tagged("CCCC"), "length")}
    first, second = answer_rows(questions, by_uid, 4, AnswerReader(), nats={"a": 0.5})
    assert first.answers == ["A", "A", "B", None] and (first.majority, first.share) == ("A", 0.5)
    assert (first.nats, second.nats, second.base_nats) == (0.5, None, None)
    assert second.finish_reasons == ["length"] * 4 and second.lengths == [18] * 4 and second.repeated == 0.0
    with pytest.raises(ArtefactError, match="question b has samples"):
        answer_rows(questions, {"a": by_uid["a"], "b": by_uid["b"][:3]}, 4, AnswerReader())


def test_an_answer_that_means_the_same_is_no_flip():
    """Broken if `0.5` before and `.50` after count as another majority."""
    same = lambda a, b: float(a) == float(b)  # noqa: E731
    assert as_before(["0.5", "0.5", "2", None], [".50", ".50", ".50", "7.", None], same) == ["0.5"] * 3 + ["7.", None]


def test_the_base_is_measured_on_answers_that_had_no_vote():
    """Broken if a question's vote is compared with its own voters: every base would agree with itself too much."""
    assert with_base_vote(["A", "A", "B", "B"], ["A", "A", "A", "B"]) == (0.0, 0.5)
    assert with_base_vote(["A", "A", "A", "B"], ["A", "A", "A", "A"]) == (0.75, 1.0)
    assert with_base_vote([None, None, "A", "A"], ["A", None, "A", "A"]) == (0.0, 0.375)
    rng = np.random.default_rng(0)
    same = [with_base_vote(list(rng.choice(list("ABC"), 8)), list(rng.choice(list("ABC"), 8))) for _ in range(4000)]
    before, after = np.mean(same, axis=0)
    assert before == pytest.approx(after, abs=0.01)  # the same policy twice: no change


def test_figures_flips_and_levels_by_hand():
    before = [row("a", "AAAB", nats=1.0, base_nats=1.0), row("b", "CCDD", nats=3.0, base_nats=3.0)]
    after = [row("a", "AAAA", nats=0.5, base_nats=1.5), row("b", "DD--", "length", nats=0.7, base_nats=4.5, length=8)]
    found = compare(before, after, 200, 0)
    assert (found.questions, found.samples) == (2, 4)
    shares = found.figures["vote_share"]
    assert (shares.before.value, shares.after.value, shares.change.value) == (0.625, 0.75, 0.125)
    assert found.figures["unread"].change.value == 0.25 and found.figures["unfinished"].after.value == 0.5
    assert found.figures["length"].change.value == 2.0 and found.figures["nats"].after.value == pytest.approx(0.6)
    assert found.figures["base_vote"].before.value == pytest.approx((0.75 + 0.0) / 2)
    assert found.same_majority.value == 0.5 and found.drift.value == pytest.approx((0.5 + 1.5) / 2)
    assert found.flips == [Flip("b", "C", "D", 0.5, 0.5)]
    assert found.levels == ([0, 1, 1, 0, 0], [0, 1, 0, 0, 1]) and found.commonest == (0.5, 0.5)
    assert shares.change.low <= 0.125 <= shares.change.high
    assert compare(before, after, 0, 0).figures["vote_share"].change.low is None


def test_what_was_not_measured_is_left_out_and_not_zero():
    found = compare([row("a", "A")], [row("a", "B")], 10, 0)
    assert found.drift is None and not {"nats", "base_vote"} & set(found.figures)


def test_shares_at_the_edges():
    """A share of one half is no majority of the votes; one of all is not `over three quarters`."""
    rows = [row(str(i), letters) for i, letters in enumerate(("----", "AABB", "AAAB", "AAAAAAAB", "AAAA"))]
    assert share_levels(rows) == [1, 1, 1, 1, 1]


def test_other_questions_are_refused():
    with pytest.raises(DataError, match="different questions"):
        compare([row("a", "AA")], [row("b", "AA")], 10, 0)
    with pytest.raises(DataError, match="of none"):
        compare([], [], 10, 0)
