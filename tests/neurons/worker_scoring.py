"""Score rollouts over a ZeRO-3-sharded model, then select and retrieve; under worker_ranks.py or `deepspeed`.

job: {model, cases: {name: {rollouts: parquet, config: {...}}}, out, tight: bool, killed: a case's name or none}.
Results go to out/<size>/<case>/. With `tight`, ZeRO-3 really releases every gathered weight at once, which is where
wrong hooks fail. The case `killed` is begun on 2 ranks and dies at its second forward pass; on 4 ranks it resumes.
"""

import json
import shutil
import sys
from pathlib import Path

from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

from nopsd.config import ContextConfig, DistConfig, NeuronConfig, SelectConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.engine.frozen import load_frozen
from nopsd.files import write_json
from nopsd.neurons.rank_share import load_rank_neurons
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.rollout.types import read_rollouts
from nopsd.selection.gathering import PoolData
from nopsd.selection.select_pool import Sharing, select_pool
from tests.models import sharded_config


class Counted:
    """The engine, counting its forward passes; the one after `last` kills the run."""

    def __init__(self, engine, last=None):
        self.engine, self.module, self.forwards, self.last = engine, engine.module, 0, last

    def __call__(self, **inputs):
        if self.forwards == self.last:
            raise Killed
        self.forwards += 1
        return self.engine(**inputs)


class Killed(Exception):
    pass


def kill_and_resume(engine, ranks, case, out, size):
    rollouts, config = read_rollouts(case["rollouts"]), NeuronConfig(**case["config"])
    begun, resumed = out / "2" / "killed", out / "4" / "killed"
    if size == 2:
        try:
            score_pool(ScoredModel(Counted(engine, 1), "m"), rollouts, config, ranks, begun)
        except Killed:
            return
        raise AssertionError("it ended by itself")
    if size == 4:
        if ranks.is_main:
            shutil.copytree(begun, resumed)
        ranks.barrier()
        counted = Counted(engine)
        score_pool(ScoredModel(counted, "m"), rollouts, config, ranks, resumed)
        write_json(resumed / f"forwards.{ranks.rank}.json", {"forwards": counted.forwards})


class Gathered:
    """The most parameter elements that were whole on this rank at any module's beginning or end."""

    def __init__(self, model):
        self.parameters, self.most = list(model.parameters()), 0
        self.total = sum(p.ds_numel for p in self.parameters)
        self.largest = max(sum(p.ds_numel for p in m.parameters(recurse=False)) for m in model.modules())
        self.handles = [
            handle
            for module in model.modules()
            for handle in (module.register_forward_pre_hook(self.look), module.register_forward_hook(self.look))
        ]

    def look(self, *_):
        whole = sum(p.ds_numel for p in self.parameters if p.ds_status == ZeroParamStatus.AVAILABLE)
        self.most = max(self.most, whole)

    def close(self):
        for handle in self.handles:
            handle.remove()
        return {"most": self.most, "total": self.total, "largest": self.largest}


def main(ranks, job):
    engine = load_frozen(job["model"], "float32", sharded_config(job["tight"]))
    if job.get("killed"):
        kill_and_resume(engine, ranks, job["cases"][job["killed"]], Path(job["out"]), job["size"])
    for name, case in job["cases"].items():
        rollouts, folder = read_rollouts(case["rollouts"]), Path(job["out"]) / str(job["size"]) / name
        counted, gathered = Counted(engine), Gathered(engine.module)
        own = score_pool(ScoredModel(counted, "m"), rollouts, NeuronConfig(**case["config"]), ranks, folder)
        log = {"forwards": counted.forwards, "rows": len(own.uids), "gathered": gathered.close()}
        write_json(folder / f"forwards.{ranks.rank}.json", log)
        ranks.barrier()
        texts = {r.uid: f"question {r.uid}" for r in rollouts}
        for exchange in ("queries_only", "gather_all"):
            # The second time with the rows that a rank reads, which need not be those it scored.
            sets = own if exchange == "queries_only" else load_rank_neurons(folder, ranks)
            select_pool(
                PoolData(sets, texts),
                SelectConfig(fraction=0.5),
                ContextConfig(m=1),
                Sharing(ranks, exchange=exchange),
                folder / exchange,
            )


if __name__ == "__main__":
    ranks = init_distributed(DistConfig(timeout_s=90))
    main(ranks, {**json.loads(Path(sys.argv[-1]).read_text()), "size": f"deepspeed{ranks.world}"})
    shutdown_distributed()
