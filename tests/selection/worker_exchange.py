"""Select and retrieve with neuron sets shared unevenly over ranks. job: {neurons: folder, out}."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from nopsd.config import ContextConfig, SelectConfig
from nopsd.engine.distributed import Ranks
from nopsd.neurons.store import NeuronSets, load_neurons
from nopsd.selection import jaccard
from nopsd.selection.exchange import RankSets, list_sets, plan_exchange
from nopsd.selection.gathering import PoolData
from nopsd.selection.neighbors import make_table, nearest_sets
from nopsd.selection.select_pool import Sharing, select_pool

SELECTS = {"paper": {"fraction": 0.25}, "exact": {"fraction": 0.25, "ties": "exact"}, "random": {"selector": "random"}}
CONTEXTS = {"paper": {"m": 4}, "selected": {"m": 4, "pool": "selected"}, "random": {"m": 4, "retriever": "random"}}
EXCHANGES = ("auto", "queries_only", "gather_all")
SMALL = {"sorting": jaccard.SMALL, "offering": 0}
M = 4


@dataclass(frozen=True)
class CountingRanks(Ranks):
    """`Ranks` that add the bytes they contribute to tensor collectives to `sent`; a group of one sends nothing."""

    sent: list[int] = field(default_factory=list)

    def gather(self, tensor):
        self._count(tensor)
        return super().gather(tensor)

    def _all_reduce(self, tensor, op):
        self._count(tensor)
        return super()._all_reduce(tensor, op)

    def _count(self, tensor):
        if self.world > 1:
            self.sent.append(tensor.numel() * tensor.element_size())


def share(whole, rank, size):
    """One row on rank 0, none on rank 1 of 4, and the rest dealt so that ranks hold no run of uids."""
    rows = rows_of(len(whole.uids), rank, size)
    width = whole.ids.shape[1]
    longest = max([0, *((whole.ids[i] >= 0).sum() for i in rows)]) if rank else width  # K may differ over ranks
    return NeuronSets(
        [whole.uids[i] for i in rows],
        whole.counts[rows],
        whole.ids[rows][:, :longest],
        whole.scores[rows],
        whole.lengths[rows],
        whole.truncated[rows],
        whole.histogram[rows],
        whole.header,
    )


def rows_of(count, rank, size):
    if size == 1:
        return list(range(count))
    busy = [r for r in range(size) if r != 0 and not (size == 4 and r == 1)]
    return [0] if rank == 0 else [i for i in range(1, count) if busy[i % len(busy)] == rank]


def main(ranks, job):
    whole = load_neurons(job["neurons"])
    texts = {u: "same" if u in ("q005", "q006") else f"text {u}" for u in whole.uids}
    own = share(whole, ranks.rank, job["size"])
    for search, jaccard.SMALL in SMALL.items():
        for exchange in EXCHANGES:
            for name in SELECTS:
                for context in CONTEXTS:
                    folder = Path(job["out"]) / f"{exchange}-{search}-{job['size']}" / f"{name}-{context}"
                    select_pool(
                        PoolData(own, texts),
                        SelectConfig(**SELECTS[name]),
                        ContextConfig(**CONTEXTS[context]),
                        Sharing(ranks, exchange=exchange, block_mib=8),
                        folder,
                    )
    count_bytes(ranks, job, whole, texts)


def count_bytes(ranks, job, whole, texts):
    """What a search sends, by our count and by what torch.distributed is handed, for a quarter and for all."""
    mine = rows_of(len(whole.uids), ranks.rank, job["size"])
    sets = RankSets(np.array(mine, dtype=np.int64), whole.ids[mine], 40)
    table, found = make_table(texts), {}
    for queries in (np.arange(0, len(whole.uids), 4), np.arange(len(whole.uids))):
        for exchange in EXCHANGES:
            handed = []
            counting = CountingRanks(ranks.rank, ranks.world, ranks.device)
            all_gather = dist.all_gather
            dist.all_gather = lambda out, own: (handed.append(own.nbytes), all_gather(out, own))  # noqa: B023
            try:
                nearest_sets(table, queries, sets, M, True, counting, exchange)
            finally:
                dist.all_gather = all_gather
            plan = plan_exchange(exchange, list_sets(sets, ranks), queries, M)
            found[f"{exchange} {len(queries)}"] = {
                "counted": sum(counting.sent),
                "handed": sum(handed),
                "kind": plan.kind,
                "queries_only": plan.queries_only,
                "gather_all": plan.gather_all,
            }
    path = Path(job["bytes"]) / f"{job['size']}-{ranks.rank}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found))


def compile_kernel():
    """Once, before the ranks are forked."""
    alone, small, jaccard.SMALL = Ranks(0, 1, torch.device("cpu")), jaccard.SMALL, 0
    sets = RankSets(np.arange(2), np.arange(4, dtype=np.int32).reshape(2, 2), 4)
    nearest_sets(make_table({"a": "a", "b": "b"}), np.arange(2), sets, 1, True, alone)
    jaccard.jaccard_distances(sets.ids, sets.ids, 4)
    jaccard.SMALL = small


compile_kernel()
