"""Three steps of the loop with other objectives than the paper's, on real ZeRO-3 engines; started by `deepspeed`.

usage: worker_objectives.py MODELS_DIR OUT_DIR MICRO CASE [CASE ...]   Rank 0 writes OUT_DIR/CASE.pt for each case.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from worker_engines import (
    STUDENT_PROMPTS,
    TEACHER_PROMPTS,
    UIDS,
    CannedClient,
    build,
    config_of,
    ids,
    keep_first_gradient,
)

from nopsd.config import DistConfig, DistillConfig
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.train.loop import train

CASES = {
    "pmi": DistillConfig(
        target="pmi", pmi_beta=2.0, kl_base_coef=0.3, is_clip=1.5, support="topk", topk=20, logit_chunk=5
    ),
    "contrast": DistillConfig(
        divergence="jsd", contrast="random_ctx", token_clip=0.3, mask_high_entropy=5.0, logit_chunk=5
    ),
    "drift": DistillConfig(position_weight="drift", drift_scale=5.0, logit_chunk=5),
    "base_alone": DistillConfig(kl_base_coef=1.0),
}
AUX_PROMPTS = {name: {uid: ids(f"{name}{uid}", 4, 20) for uid in UIDS} for name in ("ctx_only", "random_ctx")}


class ClientWithLogprobs(CannedClient):
    """Canned log-probs too, far from the model's, so that the importance ratio differs from 1."""

    def generate(self, *args: Any, **more: Any) -> Any:
        rows = super().generate(*args, **more)
        return [[replace(r, logprobs=[-5.0 - (i % 3) for i in r.response_ids]) for r in row] for row in rows]


def run(case: str, model: Path, out: Path, ranks: Ranks, micro: int) -> dict[str, Any]:
    """Rows of the log, and the gradient of the first step."""
    config = config_of(micro)
    config.distill = CASES[case]
    # without demonstrations the teacher is the base: at the first step nothing but rounding may be left to learn
    teacher = TEACHER_PROMPTS
    if case == "base_alone":
        teacher = {uid: replace(p, ids=STUDENT_PROMPTS[uid]) for uid, p in TEACHER_PROMPTS.items()}
    d = build(config, model, out / f"work_{case}", ranks, teacher, aux_prompts=AUX_PROMPTS)
    d.client = ClientWithLogprobs()
    found = keep_first_gradient(d)
    train(d)
    return {"rows": list(d.log or ()), **found}


def main() -> None:
    models, out, micro, *cases = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    ranks = init_distributed(DistConfig(timeout_s=120))
    for case in cases:
        found = run(case, Path(models) / "tied", Path(out), ranks, int(micro))
        if ranks.is_main:
            torch.save(found, Path(out) / f"{case}.pt")
    ranks.barrier()
    shutdown_distributed()


if __name__ == "__main__":
    main()
