"""Every selector x retriever with sets shared unevenly over ranks. job: {folder, cases: [[selector, retriever]]}."""

from pathlib import Path

from nopsd.config import ContextConfig, SelectConfig
from nopsd.neurons.store import NeuronSets, load_neurons
from nopsd.selection.gathering import PoolData
from nopsd.selection.select_pool import Sharing, select_pool
from nopsd.signals.store import read_signals

# What only one of the cases would show, spread over them.
FILTERS = ("none", "majority", "s_below_median")


def share(whole, rank, size):
    """One row on rank 0, none on rank 1 of 4, the rest dealt so that ranks hold no run of uids."""
    if size == 1:
        rows = list(range(len(whole.uids)))
    else:
        busy = [r for r in range(size) if r != 0 and not (size == 4 and r == 1)]
        rows = [0] if rank == 0 else [i for i in range(1, len(whole.uids)) if busy[i % len(busy)] == rank]
    return NeuronSets(
        [whole.uids[i] for i in rows],
        whole.counts[rows],
        whole.ids[rows],
        whole.scores[rows],
        whole.lengths[rows],
        whole.truncated[rows],
        whole.histogram[rows],
        whole.header,
        whole.agreement[rows],
    )


def main(ranks, job):
    whole, signals = load_neurons(job["folder"]), read_signals(job["folder"])
    texts = {u: "same" if u in ("q005", "q006") else f"text {u}" for u in whole.uids}
    domains = {u: "a" if i % 3 else "b" for i, u in enumerate(whole.uids)}
    own = share(whole, ranks.rank, job["size"])
    for number, (selector, retriever) in enumerate(job["cases"]):
        folder = Path(job["folder"]) / f"out-{job['size']}" / f"{selector}-{retriever}"
        ties, residual = ("exact" if number % 2 else "include"), ("residual" if number % 5 == 4 else "none")
        select_pool(
            PoolData(own, texts, domains, signals),
            SelectConfig(selector, 0.25, ties, residual),
            ContextConfig(retriever, 2, filter=FILTERS[number % 3]),
            Sharing(ranks, block_mib=64),
            folder,
        )
