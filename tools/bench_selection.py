"""Selection and context search among many synthetic neuron sets: time, memory, exactness.

    python tools/bench_selection.py --sets 5000 --compare 1024     # a minute or two
    python tools/bench_selection.py --threads 2                    # 200,000 sets of 5,000 neurons

Sets: a neuron of rank r is drawn with probability .95 / (1 + (r / r0)^2), r0 = alike * K; even ranks are the same
neurons for all questions, odd ranks the topic's own; sets are filled up to K with neurons drawn uniformly, and one
question in a hundred has fewer. The mean J of random pairs is printed; the paper's are .63 to .87.
One run: make the sets, select by neuron count, find the m nearest of each selected question, compare a random sample of
the answers with numpy's membership tests, and with `--compare N` time the product against what one would take else, on
N x N sets: scipy's sparse product, scipy's dense cdist (scikit-learn's brute force), torch's dense float32 product and
Python's sets. Ratios are of CPU seconds of all threads, in one process, each after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from scipy import sparse
from scipy.spatial.distance import cdist

from nopsd.config import SelectConfig
from nopsd.engine.distributed import Ranks
from nopsd.selection import jaccard
from nopsd.selection.exchange import RankSets
from nopsd.selection.jaccard import MIB, jaccard_distances, mean_pairwise
from nopsd.selection.neighbors import Neighbors, Table, make_table, nearest_sets
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select

FEW_SETS = 60  # for the ways that take a millisecond a pair
SHORT = 0.01  # of the questions have fewer than K neurons


def make_sets(count: int, k: int, neurons: int, topics: int, alike: float, seed: int, threads: int) -> np.ndarray:
    """ids int32 [count, k]; `alike` * k is the rank by which a neuron's frequency has fallen to a half of .95."""
    head = min(neurons, 4 * k)
    limits = (65535 * 0.95 / (1 + (np.arange(head) / (alike * k)) ** 2)).astype(np.uint16)
    ids = np.full((count, k), -1, dtype=np.int32)

    def fill(row: int) -> None:
        draw = np.random.Generator(np.random.SFC64([seed, row]))
        topic = int(draw.integers(topics))
        drawn = np.flatnonzero(draw.integers(0, 65536, head, dtype=np.uint16) < limits).astype(np.int32)
        drawn = np.where(drawn % 2, (drawn * _factor(topic, neurons) + 7919 * topic) % neurons, drawn)
        size = k if draw.random() >= SHORT else int(draw.integers(k // 2, k))
        found = _different(drawn)
        while len(found) < size:
            more = draw.integers(0, neurons, size - len(found), dtype=np.int32)
            found = _different(np.concatenate([found, more]))
        ids[row, :size] = draw.permutation(found)[:size]

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(fill, range(count), chunksize=256))
    return ids


def _different(numbers: np.ndarray) -> np.ndarray:
    """Ascending, each once. (np.unique takes ten times as long.)"""
    ordered = np.sort(numbers)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])]


@cache
def _factor(topic: int, neurons: int) -> int:
    """A factor that shares no divisor with `neurons`: different ranks stay different neurons."""
    return next(f for f in range(2 * topic + 1001, 1 << 30) if np.gcd(f, neurons) == 1)


def selected(count: int, fraction: float, seed: int) -> tuple[Table, np.ndarray]:
    """The product's selection by synthetic neuron counts: the table of all questions and the selected numbers."""
    draw = np.random.default_rng(seed)
    uids = [f"q{i:07d}" for i in range(count)]
    counts = draw.normal(37_000, 8_000, count).round().astype(np.float32)
    pool = make_pool(uids, counts, draw.integers(100, 2_000, count).astype(np.int32), np.zeros(count, dtype=bool))
    table = make_table({uid: f"question {uid}" for uid in uids})
    return table, table.numbers(sorted(select(pool, SelectConfig(fraction=fraction)).uids))


def by_membership(ids: np.ndarray, query: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The m nearest of one question, by numpy alone: numbers and distances by (J, number)."""
    member = np.zeros(int(ids.max()) + 2, dtype=bool)
    member[ids[query][ids[query] >= 0]] = True  # the last place, where -1 points, stays False
    common = np.concatenate([member[part].sum(1) for part in np.array_split(ids, max(1, len(ids) // 1000))])
    sizes = np.concatenate([(part >= 0).sum(1) for part in np.array_split(ids, max(1, len(ids) // 1000))])
    distances = 1.0 - common / np.maximum(sizes[query] + sizes - common, 1)
    distances[query] = np.inf
    order = np.lexsort((np.arange(len(ids)), distances))[:m]
    return order, distances[order]


def differing(ids: np.ndarray, queries: np.ndarray, found: Neighbors, sample: int, seed: int) -> int:
    """How many of a random sample of queries have other neighbors or distances than `by_membership`."""
    rows = np.random.default_rng(seed).choice(len(queries), min(sample, len(queries)), replace=False)
    wrong = 0
    for row in rows:
        numbers, distances = by_membership(ids, int(queries[row]), found.numbers.shape[1])
        right = np.array_equal(numbers, found.numbers[row]) and np.array_equal(distances, found.distances[row])
        wrong += not right
    return wrong


def by_scipy_sparse(ids: np.ndarray, neurons: int) -> np.ndarray:
    members = ids >= 0
    starts = np.concatenate([[0], np.cumsum(members.sum(1))])
    sets = sparse.csr_array((np.ones(len(ids[members]), np.int32), ids[members], starts), shape=(len(ids), neurons))
    return _distances((sets @ sets.T).toarray(), members.sum(1))


def by_cdist(ids: np.ndarray, neurons: int) -> np.ndarray:
    return cdist(_dense(ids, neurons), _dense(ids, neurons), "jaccard")


def by_torch_product(ids: np.ndarray, neurons: int) -> np.ndarray:
    dense = torch.from_numpy(_dense(ids, neurons)).float()
    return _distances((dense @ dense.T).numpy().astype(np.int64), (ids >= 0).sum(1))


def by_python_sets(ids: np.ndarray, neurons: int) -> np.ndarray:
    sets = [frozenset(row[row >= 0].tolist()) for row in ids]
    return np.array([[1.0 - len(a & b) / max(len(a | b), 1) for b in sets] for a in sets])


def by_product(ids: np.ndarray, neurons: int) -> np.ndarray:
    jaccard.SMALL, small = 0, jaccard.SMALL  # the kernel, however few the sets
    try:
        return jaccard_distances(ids, ids, neurons)
    finally:
        jaccard.SMALL = small


def compare(ids: np.ndarray, neurons: int) -> dict[str, float]:
    """CPU nanoseconds a pair of every way to all distances; RuntimeError if they differ.

    The ways whose time for a pair does not depend on how many there are get FEW_SETS sets.
    """
    ways: list[tuple[str, Callable[[np.ndarray, int], np.ndarray], int]] = [
        ("nopsd", by_product, len(ids)),
        ("scipy sparse", by_scipy_sparse, len(ids)),
        ("torch float32", by_torch_product, len(ids)),
        ("scipy cdist", by_cdist, FEW_SETS),
        ("Python sets", by_python_sets, FEW_SETS),
    ]
    spent, expected = {}, by_scipy_sparse(ids, neurons)
    for name, way, most in ways:
        some = ids[:most]
        way(some[:2], neurons)
        start = time.process_time()
        found = way(some, neurons)
        spent[name] = (time.process_time() - start) / len(some) ** 2 * 1e9
        if not np.allclose(found, expected[: len(some), : len(some)], rtol=0, atol=1e-12):
            raise RuntimeError(f"{name} gives other distances than scipy's sparse product")
    return spent


def _dense(ids: np.ndarray, neurons: int) -> np.ndarray:
    dense = np.zeros((len(ids), neurons), dtype=bool)
    for row, members in zip(dense, ids):
        row[members[members >= 0]] = True
    return dense


def _distances(common: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return 1.0 - common / np.maximum(sizes[:, None] + sizes[None] - common, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock = _Clock()
    ids = make_sets(
        options.sets, options.k, options.neurons, options.topics, options.alike, options.seed, options.threads
    )
    clock.step("sets", f"{options.sets} of {options.k} of {options.neurons} neurons, {ids.nbytes / MIB:.0f} MiB")
    sample = np.random.default_rng(options.seed).choice(options.sets, min(200, options.sets), replace=False)
    clock.step("diversity", f"mean J of random pairs {mean_pairwise(ids[np.sort(sample)], options.neurons):.3f}")
    table, queries = selected(options.sets, options.fraction, options.seed)
    clock.step("selection", f"{len(queries)} selected by neuron count")
    sets = RankSets(np.arange(options.sets), ids, options.neurons)
    alone = Ranks(0, 1, torch.device("cpu"))
    cpu = time.process_time()
    found = nearest_sets(table, queries, sets, options.m, True, alone, block_mib=options.block_mib)
    cpu = time.process_time() - cpu
    pairs = len(queries) * options.sets
    took = clock.step("context search", f"{pairs:.3g} pairs, mean J of the nearest {found.distances[:, 0].mean():.3f}")
    speed = f"{took / pairs * 1e9:.1f} ns a pair with {options.threads} threads, {cpu / pairs * 1e9:.1f} ns of CPU time"
    print(f"{speed}; peak memory so far {_peak_mib():.0f} MiB", flush=True)
    wrong = differing(ids, queries, found, options.check, options.seed)
    clock.step("check", f"{min(options.check, len(queries))} queries against membership tests: {wrong} differ")
    if options.compare:
        spent = compare(ids[: options.compare], options.neurons)
        print(
            json.dumps(
                {name: {"ns_a_pair": round(ns), "ratio": round(ns / spent["nopsd"], 1)} for name, ns in spent.items()}
            )
        )
    return 1 if wrong else 0


class _Clock:
    def __init__(self) -> None:
        self._start = time.monotonic()

    def step(self, name: str, what: str) -> float:
        took, self._start = time.monotonic() - self._start, time.monotonic()
        print(f"{name:15}{took:8.1f} s  {what}", flush=True)
        return took


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200_000)
    parser.add_argument("--k", type=int, default=5_000, help="neurons of a set")
    parser.add_argument("--neurons", type=int, default=350_208, help="M, all layers' neurons (Qwen3-4B: 36 x 9,728)")
    parser.add_argument("--fraction", type=float, default=0.2, help="selected")
    parser.add_argument("--m", type=int, default=10, help="neighbors of each")
    parser.add_argument("--topics", type=int, default=200)
    parser.add_argument("--alike", type=float, default=0.65)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--block-mib", type=int, default=512)
    parser.add_argument("--check", type=int, default=20, help="queries compared with membership tests")
    parser.add_argument("--compare", type=int, default=0, help="sets for the comparison with other ways (0: none)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
