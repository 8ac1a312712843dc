"""Score rollouts over a ZeRO-3-sharded model, then select and retrieve; under worker_ranks.py or `deepspeed`.

job: {model, cases: [{rollouts: parquet, config: {...}}], out, tight: bool}. Results go to out/<size>/<case>/.
With `tight`, ZeRO-3 really releases every gathered weight at once, which is where wrong hooks fail.
"""

import json
import sys
from pathlib import Path

from nopsd.config import ContextConfig, DistConfig, NeuronConfig, SelectConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.engine.frozen import load_frozen
from nopsd.neurons.stage import load_rank_neurons, score_rollouts
from nopsd.rollout.types import read_rollouts
from nopsd.runs import write_json
from nopsd.selection.stage import select_and_retrieve


def sharded_config(tight):
    limits = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
    return {
        "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": False},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, **(limits if tight else {})},
    }  # fmt: skip


class Counted:
    """The engine, counting its forward passes."""

    def __init__(self, engine):
        self.engine, self.module, self.forwards = engine, engine.module, 0

    def __call__(self, **inputs):
        self.forwards += 1
        return self.engine(**inputs)


def main(ranks, job):
    engine = load_frozen(job["model"], "float32", sharded_config(job["tight"]))
    for name, case in job["cases"].items():
        rollouts, folder = read_rollouts(case["rollouts"]), Path(job["out"]) / str(job["size"]) / name
        counted = Counted(engine)
        own = score_rollouts(counted, rollouts, NeuronConfig(**case["config"]), ranks, folder, model_hash="m")
        write_json(folder / f"forwards.{ranks.rank}.json", {"forwards": counted.forwards, "rows": len(own.uids)})
        ranks.barrier()
        texts = {r.uid: f"question {r.uid}" for r in rollouts}
        for exchange in ("queries_only", "gather_all"):
            # The second time with a sharding other than scoring's.
            shard = own if exchange == "queries_only" else load_rank_neurons(folder, ranks)
            select_and_retrieve(
                shard, texts, SelectConfig(fraction=0.5), ContextConfig(m=1), ranks, folder / exchange,
                folder / exchange, exchange=exchange,
            )  # fmt: skip


if __name__ == "__main__":
    ranks = init_distributed(DistConfig(timeout_s=90))
    main(ranks, {**json.loads(Path(sys.argv[-1]).read_text()), "size": f"deepspeed{ranks.world}"})
    shutdown_distributed()
