"""TRL's self-distillation loss on given logits, by the interpreter that has TRL (test_fused_linear_trl.py).

usage: trl_reference.py IN.pt OUT.pt   In: student and teacher logits [B, T, V], ids, mask and rollout log-probs [B, T],
and a list of settings (fields of SDFTConfig). Out: (loss, gradient of the student's logits) of each.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
import trl
from trl.experimental.sdft.sdft_trainer import DistillationLogits, SDFTTrainer


def main() -> None:
    given = torch.load(sys.argv[1], weights_only=True)
    found = []
    for settings in given["settings"]:
        student = given["student"].clone().requires_grad_()
        trainer = SimpleNamespace(
            args=SimpleNamespace(**settings),
            accelerator=SimpleNamespace(gather=lambda value: value),
            _log_self_distillation_metric=lambda mode, value: None,
        )
        loss = SDFTTrainer._compute_self_distillation_loss(
            trainer,
            SimpleNamespace(training=True),
            {"old_per_token_logps": given["rollout"]},
            DistillationLogits(given["ids"], given["mask"], student, given["teacher"]),
        )
        loss.backward()
        found.append((loss.detach(), student.grad))
    torch.save({"version": trl.__version__, "found": found}, sys.argv[2])


if __name__ == "__main__":
    main()
