"""How long the pages of `nopsd view` take, and how large its server grows, on a run of many responses.

    python tools/bench_view.py                                   # 100,000 traced responses, 100,000 of the pool
    python tools/bench_view.py --responses 1000 --pool 1000      # a quick look

The run folder is made up; the server is a process of its own. A page is asked for twice: the first answer reads the
files. Time is wall seconds at this side; memory is the most resident (the kernel's VmHWM).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from nopsd.config import load_config, to_yaml
from nopsd.data.records import Option, Question
from nopsd.files import write_json, write_jsonl
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.traces.schema import COUNTED, FOLDER, TOKEN_VALUES, Prompts, StepTrace
from nopsd.traces.writer import TraceWriter

OF_A_STEP = 100  # responses
PAGES = ("/", "/training", "/rollouts", "/response?step=0&row=0", "/questions", "/questions?sort=score", "/compare")


def make(folder: Path, responses: int, pool: int, tokens: int) -> None:
    """A run folder with so many responses in its trace, and so many questions in its pool."""
    config = load_config("lab", [f"run_dir={folder}", f"train.batch={OF_A_STEP}"])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    rng = np.random.default_rng(0)
    words = " ".join(random.Random(0).choice(["gelin", "reads", "the", "three", "is"]) for _ in range(tokens // 2))
    uids = [f"q{i:06d}" for i in range(pool)]
    options = tuple(Option(label, f"option {label}") for label in "ABCD")
    pool_rows = [Question(u, "biology", "lab", f"{u} {words}", options).to_json() for u in uids]
    write_jsonl(folder / "data" / "pool.jsonl", pool_rows)
    ids = list(range(5, 5 + tokens))
    said = f"{words} <answer>A</answer>"
    write_rollouts(
        folder / "rollout" / "rollouts.parquet", [Rollout(u, 0, ids[:9], ids, said, "stop", 0) for u in uids]
    )
    rows = [{"uid": u, "score": float(i), "selected": i % 5 == 0} for i, u in enumerate(uids)]
    write_jsonl(folder / "select" / "scores.jsonl", rows)
    writer = TraceWriter(folder / "train" / FOLDER, 1, 1 << 40)
    writer.write_prompts({u: Prompts(ids[:9], ids * 4) for u in uids[: pool // 5]})
    steps = -(-responses // OF_A_STEP)
    for step in range(steps):
        total = OF_A_STEP * tokens
        values = {name: rng.exponential(0.1, total).astype(np.float32) for name in TOKEN_VALUES}
        found = [Rollout(uids[i % pool], 0, [], ids, said, "stop", step, 0, [-0.1] * tokens) for i in range(OF_A_STEP)]
        writer.add(StepTrace(step, found, {**values, COUNTED: np.ones(total, bool)}))
    writer.close()
    names = ("loss", "reverse_kl", "forward_kl", "student_entropy", "grad_norm", "time/rollout", "time/student")
    logged = [{"step": s, **{n: float(v) for n, v in zip(names, rng.random(len(names)))}} for s in range(steps)]
    write_jsonl(folder / "train" / "metrics.jsonl", logged)
    write_json(folder / "train" / "plan.json", {"steps": steps})


def measure(folder: Path) -> dict[str, object]:
    """Seconds of each page, first and second time, and the server's largest size in MiB."""
    server = subprocess.Popen([sys.executable, "-m", "nopsd", "view", str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = re.search(r"(http://\S+)/\?token=(\S+)", server.stdout.readline())
        assert address is not None
        client = httpx.Client(base_url=address[1], follow_redirects=True, timeout=120)
        wait_for(client)
        found = {}
        client.get("/static/view.css", params={"token": address[2]})  # the cookie
        for page in PAGES:
            found[page] = [timed(client, page) for _ in range(2)]
        status = Path(f"/proc/{server.pid}/status").read_text()
        return {"seconds": found, "peak_mib": int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024}  # type: ignore[index]
    finally:
        server.terminate()
        server.wait()


def wait_for(client: httpx.Client) -> None:
    """Until the server listens."""
    for _ in range(600):
        try:
            client.get("/static/view.css")
            return
        except httpx.ConnectError:
            time.sleep(0.1)
    raise SystemExit("the server does not answer")


def timed(client: httpx.Client, page: str) -> float:
    """Seconds until the page is here."""
    began = time.perf_counter()
    answer = client.get(page)
    answer.raise_for_status()
    return round(time.perf_counter() - began, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--pool", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make(Path(name) / "run", args.responses, args.pool, args.tokens)
        found = measure(Path(name) / "run")
    for page, (first, second) in found["seconds"].items():  # type: ignore[attr-defined]
        print(f"{page:28} first {first:.2f} s, again {second:.2f} s")
    print(f"the server's largest size: {found['peak_mib']} MiB")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
