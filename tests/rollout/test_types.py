"""The rollout file: if these fail, ids or log-probs are lost or changed between stages."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nopsd.errors import ArtefactError
from nopsd.rollout.types import Rollout, read_header, read_rollouts, write_rollouts

ROLLOUTS = [
    Rollout("a", 0, [1, 2], [3, 1000], "π\n", "stop", 0),
    Rollout("a", 1, [1, 2], [3], "", "length", 7, seed=2**62 - 1, logprobs=[-0.5]),
    Rollout("b", 0, [9], [], "", "abort", 7, logprobs=[]),
]


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "r.parquet", ROLLOUTS, header="made from x")
    assert read_rollouts(tmp_path / "r.parquet") == ROLLOUTS
    assert read_header(tmp_path / "r.parquet") == "made from x"
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_no_rollouts_is_a_file_too(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "r.parquet", [])
    assert read_rollouts(tmp_path / "r.parquet") == []
    assert read_header(tmp_path / "r.parquet") is None


def test_truncated_is_the_length_finish_alone() -> None:
    assert [r.truncated for r in ROLLOUTS] == [False, True, False]


@pytest.mark.parametrize("damage", ["missing", "cut", "other columns"])
def test_an_unusable_file_is_named_with_the_remedy(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "r.parquet"
    if damage == "cut":
        write_rollouts(path, ROLLOUTS)
        path.write_bytes(path.read_bytes()[:-20])
    if damage == "other columns":
        pq.write_table(pa.table({"uid": ["a"]}), path)
    with pytest.raises(ArtefactError, match=r"r\.parquet .*run the stage"):
        read_rollouts(path)
