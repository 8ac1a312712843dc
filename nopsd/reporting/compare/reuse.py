"""Finished stages shared between the runs of a comparison: linked where a stage would be made from exactly the same.

In: a run that is about to begin, and the folders of the others. Out: its sealed stages, as hard links (copies where the
file system has none). Links are safe: no file of a sealed stage is ever written in place, and --redo removes names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nopsd.data.artefacts import TESTS
from nopsd.errors import ArtefactError
from nopsd.files import flatten, read_json, sha256_file
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.run import folder as names
from nopsd.run.folder import BEGUN, MANIFEST, RunFolder

# Of evaluate_base: what its rollouts of the test questions don't depend on (they do on tests.jsonl).
POOLS_OWN = ("input.data", "input.rollout")


def reuse_stages(
    run: RunFolder,
    others: Sequence[RunFolder],
    stages: Sequence[tuple[str, Sequence[str]]],
    fingerprint: Callable[[str], Mapping[str, Any]],
) -> list[str]:
    """Take over what another run has already made, in order. A stage that was begun here is left alone.

    Args:
        run: The folder that it goes to.
        others: Folders that may have it.
        stages: (name, the stages it reads), in order.
        fingerprint: Of a stage of `run`, by name; called once the stages that it reads are there.

    Returns:
        The names.
    """
    reused = []
    for name, reads in stages:
        folder = run.stage_dir(name)
        if folder.exists() or any(run.manifest(read) is None for read in reads):
            continue
        made = flatten(fingerprint(name))
        source = next((o for o in others if _made_from(o, name) == made), None)
        if source is not None:
            link_stage(source.stage_dir(name), folder)
            reused.append(name)
        elif name == names.EVALUATE_BASE:
            _reuse_base_rollouts(run, others, made)
    return reused


def _made_from(run: RunFolder, stage: str) -> dict[str, Any] | None:
    manifest = run.manifest(stage)
    return None if manifest is None else manifest["fingerprint"]


def link_stage(source: Path, target: Path) -> None:
    """`target` as a whole stage, or not at all. ArtefactError if a file of `source` is missing."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in [BEGUN, *read_json(source / MANIFEST)["files"], MANIFEST]:
        link(source / name, part / name)
    os.replace(part, target)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where there are none. ArtefactError if `source` is missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise ArtefactError(f"{source} is missing: start its stage afresh with --redo") from error
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _reuse_base_rollouts(run: RunFolder, others: Sequence[RunFolder], made: Mapping[str, Any]) -> None:
    """The base model's answers to the same test questions, sampled for another source: judging them again is cheap."""
    tests = _tests_hash(run)
    for other in others:
        theirs = _made_from(other, names.EVALUATE_BASE)
        same = theirs is not None and _without_pool(theirs) == _without_pool(made)
        file = other.stage_dir(names.EVALUATE_BASE) / ROLLOUTS
        if same and tests is not None and _tests_hash(other) == tests and file.exists():
            link(file, run.stage_dir(names.EVALUATE_BASE) / ROLLOUTS)
            return


def _without_pool(made: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if key not in POOLS_OWN}


def _tests_hash(run: RunFolder) -> str | None:
    file = run.stage_dir(names.DATA) / TESTS
    return sha256_file(file) if file.exists() else None
