"""Stage `signals`: the columns that the chosen selector, retriever and filter go by (SPEC §4, §5).

In: the pool's rollouts, the names of the columns; for those of a forward pass an engine around the frozen base
model; for `nait` the reference; for `belief_shift` answers with demonstrations. Out: `signals.npz`
(nopsd.signals.store), written by rank 0. A restart goes on after the last finished bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.neurons.adapters import find_sites
from nopsd.neurons.parts import PartFolder
from nopsd.rollout.types import Rollout
from nopsd.signals.alignment import principal_direction
from nopsd.signals.needs import FROM_FORWARD
from nopsd.signals.observer import Observer
from nopsd.signals.sharing import Shared, share
from nopsd.signals.store import Signals, question_means, write_signals

Progress = Callable[..., None]
Columns = dict[str, np.ndarray]


def forward_columns(
    engine: Any,
    rollouts: Sequence[Rollout],
    columns: Collection[str],
    config: SignalConfig,
    ranks: Ranks,
    folder: str | Path,
    progress: Progress | None = None,
    *,
    model_hash: str,
    value: str = "act_fn",
    reference: Sequence[Rollout] = (),
) -> Columns:
    """The columns among `columns` that need forward passes, by ascending uid, equal on every rank. Collective.

    `value`: whose neuron values `nait` goes by (`neuron.value`), `reference` its examples. `progress(done, total)`
    counts sequences over all ranks. Leaves parts in `folder`; `leave_signals` removes them. Raises UserError on an
    unknown architecture, DataError without rollouts or with a reference that shows no direction.
    """
    wanted = sorted(FROM_FORWARD & set(columns))
    if not rollouts:
        raise DataError("no rollouts to read signals off: run the rollout stage with a pool that isn't empty")
    observer = Observer(engine, ranks, config.logit_chunk, value)
    examples = list(reference) if "nait" in wanted else []
    tell = _Teller(progress, len(examples) + len(rollouts))
    made_from = {"model": model_hash, "batch": config.max_batch_tokens, "chunk": config.logit_chunk, "value": value}
    directions: list[np.ndarray] = []
    if examples:
        parts = PartFolder(Path(folder), sha256_json({**made_from, "reference": _tokens(examples)}))
        directions = _directions(observer, examples, config.max_batch_tokens, parts, ranks, tell)
        tell.before = len(examples)
    elif "nait" in wanted:
        raise DataError("nait without reference examples: set signal.reference")
    made_from |= {"columns": wanted, "rollouts": _tokens(rollouts), "reference": _tokens(examples)}
    shared = share(
        rollouts,
        config.max_batch_tokens,
        PartFolder(Path(folder), sha256_json(made_from)),
        lambda batch: observer.measure(rollouts, batch, wanted, directions),
        observer.idle,
        _no_rows(wanted, engine),
        ranks,
        tell,
    )
    whole = {name: shared.take(name) for name in wanted}
    return question_means([r.uid for r in rollouts], whole)[1]


def leave_signals(folder: str | Path, signals: Signals, ranks: Ranks) -> None:
    """Rank 0 writes the file once all ranks hold the same; then the parts go. Collective."""
    digest = hashlib.sha256(sha256_json([signals.uids, signals.header, sorted(signals.columns)]).encode())
    for name in sorted(signals.columns):
        digest.update(np.ascontiguousarray(signals.columns[name]).data)
    ranks.check_equal(digest.hexdigest(), "the signals")
    if ranks.is_main:
        write_signals(folder, signals)
    ranks.barrier()  # no rank's parts go before the file is there
    PartFolder(Path(folder), "").clear()


def _directions(
    observer: Observer,
    examples: Sequence[Rollout],
    max_tokens: int,
    parts: PartFolder,
    ranks: Ranks,
    tell: _Teller,
) -> list[np.ndarray]:
    """v_l of each layer, on every rank; a layer at a time, so that no rank ever holds all examples' activations."""
    widths = find_sites(observer.lm).widths
    shared: Shared = share(
        examples,
        max_tokens,
        parts,
        lambda batch: observer.differences(examples, batch),
        observer.idle,
        {str(layer): np.zeros((0, width), dtype=np.float32) for layer, width in enumerate(widths)},
        ranks,
        tell,
    )
    directions = [principal_direction(shared.take(str(layer))) for layer in range(len(widths))]
    if not any(direction.any() for direction in directions):
        raise DataError(
            "signal.reference: the first and last tokens of its responses differ alike in all examples, so they show "
            "no direction: give more examples, with responses of several tokens"
        )
    return directions


class _Teller:
    """Progress of one of several shares told as progress of the whole."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def __call__(self, done: int) -> None:
        if self.progress is not None:
            self.progress(self.before + done, self.total)


def _no_rows(wanted: Sequence[str], engine: Any) -> Columns:
    width = engine.module.config.get_text_config().hidden_size
    return {n: np.zeros((0, width) if n == "embedding" else 0, dtype=np.float32) for n in wanted}


def _tokens(rollouts: Sequence[Rollout]) -> str:
    return sha256_json([[r.uid, r.sample, r.prompt_ids, r.response_ids] for r in rollouts])
