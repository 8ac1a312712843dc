"""Which responses LMSI trains on, against plain counting; and nothing of labels."""

import random
from collections import Counter

import pytest

from nopsd.config import SftConfig
from nopsd.errors import DataError
from nopsd.rollout.types import Rollout
from nopsd.train.voting import keep_voted


def rollout(uid, sample, finish="stop"):
    return Rollout(uid, sample, [1], [2, sample], f"{uid} {sample}", finish, 0)


def group(uid, count, cut=()):
    return [rollout(uid, s, "length" if s in cut else "stop") for s in range(count)]


def test_only_whole_agreeing_responses_are_kept():
    """A cut response, or one against the vote, would be taught as an answer."""
    rollouts = group("a", 4, cut=[0]) + group("b", 4) + group("c", 4) + group("d", 4, cut=[0, 1])
    answers = {"a": ["A", "A", "B", "A"], "b": [None] * 4, "c": ["A", "B", "C", "D"], "d": ["A", "A", "B", None]}
    kept = keep_voted(["a", "b", "c", "d"], rollouts, answers, SftConfig(min_share=0.5, per_question=0), 0)
    assert {uid: [r.sample for r in rows] for uid, rows in kept.responses.items()} == {"a": [1, 3]}
    assert (kept.unread, kept.unsure, kept.cut) == (["b"], ["c"], ["d"])
    assert kept.counts() == {
        "voted_questions": 1,
        "voted_responses": 2,
        "dropped_unread": 1,
        "dropped_unsure": 1,
        "dropped_cut": 1,
    }


def test_of_equal_counts_the_answer_given_first_wins_as_in_evaluation():
    kept = keep_voted(["a"], group("a", 4), {"a": ["B", "A", "A", "B"]}, SftConfig(per_question=0), 0)
    assert [r.sample for r in kept.responses["a"]] == [0, 3]


def test_questions_that_were_not_selected_are_left_out():
    answers = {"a": ["A", "A"], "b": ["A", "A"]}
    assert set(keep_voted(["b"], group("a", 2) + group("b", 2), answers, SftConfig(), 0).responses) == {"b"}


def test_the_draw_is_uniform_seeded_and_of_the_question_alone():
    """Whatever the order of the rollouts and whichever other questions there are; each agreeing response as often."""
    uids = [f"q{i}" for i in range(3000)]
    rollouts = [r for uid in uids for r in group(uid, 4)]
    answers = {uid: ["A", "B", "A", "A"] for uid in uids}
    kept = keep_voted(uids, rollouts, answers, SftConfig(), 7).responses
    counts = Counter(rows[0].sample for rows in kept.values())
    assert set(counts) == {0, 2, 3} and all(len(rows) == 1 for rows in kept.values())
    assert all(abs(count - 1000) < 5 * (3000 * 2 / 9) ** 0.5 for count in counts.values()), counts
    shuffled = random.Random(0).sample(rollouts, len(rollouts))
    alone = keep_voted(["q5"], shuffled, answers, SftConfig(), 7).responses
    assert alone["q5"] == kept["q5"]
    assert keep_voted(uids, rollouts, answers, SftConfig(), 8).responses != kept


def test_the_share_is_of_all_responses():
    """Unread ones count against the majority, as in LMSI's c_min over n."""
    answers = {"a": ["A", "A", None, None]}
    half = keep_voted(["a"], group("a", 4), answers, SftConfig(min_share=0.5), 0)
    more = keep_voted(["a"], group("a", 4), answers, SftConfig(min_share=0.51), 0)
    assert set(half.responses) == {"a"} and more.unsure == ["a"]


def test_a_share_is_exact():
    """0.7 x 10 is 7.000000000000001 in floats, by which 7 of 10 were fewer than 0.7."""
    answers = {"a": ["A"] * 7 + [None] * 3}
    for share in (0.1, 0.3, 0.6, 0.7):
        assert set(keep_voted(["a"], group("a", 10), answers, SftConfig(min_share=share), 0).responses) == {"a"}


def test_a_pool_without_a_single_voted_answer_is_refused_with_the_reason():
    """A model that never answers in the asked form must be told from one that disagrees with itself."""
    answers = {"a": [None, None], "b": [None, None]}
    with pytest.raises(DataError, match="none of 2 questions .* in 2 no answer could be read .* zero_shot.max_new"):
        keep_voted(["a", "b"], group("a", 2) + group("b", 2), answers, SftConfig(), 0).checked()
    kept = keep_voted(["a"], group("a", 2), {"a": ["A", "A"]}, SftConfig(), 0)
    assert kept.checked() is kept
