"""Score batches whole and shared by layer, neuron and position, over real ranks; under worker_ranks.py.

job: {models: {name: folder}, batches: {name: parquet}, modes: [config, ...], cases, out}. Every rank scores each case's
batch alone, then shares it, and compares the bits. What it verified and the bytes it sent go to
out/<size>.<rank>.json. worker_merge's checks run in the same processes.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from nopsd.config import NeuronConfig
from nopsd.engine.counting import Traffic
from nopsd.engine.distributed import Ranks
from nopsd.files import write_json
from nopsd.neurons.adapters import find_sites
from nopsd.neurons.batches import scored_span
from nopsd.neurons.scoring import Scorer
from nopsd.neurons.sets import set_sizes
from nopsd.rollout.types import read_rollouts

sys.path.insert(0, str(Path(__file__).parent))
import worker_merge  # noqa: E402

SHARDS = ("layer", "neuron", "position")


class Plain:
    """An unsharded model called the way an engine is."""

    def __init__(self, folder):
        self.module = AutoModelForCausalLM.from_pretrained(folder).eval()

    def __call__(self, **inputs):
        return self.module(**inputs)


def same_bits(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert a.count == b.count and torch.equal(a.ids, b.ids) and torch.equal(a.histogram, b.histogram)
        assert a.scores.dtype == torch.float32
        assert torch.equal(a.scores.view(torch.int32), b.scores.view(torch.int32))


def main(ranks, job):
    alone, verified, sent, kept = Ranks(0, 1, ranks.device), 0, {}, {}
    batches = {name: read_rollouts(path) for name, path in job["batches"].items()}
    engines = {name: Plain(folder) for name, folder in job["models"].items()}
    for model, value, name, mode, search in job["cases"]:
        engine, rollouts = engines[model], batches[name]
        sites = find_sites(engine.module)
        sizes = set_sizes(NeuronConfig(**job["modes"][mode]), sites.widths)
        spans = [scored_span(r, i, None, False) for i, r in enumerate(rollouts)]
        batch, align = tuple(range(len(rollouts))), "self" if value == "gated" else "predict"
        whole = Scorer(engine, sites, sizes, value, align, alone).score(rollouts, batch, spans)
        key = f"{model} {value} {name} {mode}"
        kept[key] = [[s.count, len(s.ids)] for s in whole]
        for shard in SHARDS:
            traffic, wanted = Traffic(), ranks.rank == verified % ranks.world
            shared = Scorer(engine, sites, sizes, value, align, ranks, shard=shard, topk_search=search, traffic=traffic)
            found = shared.score(rollouts, batch, spans, wanted=wanted)
            same_bits(found, whole if wanted else [])
            verified, sent[f"{key} {shard} {search}"] = verified + 1, traffic.sent
    merged = worker_merge.check(ranks)
    results = {"merged": merged, "verified": verified, "sent": sent, "kept": kept}
    write_json(Path(job["out"]) / f"{ranks.world}.{ranks.rank}.json", results)
