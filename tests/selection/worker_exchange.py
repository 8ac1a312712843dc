"""Select and retrieve with neuron sets shared unevenly over ranks. job: {neurons: folder, out}."""

from pathlib import Path

from nopsd.config import ContextConfig, SelectConfig
from nopsd.neurons.store import NeuronSets, load_neurons
from nopsd.selection.stage import select_and_retrieve

SELECTS = {"paper": {"fraction": 0.25}, "exact": {"fraction": 0.25, "ties": "exact"}, "random": {"selector": "random"}}
CONTEXTS = {"paper": {"m": 4}, "selected": {"m": 4, "pool": "selected"}, "random": {"m": 4, "retriever": "random"}}


def share(whole, rank, size):
    """One row on rank 0, none on rank 1 of 4, and the rest dealt so that ranks hold no run of uids."""
    if size == 1:
        rows = list(range(len(whole.uids)))
    else:
        busy = [r for r in range(size) if r != 0 and not (size == 4 and r == 1)]
        rows = [0] if rank == 0 else [i for i in range(1, len(whole.uids)) if busy[i % len(busy)] == rank]
    width = whole.ids.shape[1]
    longest = max([0, *((whole.ids[i] >= 0).sum() for i in rows)]) if rank else width  # K may differ over ranks
    return NeuronSets(
        [whole.uids[i] for i in rows], whole.counts[rows], whole.ids[rows][:, :longest], whole.scores[rows],
        whole.lengths[rows], whole.truncated[rows], whole.histogram[rows], whole.header,
    )  # fmt: skip


def main(ranks, job):
    whole = load_neurons(job["neurons"])
    texts = {u: "same" if u in ("q005", "q006") else f"text {u}" for u in whole.uids}
    own = share(whole, ranks.rank, job["size"])
    for exchange in ("queries_only", "gather_all"):
        for name in SELECTS:
            for context in CONTEXTS:
                folder = Path(job["out"]) / f"{exchange}-{job['size']}" / f"{name}-{context}"
                select_and_retrieve(
                    own, texts, SelectConfig(**SELECTS[name]), ContextConfig(**CONTEXTS[context]), ranks, folder,
                    folder, exchange=exchange,
                )  # fmt: skip
