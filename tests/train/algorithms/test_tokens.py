"""SFT, GRPO and OPSA on real ZeRO-3 engines, 1 and 2 ranks, canned responses: splits, brute force, resume, SIGTERM."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.train.algorithms.rewards import group_advantages
from nopsd.train.batches import batch_uids
from nopsd.train.sampling import request_names
from tests.models import save_small
from tests.rounding import GRADIENT, NOTHING
from tests.train.algorithms import worker_tokens as worker

pytestmark = [pytest.mark.slow, pytest.mark.engine]
HERE = Path(__file__).parent
CASES = ("sft", "majority", "certainty", "opsa", "lora", "grpo_resume", "sft_resume", "ulysses")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("model"), vocab_size=worker.VOCABULARY, initializer_range=0.1)


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> dict[int, dict[str, Any]]:
    """By ranks and case: 1 rank with micro-batches of 4, 2 ranks with micro-batches of 2."""
    out = tmp_path_factory.mktemp("tokens")
    run_ranks(HERE / "worker_tokens.py", {"model": model, "out": out, "cases": CASES}, 1, 2, timeout=900)
    return {
        world: {p.name.split("-")[0]: torch.load(p, weights_only=True) for p in out.glob(f"*-{world}.pt")}
        for world in (1, 2)
    }


@pytest.mark.parametrize("case", ["sft", "majority", "certainty", "opsa", "lora", "ulysses"])
def test_losses_gradients_and_log_do_not_depend_on_ranks_and_micro_batches(runs, case):
    """An advantage of another response, or a mean over a micro-batch's tokens alone, shows here; with `ulysses`, where
    two ranks compute each sequence of `certainty` together, a row that is counted twice."""
    one, two = runs[1]["certainty" if case == "ulysses" else case], runs[2][case]
    varying = {"time", "memory", "logprob_gap_max", "logprob_gap_high"}
    for row, other in zip(one["rows"], two["rows"], strict=True):
        assert row.keys() == other.keys()
        for name in row:
            if name.split("/")[0] not in varying:
                assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-5, nan_ok=True), name
    for name, gradient in one["gradient"].items():
        if "lora_A" not in name:  # which has no gradient while B is 0
            assert float(gradient.norm()) > 0, name
        assert float((gradient - two["gradient"][name]).norm()) < 2 * GRADIENT * float(gradient.norm()) + NOTHING, name
    assert two["sharded"] and len({round(row["grad_norm"], 5) for row in one["rows"]}) == 2


def rollouts_of_first_step() -> list[Any]:
    uids = batch_uids(worker.UIDS, 0, 3, 0)
    return [
        worker.canned(name, worker.PROMPTS[uid], sample, 0, 0)
        for uid, name in zip(uids, request_names(uids))
        for sample in range(3)
    ]


def log_probs(lm: Any, prompt: list[int], response: list[int]) -> Any:
    """[T, V] of the positions that predict the response."""
    return lm(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


def first_loss(case: str, lm: Any) -> torch.Tensor:
    """The first step's loss by the definition: plain loops over whole logits in float64."""
    if case == "sft":
        pairs = [(worker.PROMPTS[u], choose(u)) for u in batch_uids(worker.UIDS, 0, 3, 0)]
        tokens = sum(len(response) for _, response in pairs)
        return -sum(log_probs(lm, p, y)[t, token] for p, y in pairs for t, token in enumerate(y)) / tokens
    rollouts = rollouts_of_first_step()
    rows = [log_probs(lm, r.prompt_ids, r.response_ids) if r.response_ids else None for r in rollouts]
    if case == "opsa":
        return opsa_loss(rollouts, rows)
    if case == "majority":
        rewards = votes([r.text for r in rollouts])
    else:
        rewards = [0.0 if z is None else float((-z.detach().mean(-1) - math.log(z.shape[1])).mean()) for z in rows]
    advantages = group_advantages(rewards, 3, 1e-6)
    total = torch.zeros((), dtype=torch.float64)
    for rollout, logp, advantage in zip(rollouts, rows, advantages):
        for t, token in enumerate(rollout.response_ids):
            own = logp[t, token]
            old = rollout.logprobs[t] if case == "majority" else own.detach()
            ratio = (own - old).exp()
            total = total - torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)  # KL to itself: no gradient
    return total / sum(len(r.response_ids) for r in rollouts)


def opsa_loss(rollouts: list[Any], rows: list[Any]) -> torch.Tensor:
    """The half of each response's tokens of the lowest log-prob, weighed from −½ to −1 by their entropies."""
    losses = []
    for rollout, logp in zip(rollouts, rows):
        if logp is None:
            continue
        own = [logp[t, token] for t, token in enumerate(rollout.response_ids)]
        entropy = [float(-(z.exp() * z).sum()) for z in logp.detach()]
        chosen = sorted(range(len(own)), key=lambda t: own[t].item())[: max(1, len(own) // 2)]
        least, most = min(entropy[t] for t in chosen), max(entropy[t] for t in chosen)
        weights = [-1.0 if most == least else -0.5 - 0.5 * (entropy[t] - least) / (most - least) for t in chosen]
        ratios = [(own[t] - own[t].detach()).exp() for t in chosen]
        losses.append(-sum(weight * ratio for weight, ratio in zip(weights, ratios)) / len(chosen))
    return torch.stack(losses).mean()


def votes(texts: list[str]) -> list[float]:
    found = []
    for start in range(0, len(texts), 3):
        letters = [text[8] if text[8] in "AB" else None for text in texts[start : start + 3]]
        counts = {a: letters.count(a) for a in letters if a}
        best = next((a for a in letters if a and counts[a] == max(counts.values())), None)
        found += [float(a is not None and a == best) for a in letters]
    return found


def choose(uid: str) -> list[int]:
    import random

    return worker.RESPONSES[uid][random.Random(f"0/0/{uid}").randrange(len(worker.RESPONSES[uid]))]


@pytest.mark.parametrize("case", ["sft", "majority", "certainty", "opsa"])
def test_the_engines_first_gradient_is_the_definitions(runs, model: Path, case: str):
    """What the engines do together, against one plain model: rows, rewards, advantages, ratios, weights."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    loss = first_loss(case, lm)
    loss.backward()
    found = runs[2][case]
    assert found["rows"][0]["loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    for name, parameter in lm.named_parameters():
        assert parameter.grad is not None
        difference = float((found["gradient"][name].double() - parameter.grad).norm())
        assert difference < 1e-4 * float(parameter.grad.norm()) + 1e-7, name


def test_every_row_tells_what_the_log_promises(runs):
    """A number that isn't logged isn't watched by any guard."""
    row = runs[2]["majority"]["rows"][1]
    promised = (
        "loss loss_tokens student_entropy logprob_gap logprob_gap_high logprob_gap_max reward_mean reward_std "
        "zero_advantage_share majority_share unparsed_share ratio clip_frac response_length_mean truncated_share "
        "repeated_4grams grad_norm lr skipped_fraction policy_version staleness time/rollout time/reward "
        "time/reference time/student time/sync guard/min_entropy guard/max_entropy_ratio guard/min_length_ratio"
    )
    for name in promised.split():
        assert math.isfinite(row[name]), name
    assert 0 < row["clip_frac"] < 1 and row["ratio"] != 1 and "base_kl" not in row
    first, second = runs[2]["certainty"]["rows"]
    assert abs(first["base_kl"]) < 1e-9 < 1e-6 < second["base_kl"]  # the policy starts as the base, and leaves it
    assert first["ratio"] == 1 and first["clip_frac"] == 0 and "majority_share" not in first
    lora = runs[2]["lora"]["rows"]
    assert abs(lora[0]["base_kl"]) < 1e-9 < lora[1]["base_kl"]  # the reference is the student without its adapters
    assert runs[2]["majority"]["pushed"] == [0, 1, 2]


def test_fine_tuning_pushes_weights_only_where_the_probe_is_due(runs):
    """A push a step would make the whole of SFT wait for a server that nobody asks."""
    assert runs[2]["sft"]["pushed"] == [2]
    row = runs[2]["sft"]["rows"][1]
    assert "probe/unparsed_share" in row and "response_length_mean" not in row and row["target_length_mean"] > 1


@pytest.mark.parametrize("case", ["grpo_resume", "sft_resume"])
def test_ended_by_a_signal_and_resumed_it_is_the_unbroken_run_to_the_bit(runs, case: str):
    """With responses sampled ahead and a reference; another draw, order or moment after the resume would show."""
    found = runs[2][case]
    assert "stopped after step 3 of 4" in found["said"] and found["from"] == 3 and found["equal"]
    for before, after in zip(found["unbroken"], found["resumed"], strict=True):
        for name in before:
            if not name.startswith(("time/", "memory/")):
                assert after[name] == before[name] or math.isnan(before[name]), name
