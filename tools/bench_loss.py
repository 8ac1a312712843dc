"""The distillation loss, forward and backward, against other libraries': time and memory.

    python tools/bench_loss.py --peer-python PATH                    # N=1536, H=256, V=151936: about 20 minutes
    python tools/bench_loss.py --peer-python PATH --tokens 512 --hidden 512
    python tools/bench_loss.py --tokens 64 --hidden 64 --vocab 4096  # a quick look

PATH: an interpreter with trl==1.16.0 transformers==5.23.0 liger-kernel==0.8.5 (tools/peers/README.md); or set
NOPSD_TRL_PYTHON. Reverse KL over the whole vocabulary from hidden states, float32. First every arm's loss and gradients
are checked on small tensors against float64. Then each run of an arm is a process of its own, and the arms take turns,
every other turn in reverse order, so that neither the allocator nor another load favours one.

Time is CPU seconds of all threads of one forward and backward, the process's second. Memory is the most that the
process's first one held resident (the kernel's VmHWM) above what was resident just before, when both roles' hidden
states and weights were there: so the gradients count, the inputs don't. Ratios are of runs of the same turn:
median [least, most].

    nopsd              the loss alone            nopsd+log   with the training log's statistics, as in training
    trl-sdft           SDFTTrainer, full_logits  trl-distillation   DistillationTrainer's chunked divergence
    trl-gkd, deepspeed, liger-jsd                their generalized JSD at beta=1, which is reverse KL
    plain              torch functions on whole [N, V] logits
    products           the four bare matrix products, in chunks: the floor
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS / "peers"))
from loss_arm import OWN, inputs  # noqa: E402

LIBRARY = {  # what an arm's interpreter must have
    "trl-sdft": "trl",
    "trl-distillation": "trl",
    "trl-gkd": "trl",
    "liger-jsd": "liger_kernel",
    "deepspeed": "deepspeed",
}
ARMS = (*OWN, "plain", *LIBRARY)
CHECKED = (48, 32, 700)  # N, H, V of the comparison with float64
TOLERANCE = 2e-5  # relative, of float32 arms
Run = dict[str, float]


def interpreters(arms: Sequence[str], peer: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Which interpreter runs each arm, and why the others are left out."""
    chosen, reasons = {}, {}
    for arm in arms:
        needed = LIBRARY.get(arm)
        candidates = [sys.executable] if needed is None else [p for p in (sys.executable, peer) if p]
        found = next((p for p in candidates if needed is None or has(p, needed)), None)
        if found is None:
            reasons[arm] = f"no interpreter with {needed}: give --peer-python or NOPSD_TRL_PYTHON"
        else:
            chosen[arm] = found
    return chosen, reasons


def has(python: str, module: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec(module) is not None
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", probe], check=False).returncode == 0


def start(python: str, arm: str, sizes: Sequence[int], args: argparse.Namespace, *file: str) -> str:
    """The arm in a process of its own; what it prints last."""
    command = [python, str(TOOLS / "peers" / "loss_arm.py"), arm, *map(str, (*sizes, args.threads, args.chunk)), *file]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment(python), check=False)
    if finished.returncode:
        raise SystemExit(f"{arm} failed under {python}:\n{finished.stderr[-3000:]}")
    return (finished.stdout.strip().splitlines() or [""])[-1]


def environment(python: str) -> dict[str, str]:
    """nopsd from this checkout, in its own interpreter; a peer's interpreter sees its own packages alone."""
    path = [str(TOOLS.parent), os.environ.get("PYTHONPATH", "")] if python == sys.executable else []
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
    }


def reference(sizes: Sequence[int]) -> dict[str, Any]:
    """Loss and gradients in float64, from the definition: Σ p (log p − log q)."""
    h, w, th, tw = (t.detach().double() for t in inputs(*sizes))
    h.requires_grad_(), w.requires_grad_()
    p, q = (h @ w.t()).log_softmax(-1), (th @ tw.t()).log_softmax(-1)
    loss = (p.exp() * (p - q)).sum()
    loss.backward()
    return {"loss": loss.item(), "hidden": h.grad, "weight": w.grad}


def disagreements(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, float]:
    """Relative errors of the loss and of both gradients (by norm)."""
    errors = {k: float((found[k].double() - wanted[k]).norm() / wanted[k].norm()) for k in ("hidden", "weight")}
    return {"loss": abs(found["loss"] - wanted["loss"]) / abs(wanted["loss"]), **errors}


def check(chosen: Mapping[str, str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Errors of every arm that is a loss. SystemExit if one is off: times of different work compare nothing."""
    wanted, errors = reference(CHECKED), {}
    with tempfile.TemporaryDirectory() as folder:
        for arm, python in chosen.items():
            if arm == "products":
                continue
            file = Path(folder) / f"{arm}.pt"
            start(python, arm, CHECKED, args, str(file))
            errors[arm] = disagreements(torch.load(file, weights_only=True), wanted)
            if not max(errors[arm].values()) < TOLERANCE:
                raise SystemExit(f"{arm} computes something else: relative errors {errors[arm]}")
    return errors


def measure(args: argparse.Namespace) -> dict[str, Any]:
    chosen, reasons = interpreters(args.arms, args.peer_python)
    for arm, reason in reasons.items():
        print(f"{arm}: left out, {reason}", file=sys.stderr)
    errors = check(chosen, args)
    print(f"losses and gradients agree with float64 to {TOLERANCE:g}: {', '.join(errors)}", file=sys.stderr)
    runs: dict[str, list[Run]] = {arm: [] for arm in chosen}
    for turn in range(args.repeats):
        for arm in list(chosen)[:: 1 if turn % 2 == 0 else -1]:
            runs[arm].append(json.loads(start(chosen[arm], arm, (args.tokens, args.hidden, args.vocab), args)))
            print(f"turn {turn + 1}/{args.repeats} {arm}: {runs[arm][-1]}", file=sys.stderr)
    given = {k: v for k, v in vars(args).items() if k != "peer_python"}
    return {"arguments": given, "torch": torch.__version__, "errors": errors, "left_out": reasons, "runs": runs}


def table(found: Mapping[str, Any]) -> str:
    args, runs = found["arguments"], found["runs"]
    bases = [b for b in ("trl-sdft", "products") if b in runs]
    head = (
        f"N={args['tokens']}, H={args['hidden']}, V={args['vocab']}, float32, {args['threads']} thread(s), torch "
        f"{found['torch']}, {args['repeats']} turns; ratios of the same turn: median [least, most]"
    )
    titles = ["arm", "CPU s", *(f"time / {b}" for b in bases), "peak MiB", *(f"memory / {b}" for b in bases[:1])]
    lines = [head, "", "| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for arm, mine in runs.items():
        cells = [arm, f"{middle(mine, 'cpu_s'):.2f}", *(ratios(mine, runs[b], "cpu_s") for b in bases)]
        cells += [f"{middle(mine, 'peak_mib'):.0f}", *(ratios(mine, runs[b], "peak_mib") for b in bases[:1])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines + [f"\n{arm}: left out, {reason}" for arm, reason in found["left_out"].items()])


def middle(runs: Sequence[Run], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def ratios(runs: Sequence[Run], base: Sequence[Run], key: str) -> str:
    values = [mine[key] / max(other[key], 1e-9) for mine, other in zip(runs, base, strict=True)]
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1536, help="response tokens N")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size H")
    parser.add_argument("--vocab", type=int, default=151936, help="vocabulary V")
    parser.add_argument("--chunk", type=int, default=0, help="nopsd's tokens a tile; 0: distill.logit_chunk's default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--peer-python", default=os.environ.get("NOPSD_TRL_PYTHON"), help="interpreter with the peers")
    parser.add_argument("--json", help="write all figures there")
    args = parser.parse_args(argv)
    found = measure(args)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
