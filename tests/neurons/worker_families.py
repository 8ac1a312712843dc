"""One layer_scores pass over ZeRO-3-sharded models of several families; under worker_ranks.py or `deepspeed`.

job: {models: {family: folder}, out}. Each rank scores other tokens. The last rank idles, unwatched, while ZeRO-3
records its trace (where it asserts that ranks agree) and once after. Results: out/<family>.<rank>.npz.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from nopsd.config import DistConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.engine.frozen import load_frozen
from nopsd.engine.rows import gather_rows
from nopsd.neurons.adapters import find_sites, watch
from nopsd.neurons.layer_scores import ScoredRow, layer_scores

# Nothing stays gathered after its module has run, which is where wrong hooks fail.
SHARDED = {
    "train_micro_batch_size_per_gpu": 1,
    "bf16": {"enabled": False},
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
    },
}
PASSES, IDLE = 4, (0, 1, 3)


def tokens_of(rank, number):
    """Prompt of 3 and response of the pass's own length."""
    return torch.randint(3, 64, (1, 8 + rank + number), generator=torch.Generator().manual_seed(10 * rank + number))


def scores_of(model, ids, directions, places, consumers):
    """{"layer.columns", "layer.scores"} of the response ids[3:]; `model` is called as an engine is."""
    found = {}
    rows = [ScoredRow(0, 2, places)]

    def consume(activity):
        ((_, _, scores, columns),) = layer_scores(activity, rows, directions, 1024)
        found[f"{activity.layer}.scores"] = scores.numpy().copy()
        if columns is not None:
            found[f"{activity.layer}.columns"] = columns.numpy().copy()

    with torch.no_grad(), watch(consumers, "act_fn", consume):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return found


def main(ranks, job):
    for family, folder in job["models"].items():
        engine = load_frozen(folder, "float32", SHARDED)
        sites, found = find_sites(engine.module), {}
        for number in range(PASSES):
            idle = ranks.world > 1 and ranks.rank == ranks.world - 1 and number in IDLE
            ids = tokens_of(ranks.rank, number)
            distinct, places = torch.unique(ids[0, 3:], return_inverse=True)
            directions = gather_rows(sites.unembedding, distinct[:0] if idle else distinct, ranks).float()
            if idle:
                with torch.no_grad():
                    engine(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False, logits_to_keep=1)
                continue
            for name, array in scores_of(engine, ids, directions, places, sites).items():
                found[f"{number}.{name}"] = array
        np.savez(Path(job["out"]) / f"{family}.{ranks.rank}.npz", widths=np.array(sites.widths), **found)
        ranks.barrier()


if __name__ == "__main__":
    own = init_distributed(DistConfig(timeout_s=90))
    main(own, json.loads(Path(sys.argv[-1]).read_text()))
    shutdown_distributed()
