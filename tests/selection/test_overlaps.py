"""What other selectors would choose of a pool, and how far two choose the same."""

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.overlaps import selections, shares
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select

UIDS = [f"q{i}" for i in range(10)]


def pool(**columns):
    return make_pool(UIDS, np.arange(10) + 5.0, np.arange(10)[::-1] + 3, np.zeros(10, bool), columns=columns)


def test_selectors_whose_columns_are_there_choose_as_in_a_run():
    config = SelectConfig("majority_conf", 0.3, redundancy=0.9, keep="low")
    unsure = np.full(10, 0.5)
    found = selections(pool(token_entropy=np.arange(10) % 4, majority_conf=unsure, seq_nll=np.full(10, np.nan)), config)
    assert set(found) == {"neuron_count", "neuron_count_top", "length", "random", "token_entropy", "majority_conf"} | {
        "learnability"
    }
    for name, chosen in found.items():
        wanted = SelectConfig(name, 0.3, ties="exact")
        assert chosen == set(select(pool(token_entropy=np.arange(10) % 4, majority_conf=unsure), wanted).uids)
        assert len(chosen) == 3


def test_spaced_selectors_go_by_the_column_that_is_there(alone):
    embedding = np.random.default_rng(0).normal(size=(10, 3))
    assert "kcenter (embedding)" in selections(pool(embedding=embedding), SelectConfig())
    assert not any("kcenter" in name for name in selections(pool(), SelectConfig()))


def test_shares_are_of_the_rows_selector():
    chosen = {"a": frozenset("pqr"), "b": frozenset("qrst"), "c": frozenset("x")}
    assert shares(chosen).tolist() == [[1, 2 / 3, 0], [0.5, 1, 0], [0, 0, 1]]
