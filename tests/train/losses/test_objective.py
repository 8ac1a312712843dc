"""Every objective the configuration allows against plain Python, differences and autograd."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import Tensor

from nopsd.config import Config, DistillConfig, validate
from nopsd.errors import ConfigError
from nopsd.train.losses.fused_linear import FusedResult
from nopsd.train.losses.tile import STATISTICS, auxiliaries
from tests.train.losses.fused import fused_loss
from tests.train.losses.naive_objective import softmax, token_loss
from tests.train.losses.reference import divergence, token_divergence

N, V = 5, 7
NAMES = ("base", "ctx_only", "random_ctx")
KINDS = [{"divergence": "reverse_kl"}, {"divergence": "forward_kl"}, {"divergence": "jsd", "beta": 0.3}]
SUPPORTS = [{}] + [
    {"support": "topk", "topk": 3, "topk_of": of, "tail": tail}
    for of in ("student", "teacher")
    for tail in ("bucket", "renorm", "stopgrad", "none")
]
PMI = {"target": "pmi", "pmi_clip": 1.5, "pmi_beta": 2.0}
TARGETS = [{}, PMI, {"target": "barycenter"}, {"contrast": "random_ctx"}]
EXTRAS = [
    {},
    {"token_clip": 0.4},
    {"is_clip": 1.3},
    {"mask_high_entropy": 1.4},
    {"kl_base_coef": 0.7},
    {"temperature": 1.6},
    {"token_clip": 0.5, "is_clip": 1.2, "mask_high_entropy": 1.6, "kl_base_coef": 0.3},
]


def allowed(**keys) -> bool:
    try:
        validate(Config(distill=DistillConfig(**keys)))
    except ConfigError:
        return False
    return True


def name_of(keys: dict) -> str:
    return "-".join(str(value) for value in keys.values()) or "full"


BASES = [
    kind | support | clip
    for kind, support, clip in itertools.product(KINDS, SUPPORTS, ({}, {"pointwise_clip": 0.06}))
    if allowed(**kind, **support, **clip)
] + [{"divergence": "sampled_rkl"}]
PLAIN = [keys for keys in BASES if "pointwise_clip" not in keys and keys["divergence"] != "sampled_rkl"]


def combinations(base: dict) -> list[DistillConfig]:
    every = [base | target | extra for target, extra in itertools.product(TARGETS, EXTRAS)]
    return [DistillConfig(**keys, logit_chunk=2) for keys in every if allowed(**keys)]


class Inputs:
    """Logits-as-hidden-states (the weight is the identity), so that the hidden gradient is that of the logits."""

    def __init__(self, n: int = N, v: int = V, hidden: int | None = None, seed: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return 1.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)

        h = hidden or v
        self.hidden, self.teacher = draw(n, h), draw(n, h)
        self.aux = {name: draw(n, h) for name in NAMES}
        self.weight = torch.eye(v, dtype=torch.float64) if hidden is None else draw(v, h)
        self.token_weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
        self.target = torch.randint(v, (n,), generator=generator)
        self.served = -torch.rand(n, generator=generator, dtype=torch.float64) * 4
        self.served[1:2] = math.nan

    def fused(self, c: DistillConfig, leaves: tuple[Tensor, Tensor] | None = None, **more) -> FusedResult:
        hidden, weight = leaves or (self.hidden, self.weight)
        other = self.weight.detach()
        return fused_loss(
            hidden,
            weight,
            self.teacher,
            other,
            self.token_weight,
            c,
            target_N=self.target,
            served_N=self.served,
            aux_hidden={name: self.aux[name] for name in auxiliaries(c)},
            **more,
        )

    def leaves(self) -> tuple[Tensor, Tensor]:
        return self.hidden.clone().requires_grad_(), self.weight.clone().requires_grad_()


@cache
def constants(x: Inputs, n: int, temperature: float) -> tuple[list[list[float]], dict[str, list[float]]]:
    """The probabilities that no difference moves: the frozen student's and the teacher's; the auxiliary ones."""
    p, q, *aux = (softmax([z / temperature for z in t[n].tolist()]) for t in (x.hidden, x.teacher, *x.aux.values()))
    return [p, q], dict(zip(x.aux, aux))


def naive(c: DistillConfig, x: Inputs, n: int, row: list[float]) -> float:
    (frozen, teacher), aux = constants(x, n, c.temperature)
    served = math.nan if c.temperature != 1 else float(x.served[n])
    p = softmax([z / c.temperature for z in row])
    return float(x.token_weight[n]) * token_loss(c, p, frozen, teacher, aux, int(x.target[n]), served)


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_values_and_gradients_against_plain_python_and_finite_differences(base):
    """The fused gradient must be the derivative of the objective as written, whatever is switched on together."""
    x, step = Inputs(), 1e-6
    for i, c in enumerate(combinations(base)):
        leaves = x.leaves()
        loss = x.fused(c, leaves).loss
        (gradient,) = torch.autograd.grad(loss, leaves[:1])
        rows = x.hidden.tolist()
        assert loss.item() == pytest.approx(sum(naive(c, x, n, rows[n]) for n in range(N)), abs=1e-11), c
        n = i % N  # the differences of one row, another for each combination
        for v in range(V):
            ends = []
            for sign in (1, -1):
                moved = [*rows[n]]
                moved[v] += sign * step
                ends.append(naive(c, x, n, moved))
            assert abs((ends[0] - ends[1]) / (2 * step) - gradient[n, v].item()) < 3e-8, (c, n, v)


def autograd_loss(c: DistillConfig, x: Inputs, leaves: tuple[Tensor, Tensor]) -> Tensor:
    def log_probs(hidden: Tensor, weight: Tensor) -> Tensor:
        return (hidden @ weight.t() / c.temperature).log_softmax(-1)

    p, q, other = log_probs(*leaves), log_probs(x.teacher, x.weight), {}
    for name, hidden in x.aux.items():
        other[name] = log_probs(hidden, x.weight)
    loss_N = token_divergence(c, p, q, x.target)
    if c.kl_base_coef:
        loss_N = loss_N + c.kl_base_coef * divergence("reverse_kl", p, other["base"])
    return (x.token_weight * loss_N).sum()


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_gradients_of_hidden_states_and_weight_against_autograd(base):
    """Several tiles, a weight that mixes: both of the fused gradients, not only that of the logits."""
    x = Inputs(n=7, v=23, hidden=4)
    for extra in ({}, {"kl_base_coef": 0.5}, {"temperature": 1.3}):
        c, leaves = DistillConfig(**base, **extra, logit_chunk=3), x.leaves()
        fused, reference = x.fused(c, leaves).loss, autograd_loss(c, x, leaves)
        torch.testing.assert_close(fused, reference, rtol=1e-11, atol=1e-12)
        found, wanted = torch.autograd.grad(fused, leaves), torch.autograd.grad(reference, leaves)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_zero_at_equality_in_float32(base):
    """A student that equals its teacher must not be moved; the forward KL without tail alone moves it (`support`)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 64, generator=generator).requires_grad_()
    weight = torch.randn(3000, 64, generator=generator).requires_grad_()
    c = DistillConfig(**base | ({"topk": 50} if "topk" in base else {}), logit_chunk=4)
    target = torch.randint(3000, (6,), generator=generator)
    result = fused_loss(hidden, weight, hidden, weight, torch.full((6,), 1 / 6), c, target_N=target)
    gradients = torch.autograd.grad(result.loss, (hidden, weight))
    assert abs(result.loss.item()) < 1e-6
    biased = (c.divergence, c.support, c.tail) == ("forward_kl", "topk", "none")
    assert (max(float(g.abs().max()) for g in gradients) < 1e-6) != biased


def is_divergence(base):
    """Never negative by definition: not stopgrad, nor a forward KL that leaves its tail out."""
    return base.get("tail") != "stopgrad" and (base["divergence"], base.get("tail")) != ("forward_kl", "none")


@pytest.mark.parametrize("base", filter(is_divergence, PLAIN), ids=name_of)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_divergences_are_not_negative_and_the_bucket_never_exceeds_the_full(base, scale):
    """In float32 and up to wildly different distributions."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(9, 32, generator=generator), torch.randn(800, 32, generator=generator)
    other = hidden + scale * torch.randn(9, 32, generator=generator)
    for one_token in torch.eye(9):

        def loss_of(keys, chosen=one_token):
            return float(fused_loss(hidden, weight, other, weight, chosen, DistillConfig(**keys)).loss)

        loss = loss_of(base)
        assert loss >= -3e-7
        if base.get("tail") == "bucket":
            full = loss_of({k: v for k, v in base.items() if k in ("divergence", "beta")})
            assert loss <= full * (1 + 1e-5) + 3e-7


def fused_and_exact(logits, c):
    """The fused loss in float32 and its gradient, and both in float64 from the definition. `logits`: [2, 1, V]."""
    eye = torch.eye(logits.shape[-1])
    student, teacher = logits.float()
    leaf = student.requires_grad_()
    loss = fused_loss(leaf, eye, teacher, eye, torch.ones(1), c).loss
    (found,) = torch.autograd.grad(loss, leaf)
    wide = logits[0].clone().requires_grad_()
    exact = token_divergence(c, wide.log_softmax(-1), logits[1].log_softmax(-1)).sum()
    (wanted,) = torch.autograd.grad(exact, wide)
    return loss, found, exact, wanted


@pytest.mark.parametrize("of", ["student", "teacher"])
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_the_buckets_tail_keeps_its_digits_where_the_top_k_hold_nearly_everything(kind, of):
    """1 − Σ top-k in float32 is noise below 1e-7; a tail of 1e-8 (student) against 1e-7 must still be told apart."""
    logits = torch.zeros(2, 1, 400, dtype=torch.float64)
    logits[:, 0, :2] = torch.tensor([[24.5, 24.0], [22.2, 22.4]], dtype=torch.float64)
    c = DistillConfig(**kind, support="topk", topk=2, topk_of=of)
    loss, found, exact, wanted = fused_and_exact(logits, c)
    torch.testing.assert_close(found[:, 2:].double(), wanted[:, 2:], rtol=1e-3, atol=0)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-3, abs=2e-7)


@pytest.mark.parametrize("of", ["student", "teacher"])
@pytest.mark.parametrize("gap", [60.0, 120.0, 400.0])
def test_a_tail_that_the_student_all_but_excludes_is_pulled_up_in_float32(gap, of):
    """exp(-120) is 0 in float32: held at the smallest number, the loss was too small and no id of the tail moved."""
    logits = torch.zeros(2, 1, 12, dtype=torch.float64)
    logits[0, 0, :2] = torch.tensor([gap, gap - 1.0], dtype=torch.float64)
    logits[0, 0, 2:] = torch.linspace(0, 2, 10, dtype=torch.float64)
    logits[1, 0, :2] = torch.tensor([2.0, 1.5], dtype=torch.float64)
    c = DistillConfig(divergence="forward_kl", support="topk", topk=2, topk_of=of, tail="bucket")
    loss, found, exact, wanted = fused_and_exact(logits, c)
    assert wanted[0, 2:].abs().min() > 0.01
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("base", PLAIN[1:4], ids=name_of)
def test_a_top_k_of_the_whole_vocabulary_is_the_full_support(base):
    x = Inputs()
    full = {k: v for k, v in base.items() if k in ("divergence", "beta")}
    losses = [x.fused(DistillConfig(**keys)).loss for keys in (full, base | {"topk": V}, base | {"topk": V + 5})]
    assert losses[0] == losses[1] == losses[2]


def test_sampled_reverse_kl_is_the_reverse_kl_gradient_on_average():
    """E_{y∼p} of the one-token gradient, summed over all y; an advantage that isn't detached would show."""
    x = Inputs(n=1)
    p = x.hidden[0].softmax(-1)
    mean = torch.zeros_like(x.hidden)
    for y in range(V):
        x.target, leaves = torch.tensor([y]), x.leaves()
        c = DistillConfig(divergence="sampled_rkl")
        mean += p[y] * torch.autograd.grad(x.fused(c, leaves).loss, leaves[:1])[0]
    leaves = x.leaves()
    (exact,) = torch.autograd.grad(x.fused(DistillConfig(), leaves).loss, leaves[:1])
    torch.testing.assert_close(mean, exact)


def test_a_mixed_teacher_has_interpolated_logits():
    """Trust region: c = 0 and 1 are the two teachers themselves."""
    x, c = Inputs(v=9, hidden=4), DistillConfig(temperature=1.2, logit_chunk=2)
    second_hidden, second_weight = x.aux["base"], x.weight.flip(0)
    p = (x.hidden @ x.weight.t() / 1.2).log_softmax(-1)
    for mix in (0.0, 0.25, 1.0):
        z = (1 - mix) * x.teacher @ x.weight.t() + mix * second_hidden @ second_weight.t()
        expected = (x.token_weight * divergence("reverse_kl", p, (z / 1.2).log_softmax(-1))).sum()
        loss = x.fused(c, teacher_mix=(second_hidden, second_weight, mix)).loss
        torch.testing.assert_close(loss, expected)


def test_what_the_log_tells_of_the_clips():
    """Shares of tokens capped, negative and masked, the ratio as capped, the pull to the base."""
    x = Inputs()
    x.token_weight[4] = 0.0  # a dummy counts for nothing
    clip = {"pointwise_clip": 0.05, "token_clip": 0.05, "mask_high_entropy": 1.5, "is_clip": 1.5, "kl_base_coef": 1.0}
    c = DistillConfig(**clip, logit_chunk=2)
    stats = {name: float(total) for name, total in zip(STATISTICS, x.fused(c, with_statistics=True).sums)}
    p, q = x.hidden.log_softmax(-1)[:4], x.teacher.log_softmax(-1)[:4]
    terms = p.exp() * (p - q)
    capped = (terms > 0.05).any(-1)
    loss = terms.clamp_max(0.05).sum(-1)
    capped |= loss > 0.05
    masked = -(p.exp() * p).sum(-1) > 1.5
    ratio = torch.nan_to_num(p[range(4), x.target[:4]] - x.served[:4], nan=0.0).exp().clamp_max(1.5)
    negative = (loss.clamp_max(0.05) < 0) & ~masked
    base = divergence("reverse_kl", p, x.aux["base"].log_softmax(-1)[:4])
    assert 0 < capped.sum() and 0 < masked.sum() < 4 and negative.any()  # the case has something of each
    expected = {
        "tokens": 4.0,
        "clip_frac": capped.sum(),
        "mask_frac": masked.sum(),
        "neg_frac": negative.sum(),
        "is_ratio": ratio.sum(),
        "base_kl": base.sum(),
    }
    for name, value in expected.items():
        assert stats[name] == pytest.approx(float(value)), name


@pytest.mark.parametrize("base", BASES, ids=name_of)
def test_bfloat16_and_no_tokens(base):
    """bfloat16 inputs are computed in float32; a rank without tokens still gets a loss and gradients of 0."""
    x = Inputs(v=40, hidden=8)
    extra = {"kl_base_coef": 0.5} | ({} if base["divergence"] == "sampled_rkl" else {"token_clip": 2.0})
    c = DistillConfig(**base, **extra, logit_chunk=2)
    low, wide = Inputs(v=40, hidden=8), Inputs(v=40, hidden=8)
    for name in ("hidden", "weight", "teacher"):
        setattr(low, name, getattr(x, name).bfloat16())
        setattr(wide, name, getattr(x, name).bfloat16().double())
    low.aux = {name: t.bfloat16() for name, t in x.aux.items()}
    wide.aux = {name: t.double() for name, t in low.aux.items()}
    found, exact = low.fused(c, low.leaves()).loss, wide.fused(c).loss
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    empty = Inputs(n=2, v=40, hidden=8)
    for name in ("hidden", "teacher", "token_weight", "target", "served"):
        setattr(empty, name, getattr(empty, name)[:0])
    empty.aux = {name: t[:0] for name, t in empty.aux.items()}
    leaves = empty.leaves()
    result = empty.fused(c, leaves, with_statistics=True)
    result.loss.backward()
    assert result.loss == 0 and not leaves[1].grad.any() and leaves[0].grad.shape == (0, 8)


def test_missing_inputs_are_named():
    x = Inputs()
    rows = (x.hidden, x.weight, x.teacher, x.weight, x.token_weight)
    with pytest.raises(ValueError, match="ctx_only"):
        fused_loss(*rows, DistillConfig(target="pmi"), aux_hidden={"base": x.aux["base"]})
    with pytest.raises(ValueError, match="target_N"):
        fused_loss(*rows, DistillConfig(divergence="sampled_rkl"))
    with pytest.raises(ValueError, match="served_N"):
        fused_loss(*rows, DistillConfig(is_clip=2.0), target_N=x.target)
