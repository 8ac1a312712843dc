"""How a run scales: measured here at a few ranks, computed for 8 to 512 GPUs.

    python tools/scaling.py                                   # the table, from nopsd.cluster.doctor.scaling; no GPU
    python tools/scaling.py --set network_rate=25e9 efficiency=0.3 --work sequences=1024
    python tools/scaling.py --measure 1 2 4 --out /tmp/scaling data.pool_limit=60 train.steps=4

The table: seconds of one strictly on-policy step, a quarter of the GPUs serving rollouts, by phase where one model is
named (`--models Qwen3-8B`). Every constant is an assumption unless set; none was fitted to a run on GPUs.

`--measure`: the lab's preset with these settings, at each number of ranks, on this host: wall seconds of the stages
neurons, select and train, start-up included, and the median of each phase of a training step. With more ranks than
cores it shows the overhead, not a speed-up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nopsd.cluster.doctor.scaling import QWEN3, Machine, Work, states_fit, step_s
from nopsd.run.folder import TRAIN
from nopsd.train.artefacts import METRICS

GPUS = (8, 16, 32, 64, 128, 256, 512)
SERVING = 0.25  # of the GPUs
MEASURED = ("neurons", "select", "train")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--models", nargs="+", choices=[*QWEN3, "all"], default=["all"])
    top.add_argument("--gpus", type=int, nargs="+", default=list(GPUS))
    top.add_argument("--set", nargs="*", default=[], metavar="KEY=NUMBER", help="constants of Machine")
    top.add_argument("--work", nargs="*", default=[], metavar="KEY=NUMBER", help="numbers of Work")
    top.add_argument("--measure", type=int, nargs="+", metavar="RANKS")
    top.add_argument("--out", type=Path, help="--measure: folder for the runs")
    top.add_argument("--json", type=Path, help="write the rows here too")
    top.add_argument("overrides", nargs="*", metavar="key=value", help="--measure: settings of the run")
    return top


def changed(given: Any, items: Sequence[str]) -> Any:
    """A dataclass of numbers with some of them set; SystemExit on an unknown name."""
    types = {f.name: type(getattr(given, f.name)) for f in dataclasses.fields(given)}
    values = dict(item.partition("=")[::2] for item in items)
    if unknown := sorted(set(values) - set(types)):
        raise SystemExit(f"{', '.join(unknown)}: there are {', '.join(types)}")
    return dataclasses.replace(given, **{name: types[name](float(value)) for name, value in values.items()})


def split(gpus: int) -> tuple[int, int]:
    """How many train, how many serve."""
    serve = max(1, round(SERVING * gpus))
    return gpus - serve, serve


def predicted(models: Sequence[str], gpus: Sequence[int], machine: Machine, work: Work) -> list[dict[str, Any]]:
    """A row a model and number of GPUs."""
    rows = []
    for model in QWEN3 if "all" in models else models:
        for count in gpus:
            train, serve = split(count)
            phases = step_s(QWEN3[model], machine, work, train, serve)
            row = {"model": model, "gpus": count, "train": train, "serve": serve, **phases}
            rows.append(row | {"step": sum(phases.values()), "fits": states_fit(QWEN3[model], machine, train)})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: step times by model and GPUs, or by phase for a single model. `*`: the states need offload."""
    if len({row["model"] for row in rows}) == 1:
        names = ("gpus", "train", "serve", "rollout", "teacher", "student", "update", "sync", "step")
        body = [[_cell(row, name) for name in names] for row in rows]
        return _markdown(names, body)
    gpus = sorted({row["gpus"] for row in rows})
    by_model: dict[str, dict[int, str]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {})[row["gpus"]] = _cell(row, "step")
    body = [[model, *[cells.get(count, "") for count in gpus]] for model, cells in by_model.items()]
    return _markdown(("seconds a step, GPUs:", *map(str, gpus)), body)


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    return f"{value:.3g}{'*' if name == 'step' and not row['fits'] else ''}" if isinstance(value, float) else str(value)


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(ranks: Sequence[int], out: Path, overrides: Sequence[str]) -> list[dict[str, float]]:
    """A row a number of ranks."""
    first = out / "first"
    command("rollout", first, overrides)
    rows = []
    for count in ranks:
        folder = out / f"ranks{count}"
        shutil.copytree(first, folder)
        row: dict[str, float] = {"ranks": count}
        for stage in MEASURED:
            row[f"{stage}_s"] = command(stage, folder, [*overrides, f"dist.ranks={count}"])
        steps = [json.loads(line) for line in (folder / TRAIN / METRICS).read_text().splitlines()]
        for phase in (name for name in steps[-1] if name.startswith("time/")):
            row[phase] = statistics.median(step[phase] for step in steps[1:])  # the first one warms up
        rows.append(row)
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    return rows


def command(stage: str, folder: Path, overrides: Sequence[str]) -> float:
    """Wall seconds of a stage."""
    words = [sys.executable, "-m", "nopsd", stage, "--preset", "lab", f"run_dir={folder}", *overrides]
    start = time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)
    if args.measure:
        if args.out is None:
            raise SystemExit("--measure needs --out FOLDER")
        rows: list[dict[str, Any]] = list(measure(args.measure, args.out, args.overrides))
    else:
        machine, work = changed(Machine(), args.set), changed(Work(), args.work)
        rows = predicted(args.models, args.gpus, machine, work)
        print(f"{machine}\n{work}\n\n{table(rows)}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
