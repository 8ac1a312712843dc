"""Given outputs as what is trained on: whole ones of the selected rows, and no others."""

import pytest

from nopsd.errors import DataError
from nopsd.rollout.types import Rollout
from nopsd.train.given import given_outputs


def row(uid, ids, reason="stop"):
    return Rollout(uid, 0, [1], ids, "text", reason, 0)


ROWS = [row("a", [5, 6]), row("b", []), row("c", [7], "length"), row("d", [8])]


def test_whole_outputs_of_the_selected_rows_alone():
    assert given_outputs(["d", "b", "c"], ROWS) == ({"d": [[8]]}, 2)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(DataError, match="none of 2 selected rows"):
        given_outputs(["b", "c"], ROWS)
