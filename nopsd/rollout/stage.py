"""The rollout stage: every question answered by the served policy (SPEC §3.1), in parts that survive a kill.

Input: questions, their prompts (ids), sampling settings, a seed. Output: `folder/rollouts.parquet`
(types.py), in the order of the questions, samples within. Until it is written, each finished part is
a file of its own, which a later run takes up if it was made from exactly the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import SamplingConfig
from nopsd.data.records import Question
from nopsd.errors import ArtefactError, ServerError
from nopsd.files import sha256_json
from nopsd.rollout.types import FILE, Rollout, read_header, read_rollouts, write_rollouts

PART_PROMPTS = 128


class Generator(Protocol):
    """What the stage asks of `RolloutClient`."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        expected_version: int | None = None,
        logprobs: bool = False,
        progress: Callable[..., None] | None = None,
    ) -> list[list[Rollout]]: ...


def run_rollouts(
    questions: Sequence[Question],
    prompts: Sequence[list[int]],
    client: Generator,
    sampling: SamplingConfig,
    seed: int,
    folder: Path,
    expected_version: int | None,
    progress: Callable[..., None] | None,
    part_prompts: int = PART_PROMPTS,
) -> list[Rollout]:
    """`sampling.n` rollouts a question, also written to `folder`. Rank 0 alone calls it.

    Parts already there are used again; ArtefactError if they, or the finished file, were made from
    other questions, prompts, settings, seed or policy version.
    """
    folder = Path(folder)
    uids = [q.uid for q in questions]
    settings = {"seed": seed, "policy_version": expected_version, **asdict(sampling)}
    final = folder / FILE
    done = _reusable(final, _header(settings, uids, prompts))
    if done is None:
        done = []
        for start in range(0, len(uids), part_prompts):
            here = slice(start, start + part_prompts)
            report = _shifted(progress, start, len(uids))
            done += _part(
                client,
                uids[here],
                prompts[here],
                sampling,
                seed,
                expected_version,
                settings,
                folder / f"part-{start // part_prompts:05d}.parquet",
                report,
            )
        write_rollouts(final, done, _header(settings, uids, prompts))
    for part in folder.glob("part-*.parquet"):
        part.unlink()
    return done


def _part(
    client: Generator,
    uids: list[str],
    prompts: Sequence[list[int]],
    sampling: SamplingConfig,
    seed: int,
    expected_version: int | None,
    settings: dict[str, Any],
    path: Path,
    progress: Callable[..., None],
) -> list[Rollout]:
    header = _header(settings, uids, prompts)
    rollouts = _reusable(path, header)
    if rollouts is None:
        rows = client.generate(prompts, uids, sampling, seed, expected_version=expected_version, progress=progress)
        rollouts = [rollout for row in rows for rollout in row]
        _refuse_aborted(rollouts)
        write_rollouts(path, rollouts, header)
    else:
        progress(len(uids), len(uids))
    return rollouts


def _header(settings: dict[str, Any], uids: Sequence[str], prompts: Sequence[list[int]]) -> str:
    return json.dumps({**settings, "prompts": sha256_json([list(uids), list(prompts)])}, sort_keys=True)


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


def _shifted(progress: Callable[..., None] | None, offset: int, total: int) -> Callable[..., None]:
    """Progress of a part told as progress of the whole."""

    def report(done: int, _part_total: int, **info: Any) -> None:
        if progress is not None:
            progress(offset + done, total, **info)

    return report
