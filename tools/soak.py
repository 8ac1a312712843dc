"""A long training run with its memory watched: does any process of it grow, step after step?

    python tools/soak.py                                          # 1,000 steps on the lab: about 20 minutes on 2 cores
    python tools/soak.py --out /tmp/soak run_dir=/tmp/soak/run train.steps=60 teacher.kind=ema

Runs `nopsd run` up to `train` in processes of its own, samples the unshared memory (USS) of each of them every few
seconds, and writes OUT/memory.csv, OUT/memory.png and OUT/memory.json: for each role the growth of its memory in MiB
per 1,000 steps, by a straight line through the samples after the first tenth of the steps, with a 95 % interval. Memory
is flat if the interval's upper end times the run's length is below 5 % of the role's memory. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import matplotlib
import pandas as pd
import psutil
from scipy.stats import linregress

matplotlib.use("Agg")

LAB = (
    "data.pool_limit=200",
    "train.steps=1000",
    "train.batch=4",
    "train.micro=2",
    "train.checkpoint_every=100",
    "train.probe_every=0",
    "eval.limit=8",
    "eval.n=1",
    "server.kv_cache_mib=64",
)
EVERY_S = 5.0
WARM_UP = 0.1  # share of the steps left out: caches fill, allocators settle
FLAT = 0.05


def role_of(process: psutil.Process) -> str | None:
    """What a process does: a rank of the training, the rollout server's engine or its HTTP front end; else None."""
    line, environment = " ".join(process.cmdline()), process.environ()
    if "nopsd train" in line and "LOCAL_RANK" in environment and "deepspeed" not in line:
        return f"rank {environment['RANK']}"
    if "VLLM::EngineCore" in line:
        return "server engine"
    return "server front" if "vllm.entrypoints" in line and "guardian" not in line else None


def memory_of(root: psutil.Process) -> dict[str, float]:
    """MiB of unshared memory by role, of all processes below `root`."""
    found: dict[str, float] = defaultdict(float)
    for process in root.children(recursive=True):
        try:
            if role := role_of(process):
                found[role] += process.memory_full_info().uss / 2**20
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has just ended
    return found


def steps_done(run: Path) -> int:
    """Rows of the training log so far."""
    logs = list(run.glob("**/train/metrics.jsonl"))
    return sum(1 for _ in open(logs[0])) if logs else 0


def watch(command: list[str], run: Path, log: Path) -> list[tuple[int, str, float]]:
    """(step, role, MiB) while the command runs; RuntimeError if it fails."""
    samples: list[tuple[int, str, float]] = []
    with open(log, "w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            step = steps_done(run)
            if step:
                samples += [(step, role, mib) for role, mib in memory_of(root).items()]
            time.sleep(EVERY_S)
    if process.returncode:
        raise RuntimeError(f"the run failed with exit code {process.returncode}: see {log}")
    return samples


def growth(samples: pd.DataFrame) -> dict[str, dict[str, float | bool]]:
    """By role: mean memory, growth with half the width of its 95 % interval, and whether it is flat."""
    last = samples["step"].max()
    table = {}
    for role, kept in samples[samples["step"] >= WARM_UP * last].groupby("role"):
        if len(kept) < 10:
            raise RuntimeError(f"{len(kept)} samples of {role} are too few to judge by: raise train.steps")
        line, mean = linregress(kept["step"] / 1000, kept["mib"]), float(kept["mib"].mean())
        half = 1.96 * line.stderr
        flat = (line.slope + half) * last / 1000 < FLAT * mean
        table[str(role)] = {"mean_mib": mean, "mib_per_1000_steps": line.slope, "interval": half, "flat": bool(flat)}
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("overrides", nargs="*", help="key=value, after the soak's own")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    overrides = [f"run_dir={options.out / 'run'}", *LAB, *options.overrides]
    run = Path(next(o.split("=", 1)[1] for o in reversed(overrides) if o.startswith("run_dir=")))
    command = [sys.executable, "-m", "nopsd", "run", "--preset", "lab", *overrides]
    samples = pd.DataFrame(watch(command, run, options.out / "run.log"), columns=["step", "role", "mib"])
    samples.to_csv(options.out / "memory.csv", index=False)
    table = growth(samples)
    axis = samples.pivot_table(index="step", columns="role", values="mib").plot(figsize=(8, 4), ylim=(0, None))
    axis.set(xlabel="step", ylabel="unshared memory (MiB)")
    axis.figure.savefig(options.out / "memory.png", dpi=120, bbox_inches="tight")
    (options.out / "memory.json").write_text(json.dumps(table, indent=1))
    print(json.dumps(table, indent=1))
    return 0 if all(row["flat"] for row in table.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
