"""What selection knows of questions whose neurons nobody has scored: their responses' lengths alone.

In: the pool's rollouts. Out: this rank's share in the form of the neurons artefact, with counts that are not numbers
and without sets. For methods that select and show by nothing of the neurons (nopsd.selection.names.needs_neurons).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nopsd.engine.distributed import Ranks
from nopsd.neurons.store import NeuronSets
from nopsd.rollout.types import Rollout


def without_neurons(rollouts: Sequence[Rollout], ranks: Ranks) -> NeuronSets:
    """What selection knows of questions whose neurons aren't scored: every `world`-th of them, by ascending uid.

    Args:
        rollouts: All responses.
        ranks: All that select.

    Returns:
        `lengths`: response tokens, the rounded mean over a question's rollouts; `truncated`: some rollout met the
        length limit.
    """
    by_uid: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_uid.setdefault(rollout.uid, []).append(rollout)
    uids = sorted(by_uid)[ranks.rank :: ranks.world]
    groups = [by_uid[uid] for uid in uids]
    lengths = [round(sum(len(r.response_ids) for r in group) / len(group)) for group in groups]
    none = np.zeros((len(uids), 0))
    return NeuronSets(
        uids,
        np.full(len(uids), np.nan, np.float32),
        none.astype(np.int32),
        none.astype(np.float16),
        np.array(lengths, dtype=np.int32),
        np.array([any(r.truncated for r in group) for group in groups], dtype=bool),
        none.astype(np.int32),
        {"widths": []},
    )
