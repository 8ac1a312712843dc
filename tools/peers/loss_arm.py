"""One arm of tools/bench_loss.py in this process, by whichever interpreter has its library.

    python loss_arm.py ARM N H V THREADS CHUNK [FILE]

Prints one line of JSON: CPU seconds and peak memory of a forward and backward, and the loss. The first run counts for
memory, the second, with threads and libraries started, for time. With FILE, the loss and both gradients go there
instead (torch.save), and nothing is timed. CHUNK 0: the arm's own default.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

import torch
from losses import LOSSES
from measure import Spent
from torch import Tensor

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
OWN = ("nopsd", "nopsd+log", "products")


def inputs(tokens: int, hidden: int, vocab: int) -> Inputs:
    """Student hidden [N, H] and weight [V, H], then the teacher's, close by; the same in every process."""
    generator = torch.Generator().manual_seed(0)
    student_NH, apart_NH = (torch.randn(tokens, hidden, generator=generator) for _ in range(2))
    weight_VH, moved_VH = (torch.randn(vocab, hidden, generator=generator) / math.sqrt(hidden) for _ in range(2))
    teacher_NH, teacher_VH = student_NH + 0.1 * apart_NH, moved_VH.mul_(0.01).add_(weight_VH)
    return student_NH.requires_grad_(), weight_VH.requires_grad_(), teacher_NH, teacher_VH


def arm_of(name: str, chunk: int) -> Callable[..., Tensor]:
    if name == "products":
        return lambda *tensors: products(*tensors, chunk or 128)
    if name in OWN:
        return lambda *tensors: nopsd(*tensors, chunk, log=name == "nopsd+log")
    return LOSSES[name]


def nopsd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, chunk: int, log: bool) -> Tensor:
    """The loss as trained with; `log`: with the statistics of the training log, which `learn` always asks for."""
    from nopsd.config import DistillConfig
    from nopsd.train.losses.fused_linear import DistillInputs, fused_linear_divergence

    config = DistillConfig(logit_chunk=chunk) if chunk else DistillConfig()
    target_N = torch.zeros(len(h), dtype=torch.int64) if log else None
    inputs = DistillInputs(th, tw, torch.ones(len(h)), target_N, with_statistics=log)
    return fused_linear_divergence(h, w, inputs, config).loss


def products(h: Tensor, w: Tensor, th: Tensor, tw: Tensor, chunk: int) -> Tensor:
    """The four matrix products that no exact loss can do without, a chunk at a time: a floor, not a loss."""
    with torch.no_grad():
        grad_h, grad_w, out_nV = torch.empty_like(h), torch.zeros_like(w), torch.empty(min(chunk, len(h)), len(w))
        for a, b, grad in zip(h.split(chunk), th.split(chunk), grad_h.split(chunk)):
            torch.mm(b, tw.t(), out=out_nV[: len(a)])
            torch.mm(a, w.t(), out=out_nV[: len(a)])
            torch.mm(out_nV[: len(a)], w, out=grad)
            grad_w.addmm_(out_nV[: len(a)].t(), a)
    h.grad, w.grad = grad_h, grad_w
    return torch.tensor(math.nan)


def run(arm: Callable[..., Tensor], tensors: Inputs) -> tuple[Spent, float]:
    """A forward and backward; the gradients are left in place, and count as the arm's memory."""
    tensors[0].grad = tensors[1].grad = None
    with Spent() as spent:
        loss = arm(*tensors)
        if loss.requires_grad:
            loss.backward()
    return spent, loss.item()


def main(name: str, tokens: int, hidden: int, vocab: int, threads: int, chunk: int, file: str | None) -> None:
    torch.set_num_threads(threads)
    arm, tensors = arm_of(name, chunk), inputs(tokens, hidden, vocab)
    if file:
        _, loss = run(arm, tensors)
        torch.save({"loss": loss, "hidden": tensors[0].grad, "weight": tensors[1].grad}, file)
        return
    run(arm, inputs(4, 8, 64))  # starts threads and libraries
    memory, _ = run(arm, tensors)
    spent, loss = run(arm, tensors)
    print(json.dumps({"cpu_s": spent.cpu_s, "wall_s": spent.wall_s, "peak_mib": memory.peak_mib, "loss": loss}))


if __name__ == "__main__":
    main(sys.argv[1], *[int(x) for x in sys.argv[2:7]], sys.argv[7] if len(sys.argv) > 7 else None)
