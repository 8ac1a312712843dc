"""Rounds: which model each begins with, and where it goes. If these fail, a later round trains on the base again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nopsd.config import Config, load_config
from nopsd.errors import ConfigError
from nopsd.run.rounds import rounds_of
from nopsd.run.session import Session


def test_one_round_is_the_run_itself() -> None:
    config = Config()
    assert rounds_of(config) == [config] and config.rounds == 1


def test_each_round_begins_with_the_model_of_the_one_before(tmp_path: Path) -> None:
    config = load_config("lab", [f"run_dir={tmp_path}", "rounds=3", "model.revision=v1"])
    first, second, third = rounds_of(config)
    assert [Path(one.run_dir).name for one in (first, second, third)] == ["round-1", "round-2", "round-3"]
    assert first.model == config.model
    assert second.model.path == str(tmp_path / "round-1" / "train" / "export") and second.model.revision is None
    assert third.model.path == str(tmp_path / "round-2" / "train" / "export")
    for one in (first, second, third):  # nothing else differs
        assert replace(one, run_dir=config.run_dir, rounds=3, model=config.model) == config


def test_what_trains_nothing_has_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method=base trains nothing"):
        rounds_of(load_config("lab", ["method=base", "rounds=2"]))


def test_a_command_of_one_round_refuses_several() -> None:
    """It would train a single round in the folder of all."""
    with pytest.raises(ConfigError, match="round-1/config.yaml"):
        Session(load_config("lab", ["rounds=2"]))
