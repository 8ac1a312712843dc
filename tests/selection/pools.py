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


NEURONS = 60


def random_sets(count, seed, width=12, neurons=NEURONS):
    """Ids padded with -1, and the same as Python sets; the first two are equal."""
    draw = np.random.default_rng(seed)
    sets = [draw.choice(neurons, draw.integers(0, width + 1), replace=False) for _ in range(count)]
    sets[1] = sets[0][::-1]  # equal sets in another order
    padded = np.full((count, width), -1, np.int32)
    for row, ids in zip(padded, sets):
        row[: len(ids)] = ids
    return padded, [set(ids.tolist()) for ids in sets]


def by_sets(a, b):
    """The Jaccard distance of two Python sets."""
    return 1.0 - len(a & b) / len(a | b) if a | b else 1.0
