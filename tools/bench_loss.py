"""Time and memory of the distillation loss, forward and backward, against its alternatives (SPEC §6.4).

    python tools/bench_loss.py                                # small sizes, under 2 minutes
    python tools/bench_loss.py --tokens 1536 --hidden 256 --vocab 151936 --chunk 128 --repeats 5

Each run of a variant is a process of its own, and the variants take turns, so that neither the allocator nor
another load on the machine favours one. CPU seconds (all threads) and the peak resident memory above the
inputs' are compared as ratios to the fused loss, median and range over the turns. Variants:

    fused       nopsd's loss as trained with (no statistics)
    fused+log   the same with the training log's statistics
    full        plain torch: both sides' whole [N, V] logits
    checkpoint  plain torch, a chunk at a time under activation checkpointing: projects again in the backward
    products    the bare four matrix products, a chunk at a time: the floor
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nopsd.config import DistillConfig
from nopsd.distill.divergence import reverse_kl
from nopsd.distill.fused_linear import fused_linear_divergence


def inputs(tokens: int, hidden: int, vocab: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher hidden states [N, H] and output weights [V, H], the teacher's close by."""
    generator = torch.Generator().manual_seed(0)
    student_NH = torch.randn(tokens, hidden, generator=generator)
    weight_VH = torch.randn(vocab, hidden, generator=generator) / math.sqrt(hidden)
    teacher_NH = student_NH + 0.1 * torch.randn(tokens, hidden, generator=generator)
    return student_NH.requires_grad_(), weight_VH.requires_grad_(), teacher_NH, weight_VH.detach()


def fused(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, chunk: int, log: bool = False) -> float:
    target_N = torch.zeros(len(h), dtype=torch.int64) if log else None
    loss = fused_linear_divergence(
        h, w, th, tw, torch.full((len(h),), 1 / len(h)), DistillConfig(logit_chunk=chunk),
        target_N=target_N, with_statistics=log,
    ).loss  # fmt: skip
    loss.backward()
    return loss.item()


def fused_log(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, chunk: int) -> float:
    return fused(h, w, th, tw, chunk, log=True)


def full(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, chunk: int) -> float:
    del chunk
    loss = _plain(h, w, th, tw) / len(h)
    loss.backward()
    return loss.item()


def checkpointed(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, chunk: int) -> float:
    tiles = zip(h.split(chunk), th.split(chunk))
    parts = [checkpoint(_plain, a, w, b, tw, use_reentrant=False) for a, b in tiles]
    loss = torch.stack(parts).sum() / len(h)
    loss.backward()
    return loss.item()


def products(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, chunk: int) -> float:
    with torch.no_grad():
        grad_w, out_nV = torch.zeros_like(w), torch.empty(chunk, len(w))
        for a, b in zip(h.split(chunk), th.split(chunk)):
            torch.mm(b, tw.t(), out=out_nV[: len(a)])
            torch.mm(a, w.t(), out=out_nV[: len(a)])
            torch.mm(out_nV[: len(a)], w)
            grad_w.addmm_(out_nV[: len(a)].t(), a)
    return math.nan


def _plain(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    with torch.no_grad():
        teacher_NV = (th @ tw.t()).log_softmax(-1)
    return reverse_kl((h @ w.t()).log_softmax(-1), teacher_NV).sum()


VARIANTS: dict[str, Callable[..., float]] = {
    "fused": fused, "fused+log": fused_log, "full": full, "checkpoint": checkpointed, "products": products,
}  # fmt: skip


def measure(args: argparse.Namespace) -> None:
    """One variant in this process: one line of JSON with CPU seconds, peak MiB above the inputs, and the loss."""
    torch.set_num_threads(args.threads)
    tensors = inputs(args.tokens, args.hidden, args.vocab)
    # a small first run, so that neither threads nor libraries are started inside the measured one
    VARIANTS[args.variant](*inputs(4, 8, 64), 2)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    loss = VARIANTS[args.variant](*tensors, args.chunk)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"cpu_s": seconds, "peak_mib": peak / 1024, "loss": loss}))


def run(variant: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--variant", variant]
    for name in ("tokens", "hidden", "vocab", "chunk", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=_environment())
    result: dict[str, float] = json.loads(finished.stdout)
    return result


def _environment() -> dict[str, str]:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def compare(args: argparse.Namespace) -> None:
    """All variants in turns, every other turn in reverse order, then the table."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for turn in range(args.repeats):
        for name in list(VARIANTS)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(run(name, args))
            print(f"turn {turn + 1}/{args.repeats} {name}: {found[name][-1]}", file=sys.stderr)
    print(f"tokens {args.tokens}, hidden {args.hidden}, vocabulary {args.vocab}, chunk {args.chunk}, float32, "
          f"{args.threads} thread(s), {args.repeats} turns; ratios to `fused` of the same turn: median [least, most]\n")
    print("| variant | CPU s | ratio | peak MiB | ratio | loss |\n|---|---|---|---|---|---|")
    for name, runs in found.items():
        cells = [name]
        for key in ("cpu_s", "peak_mib"):
            values = [r[key] for r in runs]
            cells += [f"{statistics.median(values):.2f}", _ratios(values, [r[key] for r in found["fused"]])]
        print("| " + " | ".join([*cells, f"{runs[0]['loss']:.6f}"]) + " |")


def _ratios(values: Sequence[float], base: Sequence[float]) -> str:
    ratios = [value / max(other, 1e-9) for value, other in zip(values, base)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512, help="response tokens N")
    parser.add_argument("--hidden", type=int, default=128, help="hidden size H")
    parser.add_argument("--vocab", type=int, default=16384, help="vocabulary V")
    parser.add_argument("--chunk", type=int, default=64, help="tokens a tile (distill.logit_chunk)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=list(VARIANTS), help="measure one variant in this process")
    args = parser.parse_args()
    measure(args) if args.variant else compare(args)


if __name__ == "__main__":
    main()
