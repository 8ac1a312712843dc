"""What a user's own retriever may return."""

import numpy as np
import pytest

from nopsd.errors import UserError
from nopsd.selection.retrievers import RETRIEVERS, Neighbors, Retriever
from tests.selection.pools import contexts_of


@pytest.mark.parametrize(
    ("find", "words"),
    [
        (lambda r: 3, "returned a int: return Neighbors"),
        (lambda r: Neighbors(np.zeros((2, 1), int), np.zeros((2, 1))), r"must return \[11, m\] arrays"),
        (lambda r: Neighbors(np.full((11, 1), 12), np.zeros((11, 1))), "no questions"),
        (lambda r: Neighbors(r.queries[:, None], np.zeros((11, 1))), "shows a question its own response"),
    ],
)
def test_what_a_users_retriever_returns_is_checked(make_neurons, alone, tmp_path, monkeypatch, find, words):
    monkeypatch.setitem(RETRIEVERS, "own", Retriever("own", find))
    with pytest.raises(UserError, match=f"context.retriever=own.*{words}"):
        contexts_of(make_neurons(12), alone, tmp_path, retriever="own")
