"""The GRPO stage: engines, resume, the loop, the export (SPEC §8.2, §8.3; stage 4 of ttrl and intuitor).

In: the questions to train on and their prompts (token ids), the base model's folder, a client of a running rollout
server. Out, in FOLDER: checkpoints/ while it trains, and export/, the finished model; the stage is done once export/
is there. Run by every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nopsd.config import TRAIN_CONDUCT, Config, to_plain
from nopsd.data.records import Question, questions_hash
from nopsd.engine.distributed import Ranks
from nopsd.engine.sequence_parallel import join
from nopsd.engine.stopping import StopRequest
from nopsd.errors import ConfigError, DataError
from nopsd.files import sha256_json
from nopsd.rollout.weight_sync import open_weight_sync
from nopsd.train.algorithms.grpo import reinforce
from nopsd.train.algorithms.grpo_state import Reinforcement
from nopsd.train.artefacts import EXPORT
from nopsd.train.closing import already_exported, finish, pad_id, resume
from nopsd.train.planning import check_budget
from nopsd.train.reference import load_reference
from nopsd.train.state import Log
from nopsd.train.token_model import load_token_engine


def train(
    config: Config,
    selected: Sequence[str],
    student_prompts: Mapping[str, list[int]],
    questions: Mapping[str, Question],
    model_path: Path,
    client: Any,
    ranks: Ranks,
    folder: Path,
    open_log: Callable[[int], Log] | None = None,
    progress: Callable[..., None] | None = None,
    probe: Callable[[int], dict[str, float]] | None = None,
    think_open: bool = False,
    stop: StopRequest | None = None,
) -> None:
    """Train into FOLDER/export; goes on from the newest whole checkpoint, and does nothing if the export is there.

    `client` (a RolloutClient), `open_log(resume_step)` and `probe` are used on rank 0 alone. `questions`: by uid, read
    with grpo.reward=majority. Collective. Raises UserErrors: no questions, keys that don't go together, artefacts of
    another run, a server that fails or holds other weights; Stopped, with the step saved, if `stop` is made.
    """
    check_config(config)
    check_prompts(config, selected, student_prompts, questions)
    lengths = [len(student_prompts[uid]) for uid in selected]
    check_budget(config.train.micro_tokens, min(lengths), max(lengths), config.train.max_response)
    identity = identity_of(config, selected, student_prompts, questions, think_open)
    if already_exported(folder / EXPORT, identity, ranks):
        return
    parallel = join(ranks, config.dist.sequence_parallel)
    student = load_token_engine(config, model_path, ranks, parallel)
    reference = load_reference(config, model_path, student, ranks, parallel)
    sync = open_weight_sync(student.module.lm, client, config.server, ranks.rank, ranks.device)
    try:
        step, skipped, extras = resume(student, None, folder, identity, ranks)
        run = Reinforcement(
            config=config,
            selected=list(selected),
            student_prompts=student_prompts,
            questions=questions,
            think_open=think_open,
            student=student,
            reference=reference,
            client=client,
            sync=sync,
            ranks=ranks,
            folder=folder,
            identity=identity,
            log=open_log(step) if open_log and ranks.is_main else None,
            progress=progress,
            pad=pad_id(student.module.lm),
            probe=probe,
            extras=extras,
            stop=stop or StopRequest(),
            parallel=parallel,
        )
        reinforce(run, step, skipped)
    finally:
        sync.close()
    finish(run, model_path)


def check_config(config: Config) -> None:
    """ConfigError for a group that can't be compared, or a ratio to another policy than the one that sampled."""
    train = config.train
    if train.n < 2:
        raise ConfigError(f"train.n={train.n}: GRPO compares several responses to one question: set train.n=8, say")
    if train.temperature != 1.0:
        raise ConfigError(
            f"train.temperature={train.temperature:g}: GRPO's ratio is to the policy at temperature 1: set "
            "train.temperature=1"
        )


def check_prompts(
    config: Config,
    selected: Sequence[str],
    student_prompts: Mapping[str, list[int]],
    questions: Mapping[str, Question],
) -> None:
    """DataError if there is no question to train on, or one lacks what is read of it."""
    if not selected:
        raise DataError("no question was selected: raise select.fraction or give more questions")
    for uid in selected:
        if uid not in student_prompts or (config.grpo.reward == "majority" and uid not in questions):
            raise DataError(f"question {uid} was selected but has no prompt, or is not in the pool: run select again")


def identity_of(
    config: Config,
    selected: Sequence[str],
    student_prompts: Mapping[str, list[int]],
    questions: Mapping[str, Question],
    think_open: bool,
) -> dict[str, Any]:
    """What a checkpoint or export was made from, as far as this stage sees it."""
    train = {k: v for k, v in to_plain(config.train).items() if k not in TRAIN_CONDUCT}
    found: dict[str, Any] = {
        "train": train,
        "grpo": to_plain(config.grpo),
        "seed": config.seed,
        "dtype": config.model.dtype,
        "prompts": sha256_json([[uid, student_prompts[uid]] for uid in sorted(selected)]),
    }
    if config.grpo.reward == "majority":
        found |= {"questions": questions_hash([questions[uid] for uid in sorted(selected)]), "think_open": think_open}
    return found
