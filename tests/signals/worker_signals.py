"""Signals of a ZeRO-3-sharded model, under worker_ranks.py or `deepspeed`.

job: {model, rollouts, reference (parquet), cases: {name: {columns, config}}, out, tight}. Results go to
out/<size>/<case>/. With `tight`, ZeRO-3 really releases every gathered weight at once, where wrong hooks fail.
"""

import json
import sys
from pathlib import Path

from nopsd.config import DistConfig, SignalConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.engine.frozen import load_frozen
from nopsd.files import write_json
from nopsd.rollout.types import read_rollouts
from nopsd.signals.belief import broadcast_with_heartbeat
from nopsd.signals.forward_columns import MeasuredModel, forward_columns, write_shared_signals
from nopsd.signals.store import Signals
from tests.models import sharded_config


class Counted:
    """The engine, counting its forward passes."""

    def __init__(self, engine):
        self.engine, self.module, self.forwards = engine, engine.module, 0

    def __call__(self, **inputs):
        self.forwards += 1
        return self.engine(**inputs)


def main(ranks, job):
    engine = load_frozen(job["model"], "float32", sharded_config(job["tight"]))
    reference = read_rollouts(job["reference"])
    for name, case in job["cases"].items():
        rollouts = read_rollouts(job["rollouts"])[: case["rollouts"]]
        folder = Path(job["out"]) / str(job["size"]) / name
        counted = Counted(engine)
        columns = forward_columns(
            MeasuredModel(counted, "m"),
            rollouts,
            case["columns"],
            SignalConfig(**case["config"]),
            ranks,
            folder,
            reference=reference,
        )
        write_shared_signals(folder, Signals(sorted({r.uid for r in rollouts}), columns, {"format": 1}), ranks)
        write_json(folder / f"forwards.{ranks.rank}.json", counted.forwards)

    def long_work(sign):
        for _ in range(3):
            sign()
        return job["size"]

    assert broadcast_with_heartbeat(ranks, long_work, every_s=0.0) == job["size"]


if __name__ == "__main__":
    ranks = init_distributed(DistConfig(timeout_s=90))
    main(ranks, {**json.loads(Path(sys.argv[-1]).read_text()), "size": f"deepspeed{ranks.world}"})
    shutdown_distributed()
