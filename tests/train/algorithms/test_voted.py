"""Methods among a question's own rollouts: token weights by hand in float64, gradients against autograd, examples."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nopsd.config import DistillConfig, TtpoConfig, load_config
from nopsd.data.prompts import TeacherPrompt
from nopsd.data.records import Option, Question
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.voted import Ttpo, Uopsd, scaled, token_parts
from nopsd.train.batches import Batching, rank_micro_batches
from nopsd.train.losses.fused_linear import DistillInputs, fused_linear_divergence
from nopsd.train.metrics import Clock
from nopsd.train.planning import Limits
from nopsd.train.run import Step

NAN = float("nan")
QUESTION = Question("q", "d", "s", "Which?", (Option("A", "one"), Option("B", "two")))
DOUBLE = {"dtype": torch.float64}


def test_values_are_scaled_to_a_quantile():
    """Q_.98 of (1, 2, 3) is 2.96; all alike is 0, not 0/0."""
    assert scaled(torch.tensor([1.0, 2, 3], **DOUBLE), 0.98).tolist() == pytest.approx([0, 1 / 1.96, 1])
    assert scaled(torch.ones(3), 0.98).tolist() == [0, 0, 0]


def test_weights_of_what_is_distilled_and_slopes_of_what_is_pushed_down():
    """Ĥ (0, .5, 1, 0), Δ̂ (0, .5, 0, 1): w (0, .75, 1, 1). s (2, .5, 0) by −log p (2, 1, .5), whose median is in."""
    logprob = torch.tensor([[-2, -1, -0.5, -9], [-2, -1, -0.5, NAN]], **DOUBLE)
    entropy = torch.tensor([[1, 2, 3, 1], [1, 2, 3, NAN]], **DOUBLE)
    kl = torch.tensor([[-0.1, 0.5, 0, 1], [4, 4, 4, NAN]], **DOUBLE)
    weights, slopes = token_parts(logprob, entropy, kl, [None, -0.57735], TtpoConfig(quantile=1.0))
    assert weights[0].tolist() == pytest.approx([0, 0.75, 1, 1]) and weights[1].tolist() == [1] * 4
    assert slopes[0].isnan().all() and slopes[1].tolist() == pytest.approx([0.057735, 0.057735, 0, NAN], nan_ok=True)
    assert float((slopes[1, :3] * logprob[1, :3]).sum() / 3) == pytest.approx(-0.057735)


def test_a_pushed_down_tokens_gradient_is_that_of_its_log_prob():
    """In one tile with distilled tokens: each row's loss and gradient by autograd on plain logits, float64."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 6, **DOUBLE), torch.randn(11, 6, **DOUBLE)
    taught, target = torch.randn(4, 6, **DOUBLE), torch.tensor([1, 7, 3, 0])
    token_weight, slope = torch.tensor([0.1, 0.2, 0.3, 0.4], **DOUBLE), torch.tensor([NAN, 0.5, NAN, 2.0], **DOUBLE)
    config = DistillConfig(divergence="forward_kl", pointwise_clip=0.05, temperature=1.1, logit_chunk=3)
    for own in (config, replace(config, pointwise_clip=None)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        inputs = DistillInputs(taught, None, token_weight, target, policy_N=slope)
        fused_linear_divergence(h, w, inputs, own).loss.backward()
        g, v = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        log_p = (g @ v.T / 1.1).log_softmax(-1)
        log_q = (taught @ weight.T / 1.1).log_softmax(-1)
        terms = log_q.exp() * (log_q - log_p)
        terms = terms if own.pointwise_clip is None else terms.clamp(max=0.05)
        by_policy = slope.nan_to_num(0) * log_p[range(4), target]
        loss = (token_weight * torch.where(slope.isnan(), terms.sum(-1), by_policy)).sum()
        loss.backward()
        assert torch.allclose(h.grad, g.grad, atol=1e-12) and torch.allclose(w.grad, v.grad, atol=1e-12)


class Renderer:
    """What is shown, as the ids of its characters, before the question's."""

    def teacher(self, question, shown, max_tokens):
        ids = [*map(ord, shown[0].solution), 1]
        return TeacherPrompt(ids if len(ids) <= max_tokens else [1], int(len(ids) <= max_tokens), 1)


def prepared(kind, method, texts, *settings):
    """The examples of a step of one question, whose rollouts have these answers and falling lengths."""
    config = load_config(None, [f"method={method}", f"train.n={len(texts)}", *settings])
    algorithm = kind(questions={"q": QUESTION}, renderer=Renderer())
    rollouts = [
        Rollout("q", i, [1], list(range(2, 9 - i)), f"{text * (i + 1)}<answer>{text}</answer>", "stop", 0)
        for i, text in enumerate(texts)
    ]
    run = SimpleNamespace(config=config, student_prompts={"q": [1]})
    return algorithm, algorithm.examples(run, Step(0, ["q"], rollouts, Clock()))


def test_u_opsd_shows_a_whole_response_and_trains_on_one_that_disagrees():
    algorithm, (example,) = prepared(Uopsd, "u_opsd", "AABA")
    assert bytes(example.teacher_prompt[:-1]).decode() == "AAAA<answer>A</answer>"  # sample 3, the shortest
    assert example.place == 2 and example.response == list(range(2, 7)) and algorithm.advantages == [None]
    assert algorithm.vote == {"skipped_share": 0, "trained_responses": 1, "majority_share": 0.75}


def test_ttpo_shows_the_answer_alone_and_pushes_the_others_down():
    algorithm, examples = prepared(Ttpo, "ttpo", "ABAA", "ttpo.train_n=2")
    assert {bytes(e.teacher_prompt[:-1]).decode() for e in examples} == {"<answer>A</answer>"}
    assert [e.place for e in examples] == [3, 1]
    assert algorithm.advantages == [None, pytest.approx(-1.73205, abs=1e-5)]


@pytest.mark.parametrize("limit", ["", "context.max_prompt=3"])
def test_a_step_that_teaches_nothing_has_a_loss_of_nothing(limit):
    """All agree, or the solution doesn't fit: ranks still go through the step, with no token of any weight."""
    texts = "ABAA" if limit else "AAAA"
    algorithm, examples = prepared(Uopsd, "u_opsd", texts, *filter(None, [limit]))
    assert algorithm.vote == {"skipped_share": 1, "trained_responses": 0}
    for group in range(2):
        for batch in rank_micro_batches(examples, group, 2, Batching(Limits(2))):
            assert batch.weights_N.tolist() == [0.0]
