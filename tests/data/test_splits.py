"""Pool and test of a domain: a question in both would be tested on what was trained on."""

import pytest

from nopsd.data.records import Question
from nopsd.data.splits import HELD_AT_MOST, Splits, check_unique, hold_out, split_by_domain
from nopsd.errors import DataError


def questions(domain, count):
    return [Question(f"{domain}{i}", domain, "s", f"Question {i} of {domain}?") for i in range(count)]


def test_each_domain_is_split_alone_and_no_question_is_lost_or_in_both():
    given = [*questions("a", 20), *questions("b", 10)]
    found = split_by_domain(given, "a", 0.2, 7)
    assert {name: len(tests) for name, tests in found.tests.items()} == {"a": 4, "b": 2} and len(found.pool) == 16
    assert {q.uid for q in [*found.pool, *found.tests["a"]]} == {q.uid for q in given if q.domain == "a"}
    assert {q.domain for q in found.pool} == {"a"} and {q.domain for q in found.tests["b"]} == {"b"}


def test_the_seed_decides_and_other_domains_do_not():
    """Another target in the file must not move the pool's own split."""
    first = split_by_domain(questions("a", 20), "a", 0.2, 7)
    assert split_by_domain([*questions("b", 10), *questions("a", 20)], "a", 0.2, 7).pool == first.pool
    assert split_by_domain(questions("a", 20), "a", 0.2, 8).pool != first.pool


def test_what_cannot_be_split_is_refused():
    with pytest.raises(DataError, match="data.domain=c: no question of it; there are: a, b"):
        split_by_domain([*questions("a", 3), *questions("b", 3)], "c", 0.5, 0)
    with pytest.raises(DataError, match="domain a has 1 question: at least 2"):
        split_by_domain(questions("a", 1), "a", 0.5, 0)


def test_ids_are_used_once_and_questions_have_text():
    twice = [*questions("a", 2), Question("a1", "a", "s", "Again?")]
    with pytest.raises(DataError, match="f:3: id a1 was used before, at f:2"):
        check_unique(twice, ["f:1", "f:2", "f:3"])
    with pytest.raises(DataError, match="f:1: question q has no text"):
        check_unique([Question("q", "a", "s", " \n")], ["f:1"])


def test_questions_are_held_out_of_a_pool_without_a_test_and_of_no_other():
    """Broken if a held-out question is trained on, if a labelled run loses questions, or another draw is made."""
    pool = questions("a", 40)
    found = hold_out(Splits(pool, {}), None, 7)
    assert len(found.held) == 4 and sorted([*found.pool, *found.held], key=pool.index) == pool
    assert found == hold_out(Splits(pool, {}), None, 7) != hold_out(Splits(pool, {}), None, 8)
    assert hold_out(Splits(pool, {"a": questions("t", 2)}), None, 7).held == ()
    assert len(hold_out(Splits(pool, {"a": questions("t", 2)}), 5, 7).held) == 5
    assert len(hold_out(Splits(questions("a", 9000), {}), None, 7).held) == HELD_AT_MOST
    assert hold_out(Splits(pool, {}), 0, 7).held == () and hold_out(Splits(questions("a", 9), {}), None, 7).held == ()
    with pytest.raises(DataError, match="data.holdout=40: the pool has 40 questions"):
        hold_out(Splits(pool, {}), 40, 7)
