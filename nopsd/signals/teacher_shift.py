"""How far demonstrations move the model on its own stored answers (the selector `teacher_shift`).

    mean over the response's tokens of KL(p ‖ q), p = the base model's next token, q = the same model's behind the
    demonstrations: the distillation loss of the first step, on the stored answer

Where it is 0 the teacher has nothing to say. No label is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.files import sha256_json
from nopsd.neurons.batches import Batch
from nopsd.neurons.finished_shards import ShardFolder
from nopsd.rollout.types import Rollout, rollouts_hash
from nopsd.signals.forward_columns import MeasuredModel, Progress
from nopsd.signals.observer import Observer
from nopsd.signals.sharing import Measuring, share
from nopsd.signals.store import question_means

COLUMN = "teacher_shift"


def teacher_shift(
    model: MeasuredModel,
    rollouts: Sequence[Rollout],
    prompts: Mapping[str, list[int]],
    config: SignalConfig,
    ranks: Ranks,
    folder: str | Path,
    progress: Progress | None = None,
) -> np.ndarray:
    """The column by ascending uid, equal on every rank. Collective; a restart resumes after the last finished shard.

    Args:
        model: The frozen base model.
        rollouts: Every response of the pool.
        prompts: Token ids of each question's prompt with demonstrations, by uid.
        config: Batch sizes.
        ranks: All that take part.
        folder: The signals stage's; `write_shared_signals` removes the finished shards from it.
        progress: Called with the responses done and their total, over all ranks.

    Returns:
        Nats, float32 [N], means over a question's responses.
    """
    observer = Observer(model.engine, ranks, config.logit_chunk, model.value, model.mlp_adapter)
    demonstrated = [replace(rollout, prompt_ids=prompts[rollout.uid]) for rollout in rollouts]

    def measure(batch: Batch) -> dict[str, np.ndarray]:
        return {COLUMN: observer.shifts(rollouts, demonstrated, batch)}

    def idle() -> None:
        observer.idle()
        observer.idle()

    made_from = {
        "column": COLUMN,
        "model": model.hash,
        "batch": config.max_batch_tokens,
        "chunk": config.logit_chunk,
        "rollouts": [rollouts_hash(rollouts), rollouts_hash(demonstrated)],
    }
    shards = ShardFolder(Path(folder), sha256_json(made_from))
    measuring = Measuring(measure, idle, {COLUMN: np.zeros(0, dtype=np.float32)})
    count = None if progress is None else lambda done: progress(done, len(rollouts))
    shared = share(demonstrated, config.max_batch_tokens, shards, measuring, ranks, count)
    return question_means([r.uid for r in rollouts], {COLUMN: shared.take(COLUMN)})[1][COLUMN]
