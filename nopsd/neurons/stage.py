"""Stage `neurons`: neuron counts and sets of every question's zero-shot rollouts (SPEC §3, §13.1).

In: a frozen (ZeRO-3) engine of the model that made the rollouts, the rollouts (all of them on every rank), a
`NeuronConfig`. Out: `neurons.rank{r:05d}.npz` in the stage's folder (see nopsd.neurons.store).
Batches are planned over all rollouts and dealt to ranks (`shard` = sample) or scored by all ranks together, each its
layers, neurons or positions (§13.2-13.3); scores depend neither on that nor on how many ranks there are. A restart
goes on after the last finished bundle, also with another number of ranks or another way of sharing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import NeuronConfig, to_plain
from nopsd.engine.counting import Traffic
from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError, ConfigError, DataError
from nopsd.files import sha256_json
from nopsd.neurons.adapters import find_sites
from nopsd.neurons.batches import Span, Turn, common_turns, deal, dealt_turns, plan_bundles, scored_span
from nopsd.neurons.parts import Parts
from nopsd.neurons.scoring import Scorer
from nopsd.neurons.sets import SampleSets, SetSizes, agreement, merge_rollouts, set_sizes
from nopsd.neurons.store import NeuronSets, load_neurons, pack_ids, pack_scores, rank_file, read_neurons, write_neurons
from nopsd.rollout.types import Rollout

Progress = Callable[..., None]

__all__ = ["NeuronSets", "load_neurons", "load_rank_neurons", "score_rollouts"]


def score_rollouts(
    engine: Any,
    rollouts: Sequence[Rollout],
    config: NeuronConfig,
    ranks: Ranks,
    folder: str | Path,
    progress: Progress | None = None,
    *,
    model_hash: str,
    think_ids: tuple[int, int] | None = None,
    shard: str = "sample",
    topk_search: str = "bisect",
    traffic: Traffic | None = None,
) -> NeuronSets:
    """Score all rollouts on all ranks; returns and writes this rank's questions.

    `think_ids`: ids of the opening and closing thinking tags, needed if `config.include_thinking` is false.
    `shard`, `topk_search`: how ranks share the work, `DistConfig`'s; the result does not depend on them. `traffic`
    counts the bytes that scoring sends from this rank.
    `progress(done, total)` counts rollouts over all ranks. Raises UserError on an unknown architecture,
    ConfigError if think_ids are missing, DataError if there are no rollouts.
    """
    folder = Path(folder)
    if not rollouts:
        raise DataError("no rollouts to score: run the rollout stage with a pool that isn't empty")
    if not config.include_thinking and think_ids is None:
        raise ConfigError("neuron.include_thinking=false needs a tokenizer with <think> and </think>: set it true")
    sites = find_sites(engine.module)
    sizes = set_sizes(config, sites.widths, sites.active)
    header = _header(config, sizes, model_hash, rollouts, think_ids)
    stored = _already_written(folder, header, ranks)
    if stored is not None:
        return stored
    spans = [
        scored_span(r, i, None if config.include_thinking else think_ids, config.drop_last_position)
        for i, r in enumerate(rollouts)
    ]
    bundles = plan_bundles(rollouts, config.max_batch_tokens)
    parts = Parts(folder, sha256_json(header))
    owners = parts.owners(len(bundles), ranks)
    unfinished = [b for b, owner in enumerate(owners) if owner is None]
    scorer = Scorer(
        engine, sites, sizes, config.value, config.align, ranks, shard=shard, topk_search=topk_search, traffic=traffic
    )
    if scorer.shard == "sample":
        hands = deal(bundles, unfinished, ranks.world)
        turns = dealt_turns(bundles, hands, ranks.rank)
    else:
        hands = [[b for b in unfinished if b % ranks.world == rank] for rank in range(ranks.world)]
        turns = common_turns(bundles, unfinished, hands[ranks.rank])
    done = len(rollouts) - sum(len(batch) for b in unfinished for batch in bundles[b])
    _take_turns(scorer, rollouts, spans, turns, parts, progress, done)

    mine = sorted(hands[ranks.rank] + [b for b, owner in enumerate(owners) if owner == ranks.rank])
    neurons = _collect(mine, parts, rollouts, spans, sizes, {**header, "ranks": ranks.world})
    write_neurons(rank_file(folder, ranks.rank), neurons)
    _remove_other_files(folder, ranks)
    ranks.barrier()  # no rank's parts go before all ranks' files are written
    parts.clear()
    return neurons


def load_rank_neurons(folder: str | Path, ranks: Ranks) -> NeuronSets:
    """This rank's share of a folder's questions, whatever number of ranks wrote them."""
    whole = load_neurons(folder)
    rows = slice(ranks.rank, None, ranks.world)
    return NeuronSets(
        whole.uids[rows],
        whole.counts[rows],
        whole.ids[rows],
        whole.scores[rows],
        whole.lengths[rows],
        whole.truncated[rows],
        whole.histogram[rows],
        whole.header,
        whole.agreement[rows],
    )


def _take_turns(
    scorer: Scorer,
    rollouts: Sequence[Rollout],
    spans: Sequence[Span],
    turns: Sequence[Turn],
    parts: Parts,
    progress: Progress | None,
    done: int,
) -> None:
    """As many forward passes on every rank, whatever each has to score (§13.1)."""
    samples: dict[int, SampleSets] = {}
    for turn in turns:
        if turn.batch:
            samples |= zip(turn.batch, scorer.score(rollouts, turn.batch, spans, turn.keep))
        else:
            scorer.idle()
        if turn.keep and turn.ends:
            parts.write(turn.bundle, list(samples), list(samples.values()))
            samples = {}
        done += turn.rollouts
        if progress is not None:
            progress(done, len(rollouts))


def _collect(
    mine: Sequence[int],
    parts: Parts,
    rollouts: Sequence[Rollout],
    spans: Sequence[Span],
    sizes: SetSizes,
    header: dict[str, Any],
) -> NeuronSets:
    """Rows by ascending uid, a question's rollouts merged."""
    by_uid: dict[str, list[tuple[int, SampleSets]]] = {}
    for number in mine:
        for index, sample in parts.read(number).items():
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
    thinking = None if config.include_thinking or think_ids is None else list(think_ids)
    settings = {**to_plain(config), "per_layer": sizes.per_layer, "k": sizes.k}
    return {
        "format": 3,
        "model": model_hash,
        "rollouts": _rollouts_hash(rollouts),
        "widths": list(sizes.widths),
        "think_ids": thinking,
        **settings,
    }


def _rollouts_hash(rollouts: Sequence[Rollout]) -> str:
    digest = hashlib.sha256()
    for r in rollouts:
        digest.update(json.dumps([r.uid, r.sample, r.finish_reason, len(r.prompt_ids)]).encode())
        digest.update(np.array(r.prompt_ids + r.response_ids, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _already_written(folder: Path, header: dict[str, Any], ranks: Ranks) -> NeuronSets | None:
    """This rank's file if a former run of as many ranks wrote them all and died before the stage was committed."""
    path = rank_file(folder, ranks.rank)
    own = None
    if path.exists():
        try:
            own = read_neurons(path)
        except ArtefactError:
            own = None  # it is about to be written anew
    usable = own is not None and own.header == {**header, "ranks": ranks.world}
    everywhere = all(ranks.all_gather_json(usable))
    return own if everywhere else None


def _remove_other_files(folder: Path, ranks: Ranks) -> None:
    """A former run of more ranks may have left files that this one does not replace."""
    if ranks.is_main:
        for path in folder.glob("neurons.rank*.npz"):
            if int(path.name[len("neurons.rank") : -len(".npz")]) >= ranks.world:
                path.unlink()
