"""What a trace costs: CPU seconds of a training step with and without it, in one run.

    python tools/bench_trace.py                                  # the lab's model, as small as a model gets
    python tools/bench_trace.py --response 256 --steps 20

Every second step is traced, and each step ends when its file is written, so that the writer's
thread is counted with the step that it writes. Time is CPU seconds of all threads. The ratio is of each traced step to
the mean of its two neighbours; its median, and the interval of 95 % of a bootstrap over steps.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from canned_run import canned_run

from nopsd.config import Config, DistConfig, load_config
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.models import LAB_MODEL
from nopsd.traces.schema import FOLDER, Prompts
from nopsd.traces.writer import TraceWriter
from nopsd.train.loop import train

WARM_UP = 4  # steps that are not counted


def config_of(steps: int, questions: int) -> Config:
    """The lab's training."""
    settings = [f"train.steps={steps}", f"train.batch={questions}", "train.checkpoint_every=100000"]
    return load_config("lab", [*settings, "train.sync_check_every=0", "train.probe_every=0", "dist.ranks=1"])


def measure(args: argparse.Namespace, folder: Path) -> list[float]:
    """CPU seconds of each step."""
    ranks = init_distributed(DistConfig())
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(5, 1000) for _ in range(count)]

    prompts = {f"q{i:02d}": ids(args.prompt) for i in range(args.questions)}
    contexts = {uid: ids(args.context) + found for uid, found in prompts.items()}
    config = config_of(args.steps, args.questions)
    run = canned_run(config, LAB_MODEL, ranks, prompts, contexts, ids(args.response))
    run.folder = folder / "work"
    run.trace_every = 2
    run.trace = TraceWriter(folder / FOLDER, 2, 1 << 40)
    run.trace.write_prompts({uid: Prompts(found, contexts[uid]) for uid, found in prompts.items()})
    times = [time.process_time()]

    def ended(*_: Any, **__: Any) -> None:
        run.trace.flush()
        times.append(time.process_time())

    run.progress = ended
    train(run)
    run.trace.close()
    shutdown_distributed()
    return [later - earlier for earlier, later in zip(times, times[1:])]


def ratios(seconds: list[float]) -> np.ndarray:
    """Each traced step's time over the mean of the steps beside it. The last step is left out: it saves."""
    traced = range(WARM_UP, len(seconds) - 2, 2)
    return np.array([2 * seconds[i] / (seconds[i - 1] + seconds[i + 1]) for i in traced])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=16, help="responses of a step")
    parser.add_argument("--prompt", type=int, default=60, help="tokens of a prompt")
    parser.add_argument("--context", type=int, default=400, help="tokens that the teacher reads before it")
    parser.add_argument("--response", type=int, default=64, help="tokens of a response")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seconds = measure(args, Path(name))
    found = ratios(seconds)
    draws = np.random.default_rng(0).choice(found, (2000, len(found)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    plain = np.median(seconds[WARM_UP + 1 : -1 : 2])
    print(
        f"{args.questions} responses of {args.response} tokens a step: {plain:.3f} CPU s without a trace; with it "
        f"{100 * (np.median(found) - 1):+.2f} % [{100 * (low - 1):+.2f}, {100 * (high - 1):+.2f}], {len(found)} steps"
    )


if __name__ == "__main__":
    main()
