"""Neuron counts and sets of every question's zero-shot rollouts (the paper's Eqs. 2 to 5).

In: a frozen (ZeRO-3) engine of the model that made the rollouts, the rollouts (all of them on every rank), a
`NeuronConfig`. Out: `neurons.rank{r:05d}.npz` in a folder (see nopsd.neurons.store). Scores don't depend on how many
ranks there are. A restart resumes after the last finished shard, also with another number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import NeuronConfig, to_plain
from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError, ConfigError, DataError
from nopsd.files import sha256_json
from nopsd.neurons.adapters import find_sites
from nopsd.neurons.batches import Batch, Span, scored_span
from nopsd.neurons.finished_shards import SetsFolder
from nopsd.neurons.scoring import Scorer
from nopsd.neurons.sets import SampleSets, SetSizes, agreement, merge_rollouts, set_sizes
from nopsd.neurons.shared_passes import PassWork, run_shared_passes
from nopsd.neurons.store import NeuronSets, pack_ids, pack_scores, rank_file, read_neurons, write_neurons
from nopsd.rollout.types import Rollout, rollouts_hash

Progress = Callable[..., None]


@dataclass(frozen=True)
class ScoredModel:
    """The frozen model and its hash.

    Attributes:
        think_ids: Of its opening and closing thinking tags; None if it has none.
        mlp_adapter: `model.mlp_adapter`, which is asked before ours where its neurons are.
    """

    engine: Any
    hash: str
    think_ids: tuple[int, int] | None = None
    mlp_adapter: str | None = None


def score_pool(
    model: ScoredModel,
    rollouts: Sequence[Rollout],
    config: NeuronConfig,
    ranks: Ranks,
    folder: str | Path,
    progress: Progress | None = None,
) -> NeuronSets:
    """Score all rollouts on all ranks. Collective; shards that an earlier run finished are kept.

    Args:
        model: The frozen base model, sharded by ZeRO-3.
        rollouts: Every response of the pool, equal on all ranks.
        config: What a neuron's score is, and how many are kept.
        folder: The neurons stage's.
        progress: Called with the rollouts done and their total, over all ranks.

    Returns:
        Counts and neuron sets of this rank's questions, as written.

    Raises:
        UserError: No adapter knows the model's MLPs.
        ConfigError: `config.include_thinking` is false and the tokenizer has no tags.
        DataError: There are no rollouts.

    Source:
        The paper's Section 3 and Appendix A, Eqs. 2 and 3.
    """
    folder, think_ids = Path(folder), None if config.include_thinking else model.think_ids
    if not rollouts:
        raise DataError("no rollouts to score: run the rollout stage with a pool that isn't empty")
    if not config.include_thinking and think_ids is None:
        raise ConfigError("neuron.include_thinking=false needs a tokenizer with <think> and </think>: set it true")
    sites = find_sites(model.engine.module, model.mlp_adapter)
    sizes = set_sizes(config, sites.widths, sites.active)
    header = _header(config, sizes, model.hash, rollouts, think_ids)
    stored = _already_written(folder, header, ranks)
    if stored is not None:
        return stored
    spans = [scored_span(r, i, think_ids, config.drop_last_position) for i, r in enumerate(rollouts)]
    shards = SetsFolder(folder, sha256_json(header))
    scorer = Scorer(model.engine, sites, sizes, config.value, config.align, ranks)

    def write(shard: int, scored: Sequence[tuple[Batch, list[SampleSets]]]) -> None:
        shards.write(shard, {i: sample for batch, samples in scored for i, sample in zip(batch, samples)})

    mine = run_shared_passes(
        rollouts,
        config.max_batch_tokens,
        shards,
        PassWork(lambda batch: scorer.score(rollouts, batch, spans), scorer.idle, write),
        ranks,
        None if progress is None else lambda done: progress(done, len(rollouts)),
    )
    neurons = _collect([shards.read(shard) for shard in mine], rollouts, spans, sizes, {**header, "ranks": ranks.world})
    write_neurons(rank_file(folder, ranks.rank), neurons)
    _remove_other_files(folder, ranks)
    ranks.barrier()  # no rank's shards go before all ranks' files are written
    shards.clear()
    return neurons


def _collect(
    finished: Sequence[dict[int, SampleSets]],
    rollouts: Sequence[Rollout],
    spans: Sequence[Span],
    sizes: SetSizes,
    header: dict[str, Any],
) -> NeuronSets:
    """Rows by ascending uid, a question's rollouts merged."""
    by_uid: dict[str, list[tuple[int, SampleSets]]] = {}
    for shard in finished:
        for index, sample in shard.items():
            by_uid.setdefault(rollouts[index].uid, []).append((index, sample))
    uids = sorted(by_uid)
    several = [[sample for _, sample in by_uid[uid]] for uid in uids]
    merged = [merge_rollouts(samples, sizes) for samples in several]
    indices = [[index for index, _ in by_uid[uid]] for uid in uids]
    lengths = [round(sum(spans[i].stop - spans[i].start for i in group) / len(group)) for group in indices]
    histogram = np.array([m.histogram.numpy() for m in merged], dtype=np.int32).reshape(-1, sizes.layers)
    width = sizes.k if sizes.mode == "pairs" else 0
    return NeuronSets(
        uids,
        np.array([m.count for m in merged], dtype=np.float32),
        pack_ids([m.ids.numpy() for m in merged], width),
        pack_scores([m.scores.numpy() for m in merged], width),
        np.array(lengths, dtype=np.int32),
        np.array([any(rollouts[i].truncated for i in group) for group in indices], dtype=bool),
        histogram,
        header,
        np.array([agreement(samples) for samples in several], dtype=np.float32),
    )


def _header(
    config: NeuronConfig,
    sizes: SetSizes,
    model_hash: str,
    rollouts: Sequence[Rollout],
    think_ids: tuple[int, int] | None,
) -> dict[str, Any]:
    """All that the scores depend on: equal headers, equal scores."""
    return {
        "format": 4,
        "model": model_hash,
        "rollouts": rollouts_hash(rollouts),
        "widths": list(sizes.widths),
        "think_ids": None if think_ids is None else list(think_ids),
        **to_plain(config),
        "per_layer": sizes.per_layer,
        "k": sizes.k,
    }


def _already_written(folder: Path, header: dict[str, Any], ranks: Ranks) -> NeuronSets | None:
    """This rank's file if a former run of as many ranks wrote them all and died before the stage was committed."""
    path = rank_file(folder, ranks.rank)
    own = None
    if path.exists():
        try:
            own = read_neurons(path)
        except ArtefactError:
            own = None  # it is about to be rewritten
    usable = own is not None and own.header == {**header, "ranks": ranks.world}
    everywhere = all(ranks.all_gather_json(usable))
    return own if everywhere else None


def _remove_other_files(folder: Path, ranks: Ranks) -> None:
    """A former run of more ranks may have left files that this one does not replace."""
    if ranks.is_main:
        for path in folder.glob("neurons.rank*.npz"):
            if int(path.name[len("neurons.rank") : -len(".npz")]) >= ranks.world:
                path.unlink()
