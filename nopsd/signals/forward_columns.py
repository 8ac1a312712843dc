"""The columns that selectors and retrievers read off a forward pass over the pool's rollouts.

In: an engine around the frozen base model, the rollouts, the names of the columns; for `nait` the reference. Out: the
columns on every rank; `signals.npz` (nopsd.signals.store), written by rank 0. A restart resumes after the last
finished shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.neurons.adapters import find_sites
from nopsd.neurons.finished_shards import ShardFolder
from nopsd.rollout.types import Rollout, rollouts_hash
from nopsd.signals.alignment import principal_direction
from nopsd.signals.needs import EACH_RESPONSE, FROM_FORWARD
from nopsd.signals.observer import Observer
from nopsd.signals.sharing import Measuring, share
from nopsd.signals.states import WIDTH
from nopsd.signals.store import Signals, by_sample, question_means, write_signals

Progress = Callable[..., None]
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class MeasuredModel:
    """The frozen model and its hash; `value`: whose neuron values `nait` goes by (neuron.value)."""

    engine: Any
    hash: str
    value: str = "act_fn"
    mlp_adapter: str | None = None  # model.mlp_adapter


def forward_columns(
    model: MeasuredModel,
    rollouts: Sequence[Rollout],
    columns: Collection[str],
    config: SignalConfig,
    ranks: Ranks,
    folder: str | Path,
    progress: Progress | None = None,
    reference: Sequence[Rollout] = (),
) -> Columns:
    """Columns that need forward passes, by ascending uid, equal on every rank. Collective.

    Finished shards are left in `folder`; `write_shared_signals` removes them.

    Args:
        model: The frozen base model.
        rollouts: Every response of the pool.
        columns: Names; those that need no forward pass are left to others.
        config: Batch sizes.
        ranks: All that take part.
        folder: The signals stage's.
        progress: Called with the sequences done and their total, over all ranks.
        reference: Examples of the target ability, for `nait`.

    Raises:
        UserError: No adapter knows the model's MLPs.
        DataError: There are no rollouts, or the reference shows no direction.
    """
    wanted = sorted(FROM_FORWARD & set(columns))
    if not rollouts:
        raise DataError("no rollouts to read signals off: run the rollout stage with a pool that isn't empty")
    observer = Observer(model.engine, ranks, config.logit_chunk, model.value, model.mlp_adapter)
    examples = list(reference) if "nait" in wanted else []
    counter = _Progress(progress, len(examples) + len(rollouts))
    made_from = {
        "model": model.hash,
        "batch": config.max_batch_tokens,
        "chunk": config.logit_chunk,
        "value": model.value,
        "reference": rollouts_hash(examples),
    }
    directions: list[np.ndarray] = []
    if examples:
        shards = ShardFolder(Path(folder), sha256_json(made_from))
        directions = _directions(observer, examples, config.max_batch_tokens, shards, counter)
        counter.before = len(examples)
    elif "nait" in wanted:
        raise DataError("nait without reference examples: set signal.reference")
    made_from |= {"columns": wanted, "rollouts": rollouts_hash(rollouts)}
    measuring = Measuring(
        lambda batch: observer.measure(rollouts, batch, wanted, directions), observer.idle, _no_rows(wanted, model)
    )
    shards = ShardFolder(Path(folder), sha256_json(made_from))
    shared = share(rollouts, config.max_batch_tokens, shards, measuring, ranks, counter)
    whole = {name: shared.take(name) for name in wanted}
    each = {name: by_sample(rollouts, whole.pop(name)) for name in sorted(EACH_RESPONSE & set(wanted))}
    return question_means([r.uid for r in rollouts], whole)[1] | each


def write_shared_signals(folder: str | Path, signals: Signals, ranks: Ranks) -> None:
    """Rank 0 writes the file once all ranks hold the same; then the finished shards go. Collective."""
    digest = hashlib.sha256(sha256_json([signals.uids, signals.header, sorted(signals.columns)]).encode())
    for name in sorted(signals.columns):
        digest.update(np.ascontiguousarray(signals.columns[name]).data)
    ranks.check_equal(digest.hexdigest(), "the signals")
    if ranks.is_main:
        write_signals(folder, signals)
    ranks.barrier()  # no rank's shards go before the file is there
    ShardFolder(Path(folder), "").clear()


def _directions(
    observer: Observer, examples: Sequence[Rollout], max_tokens: int, shards: ShardFolder, counter: _Progress
) -> list[np.ndarray]:
    """v_l of each layer, on every rank; a layer at a time, so that no rank ever holds all examples' activations."""
    widths = find_sites(observer.lm, observer.mlp_adapter).widths
    empty = {str(layer): np.zeros((0, width), dtype=np.float32) for layer, width in enumerate(widths)}
    measuring = Measuring(lambda batch: observer.differences(examples, batch), observer.idle, empty)
    shared = share(examples, max_tokens, shards, measuring, observer.ranks, counter)
    directions = [principal_direction(shared.take(str(layer))) for layer in range(len(widths))]
    if not any(direction.any() for direction in directions):
        raise DataError(
            "signal.reference: the first and last tokens of its responses differ alike in all examples, so they show "
            "no direction: give more examples, with responses of several tokens"
        )
    return directions


class _Progress:
    """Progress of one of several pieces of work as progress of the whole."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def __call__(self, done: int) -> None:
        if self.progress is not None:
            self.progress(self.before + done, self.total)


def _no_rows(wanted: Sequence[str], model: MeasuredModel) -> Columns:
    config = model.engine.module.config.get_text_config()
    widths = {
        "embedding": config.hidden_size,
        "representation": 2 * config.hidden_size,
        "trajectory": config.num_hidden_layers * WIDTH,
    }
    return {n: np.zeros((0, widths[n]) if n in widths else 0, dtype=np.float32) for n in wanted}
