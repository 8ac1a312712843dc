"""Sample every question's responses from the served policy, in parts that survive a kill.

In: questions, their prompts (ids), sampling settings, a seed. Out: `folder/rollouts.parquet` (types.py), in the order
of the questions, samples within. Until it is written, each finished part is a file of its own, which a later run uses
again if it was made from exactly the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import SamplingConfig
from nopsd.data.records import Question
from nopsd.errors import ArtefactError, ServerError
from nopsd.files import sha256_json
from nopsd.rollout.types import FILE, Rollout, read_header, read_rollouts, write_rollouts

PART_PROMPTS = 128  # prompts of a part
Progress = Callable[..., None]


class Generator(Protocol):
    """What is asked of `RolloutClient`."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        expected_version: int | None = None,
        logprobs: bool = False,
        progress: Progress | None = None,
    ) -> list[list[Rollout]]: ...


def run_rollouts(
    questions: Sequence[Question],
    prompts: Sequence[list[int]],
    client: Generator,
    sampling: SamplingConfig,
    seed: int,
    folder: Path,
    expected_version: int | None,
    progress: Progress | None,
) -> list[Rollout]:
    """Sample each question, also into `folder`. Rank 0 alone calls it; parts that are there are used again.

    Args:
        questions: In order.
        prompts: Token ids of each.
        client: Of the servers.
        sampling: `n` responses a question, temperature and its like.
        seed: Of the sampling.
        folder: Where parts and rollouts.parquet go.
        expected_version: Policy version that must be served; None: any.
        progress: Called with the responses done and their total.

    Raises:
        ArtefactError: What is there was made from other questions, prompts, settings, seed or policy version.
        ServerError: A server can't be reached or gave an invalid answer.
    """
    folder = Path(folder)
    uids = [q.uid for q in questions]
    sampler = _Sampler(client, sampling, seed, expected_version)
    final, header = folder / FILE, sampler.header(uids, prompts)
    rollouts = _reusable(final, header)
    if rollouts is None:
        rollouts = []
        for start in range(0, len(uids), PART_PROMPTS):
            part = slice(start, start + PART_PROMPTS)
            path = folder / f"part-{start // PART_PROMPTS:05d}.parquet"
            rollouts += sampler.part(path, uids[part], prompts[part], _shifted(progress, start, len(uids)))
        write_rollouts(final, rollouts, header)
    for left in folder.glob("part-*.parquet"):
        left.unlink()
    return rollouts


@dataclass(frozen=True)
class _Sampler:
    """The settings that all parts share."""

    client: Generator
    sampling: SamplingConfig
    seed: int
    version: int | None

    def header(self, uids: Sequence[str], prompts: Sequence[list[int]]) -> str:
        """What a file is made from, as JSON."""
        settings = {"seed": self.seed, "policy_version": self.version, **asdict(self.sampling)}
        return json.dumps({**settings, "prompts": sha256_json([list(uids), list(prompts)])}, sort_keys=True)

    def part(self, path: Path, uids: list[str], prompts: Sequence[list[int]], progress: Progress) -> list[Rollout]:
        """The part's rollouts: read from `path`, or sampled and written there."""
        header = self.header(uids, prompts)
        rollouts = _reusable(path, header)
        if rollouts is not None:
            progress(len(uids), len(uids))
            return rollouts
        rows = self.client.generate(
            prompts, uids, self.sampling, self.seed, expected_version=self.version, progress=progress
        )
        rollouts = [rollout for row in rows for rollout in row]
        _refuse_aborted(rollouts)
        write_rollouts(path, rollouts, header)
        return rollouts


def _reusable(path: Path, header: str) -> list[Rollout] | None:
    """The file's rollouts, None if there is no file."""
    if not path.exists():
        return None
    made, wanted = json.loads(read_header(path) or "{}"), json.loads(header)
    differing = sorted(k for k in {*made, *wanted} if made.get(k) != wanted.get(k))
    if differing:
        shown = ", ".join(f"{k} {made.get(k)!s:.16} there, {wanted.get(k)!s:.16} asked" for k in differing)
        raise ArtefactError(
            f"{path} was made from something else ({shown}): choose another run_dir, or delete {path.parent}"
        )
    return read_rollouts(path)


def _refuse_aborted(rollouts: Sequence[Rollout]) -> None:
    aborted = [r.uid for r in rollouts if r.finish_reason == "abort"]
    if aborted:
        raise ServerError(
            f"{len(aborted)} responses were aborted on the server (first: {aborted[0]}): "
            "another client of it aborts requests; run the stage again"
        )


def _shifted(progress: Progress | None, offset: int, total: int) -> Progress:
    """A part's progress reported as progress of the whole."""

    def report(done: int, _part_total: int, **info: Any) -> None:
        if progress is not None:
            progress(offset + done, total, **info)

    return report


class Lazily:
    """A client that is asked for, and so a server that is started, only when there is something to sample."""

    def __init__(self, make: Callable[[], Generator]) -> None:
        self.make, self.client = make, None  # type: Callable[[], Generator], Generator | None

    def generate(self, *arguments: Any, **options: Any) -> list[list[Rollout]]:
        """As the client's."""
        self.client = self.client or self.make()
        return self.client.generate(*arguments, **options)
