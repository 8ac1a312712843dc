"""Sequences split over two real ranks, of every family that is not refused: else each rank's windows or positions
would be those of its part, and a run would train on wrong hidden states and gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import families
from tests.engine.test_family_check import rows_of_the_page

WORKER = Path(__file__).with_name("worker_families.py")
SOME = ["llama", "gpt2", "mistral", "gemma3_text", "mixtral with a window"]


def check(names: list[str], run_ranks: Callable[..., object], out: Path) -> None:
    run_ranks(WORKER, {"families": names, "out": str(out)}, 2)
    gaps = json.loads((out / "gaps.json").read_text())
    assert set(gaps) == set(names)
    assert {name: row for name, row in gaps.items() if max(row.values()) > 1e-3} == {}


@pytest.mark.engine
def test_windows_and_positions_hold_over_two_ranks(run_ranks: Callable[..., object], tmp_path: Path) -> None:
    check(SOME, run_ranks, tmp_path)


@pytest.mark.engine
@pytest.mark.soak
def test_every_family_that_may_be_split(run_ranks: Callable[..., object], tmp_path: Path) -> None:
    page = rows_of_the_page()
    check([name for name in families.all_families() if page[name]["Ulysses"] == "yes"], run_ranks, tmp_path)
