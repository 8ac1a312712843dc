"""The fused loss: equal to plain autograd and finite differences, whatever the tiling, and lean."""

import pytest
import torch

from nopsd.engine import cpu_bfloat16, products
from nopsd.train.losses.tile import STATISTICS, Tile, divergence_and_gradient
from tests.train.losses.fused import KINDS, H, N, V, config, fused_loss, inputs, log_probs, plain
from tests.train.losses.reference import entropy, forward_kl, reverse_kl


def loss_and_gradients(loss, *leaves):
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def both(c, dtype=torch.float64, **shape):
    """(loss, grad hidden, grad weight) of the fused loss and of plain autograd."""
    hidden, weight, *teacher, token_weight, _ = inputs(dtype, **shape)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    fused = fused_loss(*leaves, *teacher, token_weight, c).loss
    return loss_and_gradients(fused, *leaves), loss_and_gradients(plain(*leaves, *teacher, token_weight, c), *leaves)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("kind, beta", KINDS)
def test_fused_equals_autograd(kind, beta, temperature):
    fused, reference = both(config(kind, beta, temperature))
    torch.testing.assert_close(fused, reference, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_fused_against_finite_differences(kind, beta):
    """Central differences of the fused loss itself, so a fault shared with the reference would show too."""
    hidden, weight, *rest, token_weight, _ = inputs(n=3, v=6)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    c, step = config(kind, beta, 1.3, chunk=2), 1e-6
    _, *gradients = loss_and_gradients(fused_loss(*leaves, *rest, token_weight, c).loss, *leaves)
    for leaf, gradient in zip(leaves, gradients):
        for index in range(leaf.numel()):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    leaf.view(-1)[index] += sign * step
                    ends.append(fused_loss(*leaves, *rest, token_weight, c).loss)
                    leaf.view(-1)[index] -= sign * step
            assert abs((ends[0] - ends[1]) / (2 * step) - gradient.view(-1)[index]) < 1e-7


@pytest.mark.parametrize("kind, beta", KINDS)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 20.0])
def test_fused_not_negative_in_float32(kind, beta, scale):
    """Nearly equal up to wildly different distributions: float32's rounding must not make a divergence negative."""
    hidden, weight, _, _, token_weight, _ = inputs(torch.float32, v=5000, h=64)
    other = hidden + scale * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(9))
    for one_token in torch.eye(N):
        loss = fused_loss(hidden, weight, other, weight, one_token, config(kind, beta)).loss
        exact = plain(hidden.double(), weight.double(), other.double(), weight.double(), one_token, config(kind, beta))
        assert loss >= -2e-7
        torch.testing.assert_close(loss.double(), exact, rtol=2e-5, atol=3e-7)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_fused_is_zero_at_equality(kind, beta):
    """Equal student and teacher give a loss under 1e-6 and no gradient, in float32."""
    hidden, weight, *_ = inputs(torch.float32, v=5000, h=64)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    loss, *gradients = loss_and_gradients(
        fused_loss(*leaves, hidden, weight, torch.full((N,), 1 / N), config(kind, beta)).loss, *leaves
    )
    assert abs(loss) < 1e-6
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients)


def test_tied_weight_gets_no_gradient_through_the_teacher():
    """Student and teacher may share one weight (a live teacher); only the student's use of it counts."""
    hidden, weight, teacher_hidden, _, token_weight, _ = inputs()
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    fused = fused_loss(*leaves, teacher_hidden, weight, token_weight, config()).loss
    reference = plain(*leaves, teacher_hidden, weight.detach(), token_weight, config())
    torch.testing.assert_close(loss_and_gradients(fused, *leaves), loss_and_gradients(reference, *leaves))


def test_tied_embedding_gets_both_gradients():
    """A weight that is embedding and head at once receives the sum of its two uses."""
    _, weight, teacher_hidden, teacher_weight, token_weight, ids = inputs()
    weight.requires_grad_()
    hidden = torch.tanh(weight[ids])
    fused = fused_loss(hidden, weight, teacher_hidden, teacher_weight, token_weight, config()).loss
    reference = plain(torch.tanh(weight[ids]), weight, teacher_hidden, teacher_weight, token_weight, config())
    torch.testing.assert_close(loss_and_gradients(fused, weight), loss_and_gradients(reference, weight))


@pytest.mark.parametrize("chunk", [1, 3, N, 1000])
def test_chunk_size_changes_nothing(chunk):
    hidden, weight, *teacher, token_weight, target = inputs()
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    results = [
        fused_loss(*leaves, *teacher, token_weight, config(chunk=size), target_N=target, with_statistics=True)
        for size in (chunk, 4)
    ]
    torch.testing.assert_close(*(loss_and_gradients(r.loss, *leaves) for r in results))
    torch.testing.assert_close(*(r.sums for r in results))
    torch.testing.assert_close(*(r.student_logprob_N for r in results))


def test_no_tokens_is_zero_and_still_connected():
    """A ZeRO rank without tokens must enter the backward, or the others hang."""
    hidden, weight, *teacher, token_weight, target = inputs(n=0)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    result = fused_loss(*leaves, *teacher, token_weight, config(), target_N=target, with_statistics=True)
    assert result.loss.item() == 0 and result.sums.abs().sum() == 0
    result.loss.backward()
    assert hidden.grad.shape == (0, H) and torch.equal(weight.grad, torch.zeros(V, H, dtype=torch.float64))


def test_ids_past_the_vocabulary_take_no_part():
    hidden, weight, teacher_hidden, teacher_weight, token_weight, _ = inputs()
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    cut = fused_loss(*leaves, teacher_hidden, teacher_weight[:35], token_weight, config(), vocab_size=33)
    reference = plain(hidden, weight[:33], teacher_hidden, teacher_weight[:33], token_weight, config())
    gradients = loss_and_gradients(cut.loss, *leaves)
    torch.testing.assert_close(gradients, loss_and_gradients(reference, *leaves))
    assert torch.equal(gradients[2][33:], torch.zeros(V - 33, H, dtype=torch.float64))


@pytest.mark.parametrize("multiplies", [False, True], ids=["widened", "in-bfloat16"])
@pytest.mark.parametrize("kind, beta", KINDS[:3])
def test_bfloat16_inputs_are_computed_in_float32(kind, beta, multiplies, monkeypatch):
    """Rounding the logits to bfloat16 would cost about 1e-2 here; only gradients may be rounded: the returned ones, and
    on a CPU that multiplies in bfloat16 the logits' too, which are then a factor."""
    if multiplies and not cpu_bfloat16.available():
        pytest.skip("this CPU doesn't multiply in bfloat16")
    monkeypatch.setattr(cpu_bfloat16, "available", lambda: multiplies)
    monkeypatch.setattr(products, "SLICE", 16)  # several slices of the vocabulary
    hidden, weight, *teacher, token_weight, _ = inputs(torch.bfloat16)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    low = loss_and_gradients(fused_loss(*leaves, *teacher, token_weight, config(kind, beta)).loss, *leaves)
    wide = [t.detach().double() for t in (*leaves, *teacher)]
    wide_leaves = wide[0].requires_grad_(), wide[1].requires_grad_()
    exact = loss_and_gradients(plain(*wide_leaves, *wide[2:], token_weight, config(kind, beta)), *wide_leaves)
    assert low[0].dtype == torch.float32 and low[1].dtype == low[2].dtype == torch.bfloat16
    torch.testing.assert_close(low[0].double(), exact[0], rtol=1e-5, atol=1e-6)
    logits = (wide[0] @ wide[1].t()).detach().requires_grad_()
    eye = torch.eye(logits.shape[1], dtype=torch.float64)
    plain(logits, eye, *wide[2:], token_weight, config(kind, beta)).backward()
    absolute = (logits.grad.abs() @ wide[1].abs(), logits.grad.abs().t() @ wide[0].abs())
    for got, wanted, summands in zip(low[1:], exact[1:], absolute):
        # Rounded once to bfloat16's 8 bits: at most 2**-8 of the value; each factor before: 2**-9 of each summand.
        bound = 2**-8 * wanted.abs() + (2**-9 * summands if multiplies else 0) + 1e-6
        assert ((got.double() - wanted).abs() <= bound).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the GPU's mixed products need a GPU")
def test_bfloat16_products_on_a_gpu():
    """bfloat16 factors, float32 results: the branch of `products` that a CPU never takes."""
    cpu = [t.to(torch.bfloat16) for t in inputs(torch.float32, n=64, h=64, v=256)[:4]]
    token_weight = torch.full((64,), 1 / 64)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.detach().to(device).requires_grad_() for t in cpu[:2]]
        teacher = [t.to(device) for t in cpu[2:]]
        loss = fused_loss(*leaves, *teacher, token_weight.to(device), config(chunk=16)).loss
        assert loss.dtype == torch.float32
        results.append([t.double().cpu() for t in loss_and_gradients(loss, *leaves)])
    for got, wanted in zip(*results):
        torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-4)


@pytest.mark.parametrize("kind, beta", KINDS[:3])
def test_statistics_against_naive_computation(kind, beta):
    hidden, weight, teacher_hidden, teacher_weight, token_weight, target = inputs()
    token_weight[3] = 0  # a dummy: counts for nothing
    c = config(kind, beta, temperature=1.2)
    result = fused_loss(
        hidden, weight, teacher_hidden, teacher_weight, token_weight, c, target_N=target, with_statistics=True
    )
    kept = torch.arange(N) != 3
    p, q = log_probs(hidden, weight, 1.2), log_probs(teacher_hidden, teacher_weight, 1.2)
    expected = {
        "tokens": torch.tensor(N - 1.0),
        "reverse_kl": reverse_kl(p, q)[kept].sum(),
        "forward_kl": forward_kl(p, q)[kept].sum(),
        "student_entropy": entropy(p)[kept].sum(),
        "teacher_entropy": entropy(q)[kept].sum(),
        "student_logprob": p[torch.arange(N), target][kept].sum(),
        "teacher_logprob": q[torch.arange(N), target][kept].sum(),
        **naive_overlap(p[kept], q[kept]),
        **dict.fromkeys(("base_kl", "clip_frac", "neg_frac", "mask_frac", "is_ratio"), 0.0),  # all off
    }
    assert list(expected) == list(STATISTICS)
    stats = dict(zip(STATISTICS, result.sums))
    for name, value in expected.items():
        assert stats[name].item() == pytest.approx(float(value), rel=1e-12), name
    torch.testing.assert_close(result.student_logprob_N, p[torch.arange(N), target])
    torch.testing.assert_close(result.reverse_kl_N, reverse_kl(p, q))
    assert not result.sums.requires_grad and not result.student_logprob_N.requires_grad


def naive_overlap(p, q, k=16):
    totals = {"top16_overlap": 0.0, "top16_student_mass": 0.0, "top16_teacher_mass": 0.0}
    for row_p, row_q in zip(p, q):
        shared = list(set(row_p.argsort()[-k:].tolist()) & set(row_q.argsort()[-k:].tolist()))
        totals["top16_overlap"] += len(shared) / k
        totals["top16_student_mass"] += row_p[shared].exp().sum().item()
        totals["top16_teacher_mass"] += row_q[shared].exp().sum().item()
    return totals


def test_statistics_change_neither_loss_nor_gradient():
    hidden, weight, *teacher, token_weight, target = inputs()
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    for kind, beta in KINDS[:3]:
        on = fused_loss(*leaves, *teacher, token_weight, config(kind, beta), target_N=target, with_statistics=True)
        off = fused_loss(*leaves, *teacher, token_weight, config(kind, beta))
        assert off.sums is None and off.student_logprob_N is None
        torch.testing.assert_close(loss_and_gradients(on.loss, *leaves), loss_and_gradients(off.loss, *leaves))


def test_gradient_is_scaled_by_what_follows_and_taken_once():
    """DeepSpeed divides the loss by the accumulation steps; a second backward must fail, not give zeros."""
    hidden, weight, *teacher, token_weight, _ = inputs()
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    loss = fused_loss(*leaves, *teacher, token_weight, config()).loss / 4
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    reference = torch.autograd.grad(plain(*leaves, *teacher, token_weight, config()) / 4, leaves)
    torch.testing.assert_close(once, reference)
    with pytest.raises(RuntimeError, match="taken already"):
        torch.autograd.grad(loss, leaves)


def test_wrong_shapes_are_named():
    hidden, weight, teacher_hidden, teacher_weight, token_weight, target = inputs()
    with pytest.raises(ValueError, match="student 40, teacher 39"):
        fused_loss(hidden, weight, teacher_hidden, teacher_weight[:39], token_weight, config())
    with pytest.raises(ValueError, match="rows differ"):
        fused_loss(hidden, weight, teacher_hidden[1:], teacher_weight, token_weight, config())
    with pytest.raises(ValueError, match="student's output weight.*gathered"):
        fused_loss(hidden, weight[:0, 0], teacher_hidden, teacher_weight, token_weight, config())
    with pytest.raises(ValueError, match="vocab_size 41"):
        fused_loss(hidden, weight, teacher_hidden, teacher_weight, token_weight, config(), vocab_size=41)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_rounding_of_a_normaliser_enters_squared(kind, beta):
    """float32 normalisers are off by up to 1e-6; as a plain sum that would be the loss's error, either sign."""
    student = log_probs(*inputs()[:2])
    tile = Tile(student=student + 1e-4, teacher=student.clone(), scratch=torch.empty_like(student))
    values = divergence_and_gradient(tile, kind, beta, both=True)
    for loss in (values.loss, values.reverse, values.forward):
        assert loss.abs().max() < 1e-8
