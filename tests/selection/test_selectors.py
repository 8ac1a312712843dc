"""The registry of selectors: each one's score and direction on an example worked out by hand."""

import numpy as np
import pytest

from nopsd.config import CHOICES, SelectConfig
from nopsd.errors import ConfigError, DataError, UserError
from nopsd.selection.pool import make_pool
from nopsd.selection.seeded import hash_uniform
from nopsd.selection.selectors import SELECTORS, Selector, select, selector

UIDS = ["q0", "q1", "q2", "q3", "q4"]
COUNTS, LENGTHS = [50, 20, 40, 10, 30], [7, 9, 3, 8, 5]
COLUMN = [0.2, 0.9, 0.1, 0.5, 0.7]


def pool(columns=(), order=range(5), **changed):
    values = {"counts": COUNTS, "lengths": LENGTHS, "truncated": [False] * 5, **changed}
    domains = values.pop("domains", None)
    take = list(order)
    return make_pool(
        [UIDS[i] for i in take],
        *(np.array(values[n])[take] for n in ("counts", "lengths", "truncated")),
        [domains[i] for i in take] if domains else None,
        {name: np.array(column, np.float32)[take] for name, column in dict(columns).items()},
    )


def chosen(name, columns=(), fraction=0.4, **settings):
    changed = {key: settings.pop(key) for key in ("domains", "lengths", "counts") if key in settings}
    return select(pool(columns, **changed), SelectConfig(selector=name, fraction=fraction, **settings))


BY_COLUMN = {
    "majority_conf": ("majority_conf", "high"),
    "token_entropy": ("token_entropy", "low"),
    "self_certainty": ("self_certainty", "high"),
    "seq_nll": ("seq_nll", "low"),
    "nad_agreement": ("agreement", "high"),
    "nait": ("nait", "high"),
    "belief_shift": ("belief_shift", "high"),
}


@pytest.mark.parametrize("name", BY_COLUMN)
def test_selectors_of_a_column_keep_the_right_end_of_it(name):
    """A flipped direction would train on the worst questions, and nothing else would show it."""
    column, keep = BY_COLUMN[name]
    found = chosen(name, {column: COLUMN})
    assert found.uids == (["q1", "q4"] if keep == "high" else ["q2", "q0"])
    assert found.threshold == pytest.approx(0.7 if keep == "high" else 0.2)
    assert found.scores == pytest.approx(dict(zip(UIDS, COLUMN)))
    assert SELECTORS[name].needs == (column,)


def test_selectors_of_counts_and_lengths_keep_the_right_end():
    assert chosen("neuron_count").uids == ["q3", "q1"]
    assert chosen("neuron_count_top").uids == ["q0", "q2"]
    assert chosen("length").uids == ["q2", "q4"]
    assert chosen("length").threshold == 5


def test_random_follows_the_seeded_draw_of_each_uid():
    draws = {uid: hash_uniform(3, "select", uid) for uid in UIDS}
    assert chosen("random", seed=3).uids == sorted(UIDS, key=draws.get)[:2]


def test_all_keeps_every_question_with_a_scored_position_and_scores_none():
    found = chosen("all", lengths=[7, 9, 0, 8, 5])
    assert found.uids == ["q0", "q1", "q3", "q4"] and found.threshold is None and found.scores == {}


def test_the_configs_choices_are_the_registry():
    """A name that the config takes and the registry lacks would be refused after the expensive stages."""
    assert set(CHOICES["select.selector"]) == set(SELECTORS)
    assert all(name == s.name for name, s in SELECTORS.items())


@pytest.mark.parametrize("name", sorted(set(SELECTORS) - {"dual_neufs", "neuron_density"}))
def test_every_selector_ignores_the_order_of_the_pool_and_ranks_domains_apart(name):
    columns = {column: COLUMN for column, _ in BY_COLUMN.values()}
    config = SelectConfig(selector=name, fraction=0.5)
    domains = ["a", "b", "a", "b", "b"]
    first = select(pool(columns, domains=domains), config)
    other = select(pool(columns, order=[3, 0, 4, 2, 1], domains=domains), config)
    assert first == other and first.scores == other.scores
    if name != "all":
        assert [domains[UIDS.index(uid)] for uid in first.uids] == ["a", "b"]  # floor(.5 * 2) and floor(.5 * 3)
        assert set(first.stats["thresholds"]) == {"a", "b"}


@pytest.mark.parametrize("name", ["token_entropy", "majority_conf"])
def test_ties_and_questions_without_scored_positions_are_treated_as_for_counts(name):
    """Every selector has the same rules: include or exact, never a question with nothing scored, floor(b N)."""
    tied = {name: [0.5, 0.5, 0.5, 0.1, 0.9]}
    worst, best = ("q4", "q3") if SELECTORS[name].keep == "low" else ("q3", "q4")
    assert chosen(name, tied).uids == [best, "q0", "q1", "q2"]
    assert chosen(name, tied, ties="exact").uids == [best, "q0"]
    assert best not in chosen(name, tied, lengths=[1, 1, 1, *((0, 1) if best == "q3" else (1, 0))]).uids
    assert worst not in chosen(name, tied).uids


def test_length_control_takes_what_length_explains_out_of_any_score():
    """Entropy falls with log T but for q3, which is surer than its length says."""
    lengths = np.array([10, 20, 40, 80, 160])
    entropy = 5 - np.log(lengths)
    entropy[3] -= 0.5
    assert chosen("token_entropy", {"token_entropy": entropy}, 0.2, lengths=lengths).uids == ["q4"]
    found = chosen("token_entropy", {"token_entropy": entropy}, 0.2, lengths=lengths, length_control="residual")
    assert found.uids == ["q3"]
    slope, offset = np.polyfit(np.log(lengths), entropy, 1)
    residual = entropy - offset - slope * np.log(lengths)
    assert [found.scores[u] for u in UIDS] == pytest.approx(residual.tolist(), abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused_by_name(value):
    """NaN sorts last: it would silently be kept by a selector of the highest, or drop a question unseen."""
    with pytest.raises(DataError, match=r"select.selector=nad_agreement has no score for 1 of 5.*question q2 is .*rol"):
        chosen("nad_agreement", {"agreement": [0.1, 0.2, value, 0.3, 0.4]})
    without = chosen("nad_agreement", {"agreement": [0.1, 0.2, value, 0.3, 0.4]}, lengths=[1, 1, 0, 1, 1])
    assert without.uids == ["q4", "q3"]  # q2 is no candidate


def test_a_column_that_no_stage_made_is_named():
    with pytest.raises(DataError, match="column token_entropy, and there are agreement.*signals"):
        chosen("token_entropy", {"agreement": COLUMN})


def test_statistics_of_scores_stand_beside_the_selection():
    from nopsd.selection.statistics import score_statistics

    questions = pool({"seq_nll": [1, 2, 3, 4, 5]}, domains=["a", "a", "a", "b", "b"])
    found = select(questions, SelectConfig(selector="seq_nll", fraction=0.5))
    stats = score_statistics(questions, found.scores)
    assert stats["a"]["quantiles"]["50"] == 2 and stats["b"]["mean"] == 4.5
    assert stats["a"]["count_correlation"] == pytest.approx(np.corrcoef([1, 2, 3], COUNTS[:3])[0, 1])
    assert stats["a"]["length_correlation"] == pytest.approx(np.corrcoef([1, 2, 3], LENGTHS[:3])[0, 1])


def run_own(score, monkeypatch):
    monkeypatch.setitem(SELECTORS, "own", Selector("own", "low", score))
    return chosen("own")


def test_what_a_users_function_returns_is_checked(monkeypatch):
    """A user's slip must be named, not end in a broadcast or in a selection of nonsense."""
    with pytest.raises(UserError, match=r"select.selector=own returned scores of shape \[2\] for 5 questions"):
        run_own(lambda pool, config: [1, 2], monkeypatch)
    with pytest.raises(UserError, match="must return numbers"):
        run_own(lambda pool, config: ["a"] * 5, monkeypatch)
    with pytest.raises(UserError, match="must return numbers"):
        run_own(lambda pool, config: {"q0": 1}, monkeypatch)
    assert run_own(lambda pool, config: [3, 2, 1, 5, 4], monkeypatch).uids == ["q2", "q1"]
    with pytest.raises(ConfigError, match="keep='lowest': use one of low, high, all"):
        selector(keep="lowest")(lambda pool, config: pool.counts)
