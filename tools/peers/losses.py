"""Reverse KL from hidden states as other libraries compute it: arms of tools/bench_loss.py.

Each takes (student hidden [N, H], student weight [V, H], teacher hidden, teacher weight) and gives the sum over tokens
of KL(student ‖ teacher) in nats, with gradients to the first two. A library that starts from logits is given
`hidden @ weight.t()`, the teacher's without gradient, as its own trainer does. Imports are inside the functions: an
interpreter needs only the library it is asked for.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn.functional import kl_div

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")


def plain(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    """PyTorch's own functions on whole [N, V] logits."""
    student_NV, teacher_NV = (x.log_softmax(-1) for x in logits(h, w, th, tw))
    return kl_div(teacher_NV, student_NV, reduction="sum", log_target=True)


def trl_sdft(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    """What TRL's SDFTTrainer computes with distillation_mode="full_logits", its division by the temperature too."""
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

    student_NV, teacher_NV = (x[None] / 1.0 for x in logits(h, w, th, tw))
    return compute_full_logit_self_distillation_loss(student_NV, teacher_NV, distillation_alpha=1.0).sum()


def trl_distillation(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    """TRL's DistillationTrainer: vocabulary projected in tiles, again in the backward."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask_BN, total = torch.ones(1, len(h)), torch.tensor(1.0)
    return _chunked_divergence_loss(h[None], th[None], w, tw, mask_BN, beta=1.0, num_items_in_batch=total)[0]


def trl_gkd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    from trl.experimental.gkd import GKDTrainer

    student_NV, teacher_NV = (x[None] for x in logits(h, w, th, tw))
    labels = torch.zeros(1, len(h), dtype=torch.long)
    return GKDTrainer.generalized_jsd_loss(student_NV, teacher_NV, labels=labels, beta=1.0, reduction="sum")


def liger_jsd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    """Liger's chunked PyTorch path, which needs no GPU; it averages over tokens."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        beta=1.0, ignore_index=-100, temperature=1.0, compiled=False, weight_hard_loss=0.0, weight_soft_loss=1.0
    )
    found = loss(h, w, th, tw, torch.zeros(len(h), dtype=torch.long))
    return (found[0] if isinstance(found, tuple) else found) * len(h)


def deepspeed_opsd(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    """DeepSpeed's own OPSD loss (deepspeed.runtime.rollout)."""
    from deepspeed.runtime.rollout import generalized_jsd_loss

    student_NV, teacher_NV = (x[None] for x in logits(h, w, th, tw))
    return generalized_jsd_loss(student_NV, teacher_NV, torch.ones(1, len(h)), beta=1.0).loss_sum


def logits(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> tuple[Tensor, Tensor]:
    student_NV = h @ w.t()
    with torch.no_grad():
        return student_NV, th @ tw.t()


LOSSES = {
    "plain": plain,
    "trl-sdft": trl_sdft,
    "trl-distillation": trl_distillation,
    "trl-gkd": trl_gkd,
    "deepspeed": deepspeed_opsd,
    "liger-jsd": liger_jsd,
}
