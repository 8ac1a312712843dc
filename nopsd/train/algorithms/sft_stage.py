"""The fine-tuning stage: engine, resume, the loop, the export (SPEC §8.1; stage 4 of lmsi and nait_sft).

In: each question's prompt and the responses to train on, as token ids; the base model's folder; for the label-free
probe a client of a running rollout server. Out, in FOLDER: checkpoints/ while it trains, and export/, the finished
model; the stage is done once export/ is there. Run by every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nopsd.config import TRAIN_CONDUCT, Config, to_plain
from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.engine.distributed import Ranks
from nopsd.engine.sequence_parallel import join
from nopsd.engine.stopping import StopRequest
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.rollout.weight_sync import open_weight_sync
from nopsd.train.algorithms.sft import finetune
from nopsd.train.algorithms.sft_state import Finetuning
from nopsd.train.artefacts import EXPORT
from nopsd.train.closing import already_exported, finish, pad_id, resume
from nopsd.train.planning import check_budget
from nopsd.train.state import Log
from nopsd.train.token_model import load_token_engine

Examples = Mapping[str, tuple[list[int], list[list[int]]]]  # uid -> prompt ids, ids of its responses


def train(
    config: Config,
    examples: Examples,
    model_path: Path,
    client: Any,
    ranks: Ranks,
    folder: Path,
    open_log: Callable[[int], Log] | None = None,
    progress: Callable[..., None] | None = None,
    probe: Callable[[int], dict[str, float]] | None = None,
    stop: StopRequest | None = None,
) -> None:
    """Fine-tune into FOLDER/export; goes on from the newest whole checkpoint, and does nothing if the export is there.

    `client`, `open_log(resume_step)` and `probe` are used on rank 0 alone; without a probe there no server is needed,
    and `client` may be None. Collective. Raises UserErrors: no responses, artefacts of another run, a server that
    fails; Stopped, with the step saved, if `stop` is made.
    """
    check_examples(examples)
    lengths = [len(prompt) for prompt, _ in examples.values()]
    longest = max(len(ids) for _, responses in examples.values() for ids in responses)
    check_budget(config.train.micro_tokens, min(lengths), max(lengths), longest)
    identity = identity_of(config, examples)
    if already_exported(folder / EXPORT, identity, ranks):
        return
    parallel = join(ranks, config.dist.sequence_parallel)
    student = load_token_engine(config, model_path, ranks, parallel)
    probed = config.train.probe_every > 0 and broadcast_from_rank0(ranks, lambda: probe is not None)
    sync = open_weight_sync(student.module.lm, client, config.server, ranks.rank, ranks.device) if probed else None
    try:
        step, skipped, extras = resume(student, None, folder, identity, ranks)
        run = Finetuning(
            config=config,
            selected=list(examples),
            student_prompts={uid: ids for uid, (ids, _) in examples.items()},
            responses={uid: responses for uid, (_, responses) in examples.items()},
            student=student,
            client=client,
            sync=sync or Unserved(),
            ranks=ranks,
            folder=folder,
            identity=identity,
            pad=pad_id(student.module.lm),
            log=open_log(step) if open_log and ranks.is_main else None,
            progress=progress,
            probe=probe if probed else None,
            extras=extras,
            stop=stop or StopRequest(),
            parallel=parallel,
        )
        finetune(run, step, skipped)
    finally:
        if sync is not None:
            sync.close()
    finish(run, model_path)


class Unserved:
    """The weight sync of a run without a server."""

    def push(self, version: int) -> None:
        """Nobody has to be told."""


def check_examples(examples: Examples) -> None:
    """DataError if there is nothing to train on, or a question has no response, or an empty one."""
    if not examples:
        raise DataError("no question has a response to train on: lower sft.min_share, or raise select.fraction")
    for uid, (prompt, responses) in examples.items():
        if not prompt or not responses or not all(responses):
            raise DataError(f"question {uid} has no prompt or an empty response: run the rollout stage again")


def identity_of(config: Config, examples: Examples) -> dict[str, Any]:
    """What a checkpoint or export was made from, as far as this stage sees it."""
    train = {k: v for k, v in to_plain(config.train).items() if k not in TRAIN_CONDUCT}
    rows = [[uid, *examples[uid]] for uid in sorted(examples)]
    return {"train": train, "seed": config.seed, "dtype": config.model.dtype, "examples": sha256_json(rows)}
