"""Sample every question's responses from the served policy, in parts that survive a kill.

In: questions, their prompts (ids), sampling settings, a seed. Out: `folder/rollouts.parquet` (types.py), in the order
of the questions, samples within. Until it is written, what is finished becomes a file of its own every minute, which a
later run uses again if it was made from exactly the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import SamplingConfig
from nopsd.data.records import Question
from nopsd.errors import ArtefactError, ServerError, StaleWeightsError
from nopsd.files import sha256_json
from nopsd.rollout.types import FILE, Rollout, read_header, read_rollouts, write_rollouts

CALL_PROMPTS = 1024  # prompts asked for at once: the served version is checked before and after
PARTS = "part-*.parquet"
KEEP_S = 60.0  # finished answers are written at least so often
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
        finished: Callable[[int, list[Rollout]], None] | None = None,
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
        asked = dict(zip(uids, prompts, strict=True))
        found = sampler.kept(folder, asked)
        if found and progress is not None:
            progress(len(found), len(asked))
        left = [uid for uid in uids if uid not in found]
        for start in range(0, len(left), CALL_PROMPTS):
            call = {uid: asked[uid] for uid in left[start : start + CALL_PROMPTS]}
            found |= sampler.ask(call, folder, _shifted(progress, len(found), len(asked)))
        rollouts = [rollout for uid in uids for rollout in found[uid]]
        write_rollouts(final, rollouts, header)
    for part in folder.glob(PARTS):
        part.unlink()
    return rollouts


@dataclass(frozen=True)
class _Sampler:
    """The settings that all parts share."""

    client: Generator
    sampling: SamplingConfig
    seed: int
    version: int | None

    def header(self, uids: Sequence[str], prompts: Sequence[list[int] | None]) -> str:
        """What a file is made from, as JSON."""
        settings = {"seed": self.seed, "policy_version": self.version, **asdict(self.sampling)}
        return json.dumps({**settings, "prompts": sha256_json([list(uids), list(prompts)])}, sort_keys=True)

    def kept(self, folder: Path, asked: Mapping[str, list[int]]) -> dict[str, list[Rollout]]:
        """Responses by question of the parts that are there. ArtefactError if one was made from something else."""
        found: dict[str, list[Rollout]] = {}
        for path in sorted(folder.glob(PARTS)):
            rows: dict[str, list[Rollout]] = {}
            for rollout in read_rollouts(path):
                rows.setdefault(rollout.uid, []).append(rollout)
            _refuse_other(path, self.header(list(rows), [asked.get(uid) for uid in rows]))
            found |= rows
        return found

    def ask(self, asked: Mapping[str, list[int]], folder: Path, progress: Progress) -> dict[str, list[Rollout]]:
        """Sample one call's responses, by question; they are on disk when it returns or fails."""
        uids, parts = list(asked), _Parts(self, folder, asked)
        try:
            rows = self.client.generate(
                list(asked.values()),
                uids,
                self.sampling,
                self.seed,
                expected_version=self.version,
                progress=progress,
                finished=lambda i, row: parts.add(uids[i], row),
            )
            for row in rows:
                _refuse_aborted(row)
        except StaleWeightsError:
            parts.discard()
            raise
        except BaseException:
            parts.write()
            raise
        parts.write()
        return dict(zip(uids, rows, strict=True))


@dataclass
class _Parts:
    """One call's finished questions on their way to disk."""

    sampler: _Sampler
    folder: Path
    asked: Mapping[str, list[int]]
    waiting: dict[str, list[Rollout]] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.since = time.monotonic()

    def add(self, uid: str, row: list[Rollout]) -> None:
        """A question is finished: write those that wait if the last part is KEEP_S old."""
        _refuse_aborted(row)
        self.waiting[uid] = row
        if time.monotonic() - self.since >= KEEP_S:
            self.write()

    def write(self) -> None:
        """What waits becomes a part."""
        self.since = time.monotonic()
        if not self.waiting:
            return
        taken = sorted(self.folder.glob(PARTS))
        number = int(taken[-1].stem.split("-")[1]) + 1 if taken else 0
        path = self.folder / f"part-{number:05d}.parquet"
        header = self.sampler.header(list(self.waiting), [self.asked[uid] for uid in self.waiting])
        write_rollouts(path, [rollout for row in self.waiting.values() for rollout in row], header)
        self.written.append(path)
        self.waiting = {}

    def discard(self) -> None:
        """The weights changed meanwhile: nobody knows which answers are of which."""
        for path in self.written:
            path.unlink()


def _reusable(path: Path, header: str) -> list[Rollout] | None:
    """The file's rollouts, None if there is no file."""
    if not path.exists():
        return None
    _refuse_other(path, header)
    return read_rollouts(path)


def _refuse_other(path: Path, header: str) -> None:
    """ArtefactError unless the file was made from exactly this."""
    made, wanted = json.loads(read_header(path) or "{}"), json.loads(header)
    differing = sorted(k for k in {*made, *wanted} if made.get(k) != wanted.get(k))
    if differing:
        shown = ", ".join(f"{k} {made.get(k)!s:.16} there, {wanted.get(k)!s:.16} asked" for k in differing)
        raise ArtefactError(
            f"{path} was made from something else ({shown}): choose another run_dir, or delete {path.parent}"
        )


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
