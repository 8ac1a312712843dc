"""GRPO's loss against TRL's trainer on the same tokens: loss, gradients and clip share to 1e-5; the group's deviation.

TRL is no dependency: it lies in the peers' environment (tests/setup_peers.sh).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.train.algorithms.rewards import group_advantages
from nopsd.train.losses.grpo import GrpoLoss
from nopsd.train.losses.token_loss import fused_linear_token_loss
from tests.programs import run_peer

VERSION = "1.16.0"
LENGTHS, H, V, N_GROUP = (9, 14, 5, 7), 16, 500, 4
REWARDS = [[1.0, 0.0, 0.0, 1.0], [3.5, 3.25, 4.0, 1.0]]
CASES = [
    {"beta": beta, "epsilon": epsilon, "loss_type": kind, "old": old}
    for beta in (0.0, 0.05)
    for epsilon, old in ((0.2, True), (0.02, True), (0.2, False))
    for kind in ("dapo", "bnpo")
]


@pytest.fixture(scope="module")
def tokens() -> dict[str, torch.Tensor]:
    """Hidden states, weight, sampled ids, old and reference log-probs; rows of all sequences in a row."""
    generator, N = torch.Generator().manual_seed(0), sum(LENGTHS)
    hidden, weight = torch.randn(N, H, generator=generator), torch.randn(V, H, generator=generator)
    logp = (hidden @ weight.t()).log_softmax(-1)
    target = torch.multinomial(logp.exp(), 1, generator=generator)[:, 0]
    own = logp.gather(-1, target[:, None])[:, 0]
    return {
        "hidden": hidden,
        "weight": weight,
        "target": target,
        "old": own + 0.3 * torch.randn(N, generator=generator),  # ratios on both sides of the clip
        "reference": own + 0.5 * torch.randn(N, generator=generator),
    }


ADVANTAGES = group_advantages(REWARDS[0], N_GROUP, 1e-6)


def rectangle(rows: torch.Tensor) -> torch.Tensor:
    """TRL's layout `[B, T, …]`, padded on the right."""
    return torch.nn.utils.rnn.pad_sequence(rows.split(LENGTHS), batch_first=True)


@pytest.fixture(scope="module")
def trl(tokens: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    given = {
        "logits": rectangle(tokens["hidden"].double() @ tokens["weight"].double().t()),
        "ids": rectangle(tokens["target"]),
        "old": rectangle(tokens["old"].double()),
        "reference": rectangle(tokens["reference"].double()),
        "mask": rectangle(torch.ones(sum(LENGTHS))),
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        "settings": CASES,
        "rewards": torch.tensor(REWARDS, dtype=torch.float64),
    }
    script = Path(__file__).with_name("grpo_trl_reference.py")
    return dict(run_peer("trl", script, given, tmp_path_factory.mktemp("trl")))


def test_it_is_the_version_we_compare_with(trl: dict[str, Any]):
    """Another version's loss may be another: the comparison would be of nothing known."""
    assert trl["version"] == VERSION


def test_the_groups_deviation_is_trls(trl: dict[str, Any]):
    """n in place of n − 1 would scale every gradient by sqrt((n − 1)/n)."""
    for rewards, deviation in zip(REWARDS, trl["stds"].tolist()):
        mean = sum(rewards) / N_GROUP
        wanted = [(r - mean) / (deviation + 1e-4) for r in rewards]
        assert group_advantages(rewards, N_GROUP, 1e-4) == pytest.approx(wanted, rel=1e-6)  # TRL's n/(n − 1) is float32


@pytest.mark.parametrize("case", range(len(CASES)), ids=[",".join(map(str, c.values())) for c in CASES])
def test_loss_gradients_and_clip_share_equal_trls(tokens: dict[str, torch.Tensor], trl: dict[str, Any], case: int):
    """A sign, a one-sided clip, another mean over tokens, or the KL in the other direction shows here."""
    settings, N = CASES[case], sum(LENGTHS)
    advantage_N = torch.tensor([a for a, n in zip(ADVANTAGES, LENGTHS) for _ in range(n)])
    loss_of = GrpoLoss(
        advantage_N,
        tokens["old"] if settings["old"] else None,
        tokens["reference"] if settings["beta"] else None,
        settings["epsilon"],
        settings["beta"],
    )
    leaves = tokens["hidden"].clone().requires_grad_(), tokens["weight"].clone().requires_grad_()
    result = fused_linear_token_loss(*leaves, tokens["target"], torch.full((N,), 1 / N), loss_of, chunk=8)
    found = torch.autograd.grad(result.loss, leaves)
    expected, by_logits, metrics = trl["found"][case]
    by_logits = torch.cat([row[:n] for row, n in zip(by_logits, LENGTHS)])
    wanted = by_logits @ tokens["weight"].double(), by_logits.t() @ tokens["hidden"].double()
    errors = [abs(result.loss.item() - expected.item()) / max(1.0, abs(expected.item()))]
    errors += [float((f - w).norm() / w.norm()) for f, w in zip(found, wanted)]
    logged = dict(
        zip(
            ("ratio", "clip_frac", "base_kl"),
            (values.double().mean().item() for values in loss_of.logged_values(result.logprob_N)),
        )
    )
    print(f"loss {result.loss.item():.6f}, relative errors {errors}, {logged}, TRL's {metrics}")
    assert max(errors) < 1e-5 and float(wanted[0].norm()) > 1e-3
    assert result.entropy_N.double().mean().item() == pytest.approx(metrics["entropy"], rel=1e-5)
    if settings["beta"]:
        assert logged["base_kl"] == pytest.approx(metrics["kl"], rel=1e-4)
    assert logged["clip_frac"] == pytest.approx(metrics["clip_ratio/region_mean"], abs=1e-6)
    assert (0 < logged["clip_frac"] < 1) == settings["old"]
