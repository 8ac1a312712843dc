"""How much responses repeat, themselves and each other: n-grams of token ids. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice


def repetition(responses: Sequence[Sequence[int]], n: int = 4) -> tuple[float, float]:
    """Of the responses' n-grams (token ids): the mean share of a response's own that occur in it more than once, and
    the different ones over all (distinct-n, arXiv 1510.03055).

    The first nears 1 in a loop; a response shorter than `n` counts 0. The second falls where responses to different
    questions grow alike; it is 1 if there are no n-grams.
    """
    shares, every = [], Counter[tuple[int, ...]]()
    for ids in responses:
        counts = Counter(zip(*(islice(ids, start, None) for start in range(n))))
        every.update(counts)
        repeated = sum(count for count in counts.values() if count > 1)
        shares.append(repeated / counts.total() if counts else 0.0)
    return math.fsum(shares) / len(shares), len(every) / every.total() if every else 1.0
