"""Which questions are selected."""

import numpy as np
import pytest

from nopsd.config import SelectConfig
from nopsd.errors import ConfigError
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import budget, select


def pool(size, seed=0, ties=False):
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 40, size) if ties else draw.permutation(size)
    return {
        "uids": [f"q{i:05d}" for i in range(size)],
        "counts": counts.astype(np.float32) + 100,
        "lengths": draw.integers(1, 500, size),
        "truncated": draw.random(size) < 0.1,
    }


def run(columns, **settings):
    domains = settings.pop("domains", None)
    return select(make_pool(**columns, domains=domains), SelectConfig(**settings))


def test_5636_questions_without_ties_give_1127():
    """The paper's Chemistry pool: 20 % of 5636."""
    columns = pool(5636)
    chosen = run(columns)
    assert len(chosen.uids) == 1127
    assert chosen.threshold == 100 + 1126
    kept = {u for u, s in zip(columns["uids"], columns["counts"]) if s <= chosen.threshold}
    assert set(chosen.uids) == kept
    assert chosen.stats["thresholds"] == {"": 1226.0} and chosen.stats["selected"] == 1127


@pytest.mark.parametrize("fraction, size, k", [(0.2, 5636, 1127), (0.29, 100, 29), (0.1, 30, 3), (1.0, 7, 7)])
def test_budget_is_the_floor_of_the_fraction_as_written(fraction, size, k):
    """0.29 * 100 is 28.999… in binary floats."""
    assert budget(fraction, size) == k


def test_ties_include_or_exact():
    columns = pool(200, ties=True)
    included, exact = run(columns), run(columns, ties="exact")
    by_score = sorted(zip(columns["counts"], columns["uids"]))
    assert exact.uids == [u for _, u in by_score[:40]]
    assert exact.threshold == included.threshold == by_score[39][0]
    assert included.uids == [u for s, u in by_score if s <= by_score[39][0]]
    assert len(included.uids) > 40  # the example has ties at the threshold


def test_top_keeps_the_highest():
    columns = pool(50)
    chosen = run(columns, selector="neuron_count_top")
    order = sorted(zip(-columns["counts"], columns["uids"]))
    assert chosen.uids == [u for _, u in order[:10]] and chosen.threshold == -order[9][0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ties": "exact"},
        {"selector": "random"},
        {"selector": "all"},
        {"length_control": "residual"},
        {"selector": "neuron_count_top", "exclude_truncated": True},
    ],
)
def test_does_not_depend_on_the_order_of_the_pool(settings):
    columns = pool(120, ties=True)
    order = np.random.default_rng(1).permutation(120)
    shuffled = {n: [c[i] for i in order] if n == "uids" else c[order] for n, c in columns.items()}
    assert run(columns, **settings) == run(shuffled, **settings)


def test_random_is_seeded_and_has_the_same_size():
    columns = pool(500)
    first = run(columns, selector="random", seed=1)
    assert first == run(columns, selector="random", seed=1)
    other = run(columns, selector="random", seed=2)
    assert len(first.uids) == len(other.uids) == 100
    assert len(set(first.uids) & set(other.uids)) < 60


def test_all_keeps_everything_and_has_no_threshold():
    chosen = run(pool(30), selector="all")
    assert (len(chosen.uids), chosen.threshold) == (30, None)


def test_length_residual_ignores_what_length_explains():
    """s = log T for most; three questions of middling length have far fewer neurons than their length says."""
    lengths = np.arange(10, 40)
    counts = 1000 * np.log(lengths)
    counts[[10, 15, 20]] -= 500
    columns = {
        "uids": [f"q{i:02d}" for i in range(30)],
        "counts": counts,
        "lengths": lengths,
        "truncated": np.zeros(30, bool),
    }
    assert set(run(columns, fraction=0.1, length_control="residual").uids) == {"q10", "q15", "q20"}
    assert set(run(columns, fraction=0.1).uids) == {"q00", "q01", "q02"}


def test_truncated_and_unscored_questions():
    """A response without a scored position has a count of 0: it must not pass for the surest of all."""
    columns = pool(40)
    columns["counts"][3], columns["lengths"][3] = 0, 0
    chosen = run(columns)
    assert "q00003" not in chosen.uids and len(chosen.uids) == 8
    assert chosen.stats["without_scored_positions"] == 1
    columns["truncated"][:] = True
    columns["truncated"][5:20] = False
    chosen = run(columns, exclude_truncated=True)
    assert len(chosen.uids) == 8 and all("q00005" <= u < "q00020" for u in chosen.uids)


def test_domains_are_never_mixed_in_one_ranking():
    columns = pool(40)
    domains = ["a" if s < 120 else "b" for s in columns["counts"]]  # all of b count more
    chosen = run(columns, domains=domains)
    home = dict(zip(columns["uids"], domains))
    assert [home[u] for u in chosen.uids] == ["a"] * 4 + ["b"] * 4
    assert chosen.stats["thresholds"] == {"a": 103.0, "b": 123.0}


def test_a_fraction_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="select.fraction=0.2 of 4 questions"):
        run(pool(4))
