"""Five questions whose selection can be worked out by hand, for the tests of selectors."""

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select

UIDS = ["q0", "q1", "q2", "q3", "q4"]


COUNTS, LENGTHS = [50, 20, 40, 10, 30], [7, 9, 3, 8, 5]


COLUMN = [0.2, 0.9, 0.1, 0.5, 0.7]


def pool(columns=(), order=range(5), **changed):
    values = {"counts": COUNTS, "lengths": LENGTHS, "truncated": [False] * 5, **changed}
    domains = values.pop("domains", None)
    take = list(order)
    return make_pool(
        [UIDS[i] for i in take],
        *(np.array(values[n])[take] for n in ("counts", "lengths", "truncated")),
        [domains[i] for i in take] if domains else None,
        {name: np.array(column, np.float32)[take] for name, column in dict(columns).items()},
    )


def chosen(name, columns=(), fraction=0.4, **settings):
    changed = {key: settings.pop(key) for key in ("domains", "lengths", "counts") if key in settings}
    return select(pool(columns, **changed), SelectConfig(selector=name, fraction=fraction, **settings))


BY_COLUMN = {
    "majority_conf": ("majority_conf", "high"),
    "token_entropy": ("token_entropy", "low"),
    "self_certainty": ("self_certainty", "high"),
    "seq_nll": ("seq_nll", "low"),
    "nad_agreement": ("agreement", "high"),
    "nait": ("nait", "high"),
    "belief_shift": ("belief_shift", "high"),
    "teacher_shift": ("teacher_shift", "high"),
    "representation_shift": ("representation_shift", "high"),
}
