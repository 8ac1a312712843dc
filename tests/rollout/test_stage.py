"""The rollout stage: if these fail, a killed run loses its rollouts, or mixes them with others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nopsd.config import SamplingConfig
from nopsd.data.records import Question
from nopsd.errors import ArtefactError, ServerError, StaleWeightsError
from nopsd.rollout import stage
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.stage import run_rollouts
from nopsd.rollout.types import FILE, Rollout, read_rollouts

QUESTIONS = [Question(f"q{i}", "d", "s", f"text {i}") for i in range(7)]
PROMPTS = [[i, i + 1] for i in range(7)]
SAMPLING = SamplingConfig(n=2, max_new=8)


class Counting:
    """Answers from (uid, seed), the last prompt first; counts prompts; fails with `error` after `lives` prompts."""

    def __init__(self, lives: int = 99, finish: str = "stop", error: Exception | None = None) -> None:
        self.lives, self.finish, self.asked = lives, finish, []  # type: ignore[var-annotated]
        self.error = error or ServerError("killed")

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        expected_version: int | None = None,
        finished: Callable[[int, list[Rollout]], None] | None = None,
        progress: Callable[..., None] | None = None,
        **_: Any,
    ) -> list[list[Rollout]]:
        rows: dict[int, list[Rollout]] = {}
        for i in reversed(range(len(uids))):
            if self.lives == 0:
                raise self.error
            self.lives -= 1
            self.asked.append(uids[i])
            responses = ([seed, k] for k in range(sampling.n))
            rows[i] = [
                Rollout(uids[i], k, prompts[i], ids, "t", self.finish, expected_version or 0, seed)
                for k, ids in enumerate(responses)
            ]
            if finished:
                finished(i, rows[i])
            if progress:
                progress(len(rows), len(uids))
        return [rows[i] for i in range(len(uids))]


@pytest.fixture(autouse=True)
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every finished question is a part."""
    monkeypatch.setattr(stage, "KEEP_S", 0.0)


def run(client: Any, folder: Path, progress: Any = None, **changes: Any) -> list[Rollout]:
    arguments = {"questions": QUESTIONS, "prompts": PROMPTS, "sampling": SAMPLING, "seed": 5, "expected_version": 0}
    return run_rollouts(client=client, folder=folder, progress=progress, **{**arguments, **changes})


def test_finished_answers_survive_a_kill_and_are_not_asked_for_again(tmp_path: Path) -> None:
    whole = run(Counting(), tmp_path / "whole")
    with pytest.raises(ServerError):
        run(Counting(lives=5), tmp_path / "killed")
    seen: list[tuple[int, int]] = []
    second = Counting()
    resumed = run(second, tmp_path / "killed", progress=lambda done, total, **info: seen.append((done, total)))
    assert second.asked == ["q1", "q0"], "five of seven were already there"
    assert resumed == whole == read_rollouts(tmp_path / "killed" / FILE)
    assert [p.name for p in (tmp_path / "killed").iterdir()] == [FILE], "parts are removed at the end"
    assert seen == [(5, 7), (6, 7), (7, 7)]
    third = Counting()
    assert run(third, tmp_path / "killed") == whole and third.asked == [], "a finished stage is not redone"


def test_what_is_finished_is_written_every_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a killed process loses more than a minute of answers, or writes a file for each."""
    monkeypatch.setattr(stage, "KEEP_S", 60.0)
    now, there = 0.0, []
    monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: now))

    def progress(done: int, total: int, **info: Any) -> None:
        nonlocal now
        there.append(sum(len(read_rollouts(p)) for p in tmp_path.glob("part-*")) // SAMPLING.n)
        now += 25.0

    run(Counting(), tmp_path, progress)
    assert there == [0, 0, 0, 4, 4, 4, 7]


def test_answers_of_weights_that_changed_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(StaleWeightsError):
        run(Counting(lives=3, error=StaleWeightsError("another run")), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 6}, "seed 5 there, 6 asked"),
        ({"sampling": replace(SAMPLING, temperature=0.1)}, "temperature 0.6"),
        ({"expected_version": 3}, "policy_version 0 there, 3 asked"),
        ({"prompts": [[9]] * 7}, "prompts"),
        ({"questions": QUESTIONS[:4], "prompts": PROMPTS[:4]}, "prompts"),
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
    client: RolloutClient, prompts: list[list[int]], tmp_path: Path
) -> None:
    questions = QUESTIONS[:3]
    common = {"questions": questions, "prompts": prompts, "sampling": replace(SAMPLING, temperature=1.0)}

    def rollouts(folder: Path, progress: Any = None) -> list[Rollout]:
        return run_rollouts(client=client, folder=folder, progress=progress, seed=1, expected_version=0, **common)

    def kill(done: int, total: int, **info: Any) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollouts(tmp_path / "killed", kill)
    kept = sorted(p.name for p in (tmp_path / "killed").iterdir())
    assert kept == ["part-00000.parquet"]
    assert rollouts(tmp_path / "killed") == rollouts(tmp_path / "whole")
