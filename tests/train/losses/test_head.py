"""DistillHead and DistillModel, in plain torch and under real two-rank ZeRO-3 (ANCHORS' trap of the empty lm_head)."""

import json
from pathlib import Path

import pytest
import torch

from nopsd.config import DistillConfig
from nopsd.errors import ConfigError
from nopsd.train.losses.fused_linear import DistillInputs
from nopsd.train.losses.head import DistillHead, DistillModel, gathered_weight, replace_head, response_hidden
from nopsd.train.losses.tile import STATISTICS
from tests.models import qwen3
from tests.train.losses.reference import divergence

CONFIG = DistillConfig(logit_chunk=3)
PROMPT, TEACHER_PROMPT, RESPONSE = [3, 4, 5], [9, 8, 7, 6, 4, 5], [10, 11, 12, 2]


def tiny(tied, seed=0, **more):
    return qwen3(seed, tie_word_embeddings=tied, **more)


@pytest.mark.parametrize("tied", [False, True])
def test_head_is_the_models_own_weight_and_projection(tied):
    """A copied weight would train a head that nobody exports; an untied one would double the parameters."""
    lm = tiny(tied)
    weight, names = lm.lm_head.weight, list(lm.state_dict())
    logits = lm(input_ids=torch.tensor([PROMPT])).logits
    head = install_head(lm, CONFIG)
    assert lm.lm_head is head and head.weight is weight
    assert (head.weight is lm.model.embed_tokens.weight) == tied
    assert list(lm.state_dict()) == names
    assert torch.equal(lm(input_ids=torch.tensor([PROMPT])).logits, logits)
    assert install_head(lm, CONFIG) is head


def test_model_whose_logits_are_not_linear_is_refused():
    lm = tiny(False)
    lm.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        install_head(lm, CONFIG)
    lm = tiny(False)
    lm.lm_head = torch.nn.Linear(16, 50)
    with pytest.raises(ConfigError, match="bias"):
        install_head(lm, CONFIG)


def install_head(lm, config, vocab_size=None):
    return replace_head(lm, DistillHead, lambda old: DistillHead(old, config, vocab_size))


def batch(prompts, responses, width):
    ids = torch.full((len(prompts), width), 1)
    rows = []
    for b, (prompt, response) in enumerate(zip(prompts, responses)):
        ids[b, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        rows += range(b * width + len(prompt) - 1, b * width + len(prompt) + len(response) - 1)
    return ids, torch.tensor(rows)


@pytest.mark.parametrize("tied", [False, True])
def test_model_equals_whole_logits_despite_padding(tied):
    """Right padding without a mask must change nothing: each sequence alone and unpadded is the reference."""
    lm, teacher = tiny(tied), tiny(tied, seed=1)
    prompts, teacher_prompts, responses = [PROMPT, [20]], [TEACHER_PROMPT, [21, 22]], [RESPONSE, [30, 31]]
    parameters = list(lm.parameters())
    reference = torch.zeros(())
    for prompt, teacher_prompt, response in zip(prompts, teacher_prompts, responses):
        p, q = (
            model(input_ids=torch.tensor([x + response])).logits[0, len(x) - 1 : -1].log_softmax(-1)
            for model, x in ((lm, prompt), (teacher, teacher_prompt))
        )
        reference = reference + divergence("reverse_kl", p, q.detach()).sum() / 6
    expected = torch.autograd.grad(reference, parameters)

    ids, rows = batch(prompts, responses, width=13)
    hidden = response_hidden(teacher, *batch(teacher_prompts, responses, width=15))
    with gathered_weight(teacher) as weight:
        result = DistillModel(lm, CONFIG)(ids, rows, DistillInputs(hidden, weight, torch.full((6,), 1 / 6)))
    torch.testing.assert_close(result.loss, reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(result.loss, parameters), expected, rtol=1e-4, atol=1e-6)
    assert not hidden.requires_grad and all(p.grad is None for p in teacher.parameters())
    assert result.sums[STATISTICS.index("tokens")] == 6 and result.student_logprob_N is None


def test_response_hidden_projects_to_the_models_logits_and_makes_none():
    lm = tiny(False)
    ids, rows = batch([PROMPT, [20]], [RESPONSE, [30, 31]], width=9)
    positions = []
    lm.lm_head.register_forward_hook(lambda _m, _a, out: positions.append(out.shape[:-1].numel()))
    hidden = response_hidden(lm, ids, rows)
    assert positions == [0]
    torch.testing.assert_close(hidden @ lm.lm_head.weight.t(), lm(input_ids=ids).logits.flatten(0, 1)[rows])


def test_a_rank_without_tokens_reaches_every_parameter():
    """Its backward must touch every module, or the other ranks wait for it in the reduction."""
    lm = tiny(False)
    nothing = torch.empty(0, dtype=torch.int64)
    inputs = DistillInputs(torch.zeros(0, 16), lm.lm_head.weight, torch.zeros(0), nothing)
    result = DistillModel(lm, CONFIG)(torch.tensor([[5]]), nothing, inputs)
    result.loss.backward()
    assert result.loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in lm.parameters())


def test_head_keeps_training_mode_and_vocabulary():
    lm = tiny(False).train()
    head = install_head(lm, CONFIG, vocab_size=48)
    assert isinstance(head, DistillHead) and head.training and head.vocab_size == 48


@pytest.mark.slow
def test_zero3_gradients_equal_plain_torch(deepspeed_run, tmp_path):
    """Tied and untied, with parameters really released, an idle rank, training, steps and evaluation."""
    finished = deepspeed_run(Path(__file__).with_name("worker_head.py"), tmp_path, timeout=420)
    seen = [json.loads(file.read_text()) for file in tmp_path.glob("*.seen*.json")]
    assert sorted((s["tied"], s["rank"]) for s in seen) == [(False, 0), (False, 1), (True, 0), (True, 1)]
    for s in seen:
        assert s["elements_outside"] == 0 and s["same_parameter"]
        assert s["size"] > 1e-3  # there is a gradient to be right about
        assert s["loss"] < 1e-5 and s["eval"] < 1e-5
        assert s["grad"] < 1e-5 * max(1.0, s["size"])
        assert s["sums"][0] == 5 + 2 + 5 + 3  # both ranks' tokens of the evaluated batch
    assert "unknown inputs or outputs" not in finished.output  # ZeRO-3's hooks see every tensor
