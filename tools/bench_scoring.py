"""Time and peak memory of the scoring pass against a bare forward and two other ways to score.

    python tools/bench_scoring.py                              # Qwen3-0.6B's shape, float32, 2 threads: 6 minutes
    python tools/bench_scoring.py --layers 4 --repeats 2       # a quick look
    python tools/bench_scoring.py --device cuda --dtype bfloat16 --shape qwen3-4b --batch 7

Random weights of a real model's shape, responses with a text's repetition (Zipf). The arms take turns in one process,
so that neither the order nor another load favours one; peak memory is that of a process of its own for each arm.

    forward     the decoder alone over the same tokens: no head, no logits, nothing watched
    nopsd       the stage's `score_pool`, its files included
    stored      every layer's activations kept by hooks, scored after the forward with plain torch
    vocabulary  each neuron projected on every entry of the vocabulary, then the token's column taken; of
                `--vocabulary-layers` layers only, its extra time scaled to all of them

With --zero3 the model is a DeepSpeed engine sharded by ZeRO-3 on one rank, and `stored` and `vocabulary`, which read
weights outside the forward, are left out. The arms' sets are compared: a fast wrong answer would show.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scoring_arms import DTYPES, RUN, SHAPES, Bench, prepare

from nopsd.engine.distributed import shutdown_distributed

ARMS = tuple(RUN)
ARMS_OF_ZERO3 = ("forward", "nopsd")
Spent = tuple[float, ...]  # seconds by the clock, and of this process's threads


def timed(bench: Bench, arm: str) -> tuple[Spent, Any]:
    _wait(bench)
    start, used = time.perf_counter(), time.process_time()
    found = RUN[arm](bench)
    _wait(bench)
    return (time.perf_counter() - start, time.process_time() - used), found


def _wait(bench: Bench) -> None:
    if bench.ranks.device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(args: argparse.Namespace) -> dict[str, float]:
    """MiB that this process holds with the model loaded, and at most while the arm runs."""
    bench = prepare(args)
    if args.device == "cuda":
        loaded = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        RUN[args.arm](bench)
        return {"loaded": loaded / 2**20, "peak": torch.cuda.max_memory_allocated() / 2**20}
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # the threads' start is no arm's cost
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    loaded = _status("VmRSS")
    RUN[args.arm](bench)
    return {"loaded": loaded, "peak": _status("VmHWM")}


def _status(key: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024


def ceiling(args: argparse.Namespace) -> float:
    """FLOP/s of one large matrix product in the model's dtype: the best of five."""
    n = 8192 if args.device == "cuda" else 256 if args.shape == "tiny" else 2048
    a, b = (torch.randn(n, n, device=args.device).to(DTYPES[args.dtype]) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product = a @ b
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def flops(args: argparse.Namespace, bench: Bench) -> dict[str, float]:
    """Multiplications and additions that each arm has to make: the layers' products, attention, the projection."""
    hidden, width, layers, heads, kv_heads, head, _ = SHAPES[args.shape]
    layers, length = args.layers or layers, args.prompt + args.response
    weights = hidden * head * (2 * heads + 2 * kv_heads) + 3 * hidden * width
    attention = 2 * length**2 * heads * head  # causal: half of 4 T^2 d
    bare = layers * args.batch * (2 * weights * length + attention)
    distinct = len({token for r in bench.rollouts for token in r.response_ids})
    return {"forward": bare, "nopsd": bare + layers * 2.0 * distinct * hidden * width, "distinct": distinct}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    arms = ARMS_OF_ZERO3 if args.zero3 else ARMS
    memory = {arm: _in_own_process(args, arm) for arm in arms}
    peak_rate = ceiling(args)
    bench = prepare(args)
    every_turn = [arm for arm in arms if arm != "vocabulary"]
    for arm in every_turn:
        timed(bench, arm)  # warm up
    spent: dict[str, list[Spent]] = {arm: [] for arm in arms}
    sets: dict[str, Any] = {}
    for turn in range(args.repeats):
        for arm in every_turn[:: 1 if turn % 2 == 0 else -1]:
            took, sets[arm] = timed(bench, arm)
            spent[arm].append(took)
            print(f"turn {turn + 1}/{args.repeats} {arm}: {took[0]:.2f} s, {took[1]:.2f} CPU s", file=sys.stderr)
    layers = bench.engine.module.config.num_hidden_layers
    if "vocabulary" in arms:
        took, _ = timed(bench, "vocabulary")
        factor = layers / min(args.vocabulary_layers, layers)
        bare = [statistics.median(times) for times in zip(*spent["forward"])]
        spent["vocabulary"] = [tuple(b + (t - b) * factor for t, b in zip(took, bare))]
    return {
        "arguments": vars(args),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device_name": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "layers": layers,
        "seconds": {arm: [wall for wall, _ in times] for arm, times in spent.items()},
        "cpu_seconds": {arm: [cpu for _, cpu in times] for arm, times in spent.items()},
        "memory_mib": memory,
        "flops": flops(args, bench),
        "ceiling_flops": peak_rate,
        "jaccard_to_stored": agreement_of(sets, args.mode),
    }


def agreement_of(sets: dict[str, Any], mode: str) -> float | None:
    """Mean Jaccard similarity of nopsd's N_K to the plain arm's; None where the plain arm does not make such sets."""
    if "stored" not in sets or mode != "pairs":
        return None
    return statistics.mean(len(a & b) / max(1, len(a | b)) for a, b in zip(sets["nopsd"], sets["stored"]))


def _in_own_process(args: argparse.Namespace, arm: str) -> dict[str, float]:
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, __file__, *args.given, "--arm", arm]
    environment = os.environ | {"PYTHONPATH": path}
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return result


# The table.


def table(found: dict[str, Any]) -> str:
    args, flop = found["arguments"], found["flops"]
    head = (
        f"{args['shape']}, {found['layers']} layers, {args['dtype']}, {found['device_name']}, "
        f"{found['threads']} thread(s), {args['batch']} x {args['prompt']}+{args['response']} tokens "
        f"({flop['distinct']} distinct scored), {args['mode']}, {args['value']}{', ZeRO-3' if args['zero3'] else ''}; "
        f"{args['repeats']} turns: median [least, most]"
    )
    titles = ("arm", "s", "time ratio", "of least times", "CPU time ratio", "peak MiB", "memory ratio", "above weights")
    lines = [head, "", "| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    base, base_peak = found["seconds"]["forward"], found["memory_mib"]["forward"]["peak"]
    base_cpu = found["cpu_seconds"]["forward"]
    for arm, values in found["seconds"].items():
        memory = found["memory_mib"][arm]
        name = arm + (" (scaled)" if arm == "vocabulary" else "")
        cells = [
            name,
            f"{statistics.median(values):.3f}",
            _ratios(values, base),
            f"{min(values) / min(base):.3f}",
            f"{statistics.median(found['cpu_seconds'][arm]) / statistics.median(base_cpu):.3f}",
            f"{memory['peak']:.0f}",
            f"{memory['peak'] / base_peak:.3f}",
            f"{memory['peak'] - memory['loaded']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    used = ", ".join(
        f"{arm} {flop[arm] / min(found['seconds'][arm]) / found['ceiling_flops']:.0%}" for arm in ("forward", "nopsd")
    )
    lines += ["", f"Matrix-product ceiling {found['ceiling_flops'] / 1e12:.3g} TFLOP/s; used of it: {used}."]
    if found["jaccard_to_stored"] is not None:
        lines.append(f"Jaccard similarity of nopsd's sets to the plain arm's: {found['jaccard_to_stored']:.5f}.")
    return "\n".join(lines)


def _ratios(values: Sequence[float], base: Sequence[float]) -> str:
    if len(values) != len(base):  # scaled from one run
        return f"{statistics.median(values) / statistics.median(base):.1f}"
    ratios = [value / other for value, other in zip(values, base)]
    return f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


def profile(args: argparse.Namespace) -> None:
    """Where the time of the arm goes, by operator."""
    bench = prepare(args)
    timed(bench, args.profile)
    with torch.profiler.profile() as recorded:
        (wall, _), _ = timed(bench, args.profile)
    print(f"{args.profile}: {wall:.3f} s")
    order = f"self_{args.device}_time_total"
    print(recorded.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=40))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--layers", type=int, default=0, help="0: the shape's own")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--response", type=int, default=1024, help="tokens of each response")
    parser.add_argument("--batch", type=int, default=1, help="responses in one forward pass")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--value", choices=["act_fn", "gated"], default="act_fn")
    parser.add_argument("--mode", choices=["pairs", "chunk_topk", "token_topk"], default="pairs")
    parser.add_argument("--paper-sizes", action="store_true", help="n = 2000, K = 5000 instead of the paper's ratios")
    parser.add_argument("--zero3", action="store_true", help="a DeepSpeed engine, sharded")
    parser.add_argument("--vocabulary-layers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures there")
    parser.add_argument("--profile", choices=ARMS, help="only tell where this arm's time goes")
    parser.add_argument("--arm", choices=ARMS, help="only print this arm's peak memory as JSON (used by the tool)")
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else list(argv)
    torch.set_num_threads(args.threads)
    try:
        if args.arm:
            print(json.dumps(peak_memory(args)))
        elif args.profile:
            profile(args)
        else:
            found = measure(args)
            if args.json:
                Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
            print(table(found))
    finally:
        shutdown_distributed()


if __name__ == "__main__":
    main()
