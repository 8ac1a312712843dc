"""The lab's world: its promises to the experiments made in it."""

from nopsd.data.answers import extract_answer
from nopsd.lab.world import (
    DOMAINS,
    MARKS,
    NOTEBOOK_PRIORS,
    Chain,
    all_chains,
    conclude,
    convention_prior,
    gold,
    make_split,
    reason,
    split_chains,
)


def test_every_chain_tells_the_conventions_apart():
    """Otherwise a right answer would prove nothing about the convention."""
    assert all(len({c.states(k)[-1] for k in range(3)}) == 3 for c in all_chains())


def test_states_by_hand():
    assert (
        Chain(4, (2, 5)).states(0) == [6, 1]
        and Chain(4, (2, 5)).states(1) == [2, 7]
        and Chain(4, (2, 5)).states(2) == [8, 8]
    )


def test_gold_is_the_answer_of_right_reasoning():
    for domain in DOMAINS:
        chain = Chain(3, (7, 1, 1))
        text = reason(domain, chain, domain.truth) + " " + conclude(chain, domain.truth)
        question = make_split(domain, "test").questions[0]
        assert extract_answer(text, question) == gold(domain, chain)


def test_same_seed_same_world():
    assert make_split(DOMAINS[0], "pool").questions == make_split(DOMAINS[0], "pool").questions
    assert make_split(DOMAINS[0], "pool", 1).questions != make_split(DOMAINS[0], "pool", 0).questions


def test_pool_and_test_chains_are_disjoint():
    pool, test = split_chains(0)
    assert not set(pool) & set(test) and len(pool) > 4 * len(test)


def test_no_question_states_its_convention():
    """A question's words leave its answer open: its convention can only be guessed, from the notebook."""
    for domain in DOMAINS:
        for question in make_split(domain, "pool").questions[:200]:
            assert not {"forward", "backward", "double"} & set(question.question.lower().split())


def test_priors_are_distributions_that_favour_the_truth_but_not_everywhere():
    for domain in DOMAINS:
        priors = [convention_prior(domain, n) for n in range(4)]
        assert all(abs(sum(p) - 1) < 1e-9 for p in priors)
        assert [p[domain.truth] for p in priors] == [row[0] for row in NOTEBOOK_PRIORS]
        assert max(priors[3]) != priors[3][domain.truth]


def test_answers_are_spread_over_the_marks():
    """A constant guess must not pass for knowledge."""
    for domain in DOMAINS:
        answers = list(make_split(domain, "test").answers.values())
        assert max(answers.count(m) for m in MARKS) < 0.2 * len(answers)
