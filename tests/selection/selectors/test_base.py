"""What a user's own selector may be and may return."""

import pytest

from nopsd.errors import ConfigError, UserError
from nopsd.selection.selectors import SELECTORS, Selector, selector
from tests.selection.selectors.example import chosen


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
