"""Run by the interpreter that has triton, under TRITON_INTERPRET=1: the fused loss by both kernels, case by case.

python triton_reference.py IN.pt OUT.pt     in: a list of (DistillConfig's keys, tensors); out: what each gave
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from nopsd.config import DistillConfig
from tests.train.losses.fused import fused_loss


def fused(keys: dict[str, Any], kernel: str, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    leaves = given["hidden"].clone().requires_grad_(), given["weight"].clone().requires_grad_()
    result = fused_loss(
        *leaves,
        given["teacher"],
        given["teacher_weight"],
        given["token_weight"],
        DistillConfig(**keys, kernel=kernel, logit_chunk=4),
        target_N=given["target"],
        served_N=given["served"],
        vocab_size=given["vocab_size"],
        with_statistics=True,
    )
    result.loss.backward()
    assert result.sums is not None and result.student_logprob_N is not None and result.reverse_kl_N is not None
    return {
        "loss": result.loss.detach(),
        "hidden": leaves[0].grad,
        "weight": leaves[1].grad,
        "sums": result.sums,
        "logprob": result.student_logprob_N,
        "reverse_kl": result.reverse_kl_N,
    }


def main() -> None:
    cases = torch.load(sys.argv[1], weights_only=True)
    torch.save(
        [{kernel: fused(*case[:1], kernel, case[1]) for kernel in ("torch", "triton")} for case in cases], sys.argv[2]
    )


if __name__ == "__main__":
    main()
