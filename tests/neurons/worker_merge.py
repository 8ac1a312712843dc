"""Cut ragged rows over real ranks and compare with a plain Python sort; called by worker_shards.py."""

import math
import random
from itertools import product

import torch

from nopsd.engine.counting import CountingRanks, Traffic
from nopsd.neurons.entries import Entries
from nopsd.neurons.merge import gather_entries, keep_top

ROWS = 7
VALUES = {
    "all equal": lambda draw: 1.5,
    "ties": lambda draw: draw.randrange(-3, 4) / 2,
    "zeros": lambda draw: draw.choice([0.0, -0.0, 0.0, -0.0, 1.0, -1.0]),
    "negative": lambda draw: -draw.random(),
    "any": lambda draw: draw.gauss(0, 1),
    "extreme": lambda draw: draw.choice([3.4e38, -3.4e38, 1e-45, -1e-45, math.inf, 1e-38, 0.0]),
}
LIMITS = (40, 3_000_000_000)  # the last beyond int32


def make_rows(draw, value, limit, world, ordered, empty_rank):
    """By row, (score, key, the rank that has it); key order follows rank where `ordered`."""
    rows = []
    for row in range(ROWS):
        keys = sorted(draw.sample(range(limit), 0 if row == 2 else draw.randrange(1, 38)))
        holders = [r for r in range(world) if r != empty_rank] or [0]
        owners = [draw.choice(holders) for _ in keys]
        rows.append([(value(draw), k, r) for k, r in zip(keys, sorted(owners) if ordered else owners)])
    return rows


def own_entries(rows, rank):
    found = [(row, key, score) for row, entries in enumerate(rows) for score, key, r in entries if r == rank]
    columns = list(zip(*found)) if found else [(), (), ()]
    return Entries(
        torch.tensor(columns[0], dtype=torch.int64),
        torch.tensor(columns[1], dtype=torch.int64),
        torch.tensor(columns[2], dtype=torch.float32),
    )


def greatest(rows, n):
    """(row, key) of each row's n greatest, by a plain sort; float32 values, 0.0 == -0.0."""
    single = [[(float(torch.tensor(s)), k) for s, k, _ in row] for row in rows]
    return {
        (row, key) for row, entries in enumerate(single) for _, key in sorted(entries, key=lambda e: (-e[0], e[1]))[:n]
    }


def expected_bytes(rows, n, limit, world, search, ordered):
    """§13.2's formulas; E is the most that any rank holds."""
    if world == 1:
        return {}
    if search == "gather":
        longest = max(sum(r == rank for row in rows for _, _, r in row) for rank in range(world))
        return {"x": 4 * ROWS + (8 if limit <= 2**31 else 12) * longest}
    tied = sum(crowded(row, n) for row in rows)
    ties = {} if not tied else {"x ties": 4 * tied * (1 if ordered else (limit - 1).bit_length())}
    return {"x": 32 * 4 * ROWS, **ties}


def crowded(row, n):
    """Do more entries equal the n-th greatest than there is room for?"""
    scores = sorted((float(torch.tensor(s)) for s, _, _ in row), reverse=True)
    return len(scores) > n and scores[n] == scores[n - 1]


def check(ranks):
    """How many cuts were right and sent what the formula says, and how many of them had to search among ties."""
    draw, verified, with_ties = random.Random(5), 0, 0
    for value, limit, n in product(VALUES.values(), LIMITS, (1, 5, 100)):
        ordered, empty_rank = draw.choice([False, True]), draw.choice([None, 0, ranks.world - 1])
        rows = make_rows(draw, value, limit, ranks.world, ordered, empty_rank)
        own, wanted = own_entries(rows, ranks.rank), greatest(rows, n)
        for search in ("bisect", "gather"):
            counted = CountingRanks.over(ranks, Traffic()).named("x")
            kept = keep_top(own, n, ROWS, limit, counted, search, ordered)
            mine = {(r, k) for r, k in zip(own.rows.tolist(), own.keys.tolist())} & wanted
            assert list(zip(kept.rows.tolist(), kept.keys.tolist())) == sorted(mine), (limit, n, search)
            assert counted.traffic.sent == expected_bytes(rows, n, limit, ranks.world, search, ordered)
            verified, with_ties = verified + 1, with_ties + ("x ties" in counted.traffic.sent)
    parts = gather_entries(own, ROWS, limit, CountingRanks.over(ranks, Traffic()))
    whole = {(r, k, s) for p in parts for r, k, s in zip(p.rows.tolist(), p.keys.tolist(), p.scores.tolist())}
    assert whole == {(row, k, float(torch.tensor(s))) for row, entries in enumerate(rows) for s, k, _ in entries}
    return {"verified": verified, "with_ties": with_ties}
