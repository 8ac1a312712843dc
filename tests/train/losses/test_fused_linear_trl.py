"""The fused loss in float32 against TRL's SDFT trainer on the same tokens: loss and gradients to 1e-5.

TRL is given float64: in float32 its tail bucket, log(1 − Σ top-k), is itself off by 3e-5 of the gradient here.
TRL is no dependency: it lies in the peers' environment (tests/setup_peers.sh).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.config import DistillConfig
from nopsd.train.batches import sequence_weights
from tests.programs import run_peer
from tests.train.losses.fused import fused_loss

VERSION = "1.16.0"
LENGTHS, H, V = (9, 14, 5), 16, 500
TOPK = {"distillation_mode": "topk_logits", "distillation_topk": 20}
KINDS = {0.0: {"divergence": "forward_kl"}, 0.5: {"divergence": "jsd"}, 1.0: {"divergence": "reverse_kl"}}
# ours, TRL's
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (kind | ours, {"distillation_alpha": alpha} | theirs)
    for alpha, kind in KINDS.items()
    for ours, theirs in (
        ({}, {"distillation_mode": "full_logits"}),
        ({"support": "topk", "topk": 20, "tail": "bucket"}, TOPK | {"distillation_add_tail": True}),
        ({"support": "topk", "topk": 20, "tail": "renorm"}, TOPK | {"distillation_add_tail": False}),
        (
            {"support": "topk", "topk": 20, "tail": "renorm", "is_clip": 2.0},
            TOPK | {"distillation_add_tail": False, "distillation_is_clip": 2.0},
        ),
    )
] + [({"divergence": "sampled_rkl"}, {"distillation_alpha": 1.0, "distillation_mode": "sampled_token"})]


@pytest.fixture(scope="module")
def tokens() -> dict[str, torch.Tensor]:
    """Hidden states and weights of both roles, sampled ids, their rollout log-probs; rows of all sequences in a row."""
    generator, N = torch.Generator().manual_seed(0), sum(LENGTHS)
    student = torch.randn(N, H, generator=generator)
    weight = torch.randn(V, H, generator=generator)
    logp = (student @ weight.t()).log_softmax(-1)
    target = torch.multinomial(logp.exp(), 1, generator=generator)[:, 0]
    rollout = logp.gather(-1, target[:, None])[:, 0] + torch.randn(N, generator=generator)  # ratios on both sides of 2
    return {
        "student": student,
        "weight": weight,
        "teacher": student + torch.randn(N, H, generator=generator),
        "teacher_weight": weight + 0.1 * torch.randn(V, H, generator=generator),
        "target": target,
        "rollout": rollout,
    }


def rectangle(rows: torch.Tensor) -> torch.Tensor:
    """TRL's layout `[B, T, …]`, padded on the right."""
    return torch.nn.utils.rnn.pad_sequence(rows.split(LENGTHS), batch_first=True)


@pytest.fixture(scope="module")
def trl(tokens: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plain = {"distillation_is_clip": None, "distillation_topk": None, "distillation_add_tail": False}
    given = {
        "student": rectangle(tokens["student"].double() @ tokens["weight"].double().t()),
        "teacher": rectangle(tokens["teacher"].double() @ tokens["teacher_weight"].double().t()),
        "ids": rectangle(tokens["target"]),
        "rollout": rectangle(tokens["rollout"].double()),
        "mask": rectangle(torch.ones(sum(LENGTHS))),
        "settings": [plain | theirs for _, theirs in CASES],
    }
    script = Path(__file__).with_name("trl_reference.py")
    return dict(run_peer("trl", script, given, tmp_path_factory.mktemp("trl")))


def test_it_is_the_version_we_compare_with(trl: dict[str, Any]):
    assert trl["version"] == VERSION


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{t['distillation_alpha']}-{o}" for o, t in CASES])
def test_loss_and_gradients_equal_trls_sdft(tokens: dict[str, torch.Tensor], trl: dict[str, Any], case: int):
    """SDFT averages within a sequence, then over sequences: `aggregation: seq_mean_token_mean`."""
    config = DistillConfig(**CASES[case][0], logit_chunk=8)
    of_sequence = sequence_weights(LENGTHS, "seq_mean_token_mean")
    weights = torch.tensor([w for w, n in zip(of_sequence, LENGTHS) for _ in range(n)])
    leaves = tokens["student"].clone().requires_grad_(), tokens["weight"].clone().requires_grad_()
    loss = fused_loss(
        *leaves,
        tokens["teacher"],
        tokens["teacher_weight"],
        weights,
        config,
        target_N=tokens["target"],
        served_N=tokens["rollout"],
    ).loss
    found = torch.autograd.grad(loss, leaves)
    expected, by_logits = trl["found"][case]
    by_logits = torch.cat([row[:n] for row, n in zip(by_logits, LENGTHS)])
    wanted = by_logits @ tokens["weight"].double(), by_logits.t() @ tokens["student"].double()
    errors = [abs(loss.item() - expected.item()) / max(1.0, abs(expected.item()))]
    errors += [float((f - w).norm() / w.norm()) for f, w in zip(found, wanted)]
    print(f"loss {loss.item():.6f}, relative errors of loss, hidden's and weight's gradient: {errors}")
    assert math.isfinite(loss.item()) and expected.abs() > 1e-3
    assert max(errors) < 1e-5
