"""Small pools whose contexts can be worked out by hand: what the tests of retrievers and filters start from."""

import numpy as np

from nopsd.config import ContextConfig, SelectConfig
from nopsd.selection.gathering import PoolData
from nopsd.selection.select_pool import Sharing, select_pool
from nopsd.signals.store import Signals

# Which of four responses agree with their question's majority answer.
AGREES = np.zeros((12, 4), np.float32)
AGREES[0, 1:] = AGREES[1, 0] = AGREES[2, 3] = AGREES[5] = AGREES[6, 2] = AGREES[7, 1] = AGREES[9, 0] = 1
AGREES[8, 3] = np.nan  # no such response


def texts_of(neurons):
    return {uid: f"text {uid}" for uid in neurons.uids}


def signals_of(neurons, **columns):
    """In another order than the pool's: rows are found by uid."""
    back = np.arange(len(neurons.uids))[::-1]
    return Signals([neurons.uids[i] for i in back], {n: np.asarray(c, np.float32)[back] for n, c in columns.items()})


def contexts_of(neurons, alone, folder, signals=None, select=None, domains=None, texts=None, **context):
    """The selection, and each selected question's demonstrations (three, if nothing else is said)."""
    return select_pool(
        PoolData(neurons, texts or texts_of(neurons), domains, signals),
        SelectConfig(**(select or {"selector": "all"})),
        ContextConfig(**{"m": 3, **context}),
        Sharing(alone),
        folder,
    )


def shown(contexts):
    return {uid: [(n.uid, n.sample) for n in near] for uid, near in contexts.items()}
