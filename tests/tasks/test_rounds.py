"""`nopsd run` with rounds: in order, resumable, each against the first base; and on the real engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nopsd.config import Config, load_config
from nopsd.errors import ConfigError, UserError
from nopsd.files import read_json
from nopsd.models import hash_of
from nopsd.rollout.types import read_rollouts
from nopsd.tasks import rounds
from nopsd.tasks.dry_run import dry_run
from nopsd.tasks.status import status
from tests.command import SMALL, nopsd


class Done:
    """A session of questions without answers."""

    def __init__(self, config: Config) -> None:
        self.config, self.tests = config, dict[str, Any]()


def test_a_round_that_fails_leaves_the_later_ones_and_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if rounds are left out, run in another order, or start though the one before failed."""
    run, failing = list[str](), ["round-2"]

    def run_all(stages: Any, config: Config) -> Done:
        run.append(Path(config.run_dir).name)
        if run[-1] in failing:
            raise UserError("no")
        return Done(config)

    monkeypatch.setattr(rounds.runner, "run_all", run_all)
    monkeypatch.setattr(rounds, "final_message", lambda session: Path(session.config.run_dir).name)
    config = load_config("lab", [f"run_dir={tmp_path / 'run'}", "rounds=3"])
    with pytest.raises(UserError):
        rounds.run_rounds(config)
    assert run == ["round-1", "round-2"]
    failing.clear()
    again = load_config(str(tmp_path / "run" / "config.yaml"), [])  # as the status of a failed run says
    assert rounds.run_rounds(again) == "round-3" and run[2:] == ["round-1", "round-2", "round-3"]


def test_redoing_a_stage_does_not_say_in_which_round(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="round-N"):
        rounds.run_rounds(load_config("lab", [f"run_dir={tmp_path}", "rounds=2"]), redo="train")


def test_the_dry_run_says_that_there_are_more() -> None:
    text, code = dry_run(load_config("lab", ["rounds=2", "run_dir=runs/twice"]))
    assert "2 rounds" in text and "runs/twice/round-2" in text and code == 0


def test_the_status_is_of_every_round(tmp_path: Path) -> None:
    text = status(load_config("lab", [f"run_dir={tmp_path}", "rounds=2"]))
    assert "round-1: " in text and "round-2: " in text


@pytest.mark.engine
@pytest.mark.soak
def test_the_second_round_answers_with_the_firsts_model(tmp_path: Path) -> None:
    """On the real engines: other weights serve, other answers are scored, and a second command does nothing."""
    command = ("run", "--preset", "lab", f"run_dir={tmp_path / 'run'}", "rounds=2", "train.lr=1e-3", *SMALL)
    done = nopsd(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, second = (tmp_path / "run" / f"round-{n}" for n in (1, 2))
    assert read_json(second / "environment.json")["model"]["path"] == str(first / "train" / "export")
    weights = [read_json(one / "environment.json")["model"]["hash"] for one in (first, second)]
    assert weights[0] != weights[1] == hash_of(first / "train" / "export")
    answers = [[r.text for r in read_rollouts(one / "rollout" / "rollouts.parquet")] for one in (first, second)]
    assert len(answers[0]) == len(answers[1]) == 30 and answers[0] != answers[1]
    assert "After round 2, from the first base" in done.stdout and (tmp_path / "run" / "rounds.md").is_file()
    again = nopsd(*command)
    assert again.returncode == 0 and again.stdout.count("up to date") == 2 * 9
