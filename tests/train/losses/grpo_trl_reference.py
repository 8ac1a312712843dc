"""TRL's GRPO loss on given logits, run by the interpreter that has TRL; started by test_grpo_trl.py.

usage: grpo_trl_reference.py IN.pt OUT.pt   In: logits [B, T, V], ids, mask, old and reference log-probs [B, T],
advantages [B], rewards [G, n], and a list of settings. Out: of each (loss, gradient of the logits, metrics); TRL's
standard deviations of the rewards.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import nanstd


def loss_of(given: dict, settings: dict) -> tuple:
    ids, mask = given["ids"], given["mask"]
    logits = given["logits"].clone().requires_grad_()
    logp = logits.log_softmax(-1)
    chosen, entropies = logp.gather(-1, ids[..., None])[..., 0], -(logp.exp() * logp).sum(-1)
    metrics = {"train": defaultdict(list)}
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
        reduce=lambda value, reduction: value,
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (chosen, entropies.detach(), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        importance_sampling_level="token",
        beta=settings["beta"],
        loss_type=settings["loss_type"],
        epsilon_low=settings["epsilon"],
        epsilon_high=settings["epsilon"],
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        accelerator=accelerator,
        _entropy_bonus_enabled=False,
        _metrics=metrics,
    )
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": given["advantages"],
        "ref_per_token_logps": given["reference"],
        "num_items_in_batch": mask.sum(),
    }
    if settings["old"]:
        inputs["old_per_token_logps"] = given["old"]
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.detach(), logits.grad, {name: float(values[-1]) for name, values in metrics["train"].items()}


def main() -> None:
    given = torch.load(sys.argv[1], weights_only=True)
    found = [loss_of(given, settings) for settings in given["settings"]]
    stds = nanstd(given["rewards"], dim=1)
    torch.save({"version": trl.__version__, "found": found, "stds": stds}, sys.argv[2])


if __name__ == "__main__":
    main()
