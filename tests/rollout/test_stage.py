"""The rollout stage: if these fail, a killed run loses its rollouts, or mixes them with others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nopsd.config import SamplingConfig
from nopsd.data.records import Question
from nopsd.errors import ArtefactError, ServerError
from nopsd.rollout import stage
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.stage import run_rollouts
from nopsd.rollout.types import FILE, Rollout, read_rollouts

QUESTIONS = [Question(f"q{i}", "d", "s", f"text {i}") for i in range(7)]
PROMPTS = [[i, i + 1] for i in range(7)]
SAMPLING = SamplingConfig(n=2, max_new=8)


class Counting:
    """Answers from (uid, seed); counts prompts; dies after `lives` calls."""

    def __init__(self, lives: int = 99, finish: str = "stop") -> None:
        self.lives, self.finish, self.asked = lives, finish, []  # type: ignore[var-annotated]

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        expected_version: int | None = None,
        logprobs: bool = False,
        progress: Callable[..., None] | None = None,
    ) -> list[list[Rollout]]:
        if self.lives == 0:
            raise ServerError("killed")
        self.lives -= 1
        self.asked += uids
        if progress:
            progress(len(uids), len(uids))
        return [
            [Rollout(u, k, p, [seed, k], "t", self.finish, expected_version or 0, seed) for k in range(sampling.n)]
            for u, p in zip(uids, prompts)
        ]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of three prompts."""
    monkeypatch.setattr(stage, "PART_PROMPTS", 3)


def run(client: Any, folder: Path, progress: Any = None, **changes: Any) -> list[Rollout]:
    arguments = {"questions": QUESTIONS, "prompts": PROMPTS, "sampling": SAMPLING, "seed": 5, "expected_version": 0}
    return run_rollouts(client=client, folder=folder, progress=progress, **{**arguments, **changes})


def test_finished_parts_survive_a_kill_and_are_not_redone(tmp_path: Path) -> None:
    whole = run(Counting(), tmp_path / "whole")
    with pytest.raises(ServerError):
        run(Counting(lives=2), tmp_path / "killed")
    seen: list[tuple[int, int]] = []
    second = Counting()
    resumed = run(second, tmp_path / "killed", progress=lambda done, total, **info: seen.append((done, total)))
    assert second.asked == ["q6"], "six of seven were already there"
    assert resumed == whole == read_rollouts(tmp_path / "killed" / FILE)
    assert [p.name for p in (tmp_path / "killed").iterdir()] == [FILE], "parts are removed at the end"
    assert seen == [(3, 7), (6, 7), (7, 7)]
    third = Counting()
    assert run(third, tmp_path / "killed") == whole and third.asked == [], "a finished stage is not redone"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 6}, "seed 5 there, 6 asked"),
        ({"sampling": replace(SAMPLING, temperature=0.1)}, "temperature 0.6"),
        ({"expected_version": 3}, "policy_version 0 there, 3 asked"),
        ({"prompts": [[9]] * 7}, "prompts"),
        ({"questions": QUESTIONS[::-1]}, "prompts"),
    ],
)
def test_parts_made_from_something_else_are_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ServerError):
        run(Counting(lives=1), tmp_path)
    with pytest.raises(ArtefactError, match=f"part-00000.*{named}.*delete"):
        run(Counting(), tmp_path, **changes)


def test_aborted_responses_never_enter_the_artefact(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="aborted"):
        run(Counting(finish="abort"), tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_the_real_server_gives_the_same_after_a_kill(
    client: RolloutClient, prompts: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PART_PROMPTS", 1)
    questions = QUESTIONS[:3]
    common = {"questions": questions, "prompts": prompts, "sampling": replace(SAMPLING, temperature=1.0)}

    def rollouts(folder: Path, progress: Any = None) -> list[Rollout]:
        return run_rollouts(client=client, folder=folder, progress=progress, seed=1, expected_version=0, **common)

    def kill(done: int, total: int, **info: Any) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollouts(tmp_path / "killed", kill)
    kept = sorted(p.name for p in (tmp_path / "killed").iterdir())
    assert kept == ["part-00000.parquet"]
    assert rollouts(tmp_path / "killed") == rollouts(tmp_path / "whole")
