"""The registry of selectors: each one's score and direction on an example worked out by hand."""

import numpy as np
import pytest

from nopsd.config import CHOICES, SelectConfig
from nopsd.errors import ConfigError
from nopsd.selection.seeded import hash_uniform
from nopsd.selection.selectors import SELECTORS, select
from tests.selection.selectors.example import BY_COLUMN, COLUMN, UIDS, chosen, pool


def test_selectors_of_counts_and_lengths_keep_the_right_end():
    assert chosen("neuron_count").uids == ["q3", "q1"]
    assert chosen("neuron_count_top").uids == ["q0", "q2"]
    assert chosen("length").uids == ["q2", "q4"]
    assert chosen("length").threshold == 5


def test_either_end_and_a_number_of_questions():
    assert chosen("length", keep="high").uids == ["q1", "q3"]
    assert chosen("length", keep="high", count=3).uids == ["q1", "q3", "q0"]
    assert chosen("length", keep="low").uids == chosen("length").uids
    counted = chosen("neuron_count", count=1, domains=["a", "b", "a", "b", "b"])
    assert counted.uids == ["q2", "q3"]  # of each domain
    with pytest.raises(ConfigError, match="select.count=4 of 5 questions .3 candidates.: lower it"):
        chosen("neuron_count", count=4, lengths=[1, 0, 1, 0, 1])


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


@pytest.mark.parametrize("name", sorted(set(SELECTORS) - {"dual_neufs", "neuron_density", "stratified"}))
def test_every_selector_ignores_the_order_of_the_pool_and_ranks_domains_apart(name):
    columns = {column: COLUMN for column, _ in BY_COLUMN.values()}
    columns["embedding"] = np.array([[1, 0], [0, 1], [1, 1], [2, 0.5], [1, 3]])
    config = SelectConfig(selector=name, fraction=0.5)
    domains = ["a", "b", "a", "b", "b"]
    first = select(pool(columns, domains=domains), config)
    other = select(pool(columns, order=[3, 0, 4, 2, 1], domains=domains), config)
    assert first == other and first.scores == other.scores
    if name != "all":
        assert [domains[UIDS.index(uid)] for uid in first.uids] == ["a", "b"]  # floor(.5 * 2) and floor(.5 * 3)
        assert set(first.stats["thresholds"]) == {"a", "b"}


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
