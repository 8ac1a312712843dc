"""The vocabulary-sized products against float64: if these fail, losses or gradients of a model are wrong."""

import pytest
import torch

from nopsd.engine import cpu_bfloat16, products
from tests.pretended_gpu import half_precision_products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_equal_float64_of_the_same_weights(dtype, monkeypatch):
    """bfloat16 weights are widened a slice at a time, here of 8 rows, where the CPU can't multiply in it."""
    monkeypatch.setattr(products, "SLICE", 8)
    monkeypatch.setattr(cpu_bfloat16, "available", lambda: False)
    draw = torch.Generator().manual_seed(0)
    hidden_nH, weight_VH = (torch.randn(n, 16, generator=draw).to(dtype) for n in (5, 21))
    grad_nV = torch.randn(5, 21, generator=draw)
    out_nV, grad_nH, grad_VH = torch.empty(5, 21), torch.empty(5, 16), torch.ones(21, 16)
    products.project(hidden_nH, weight_VH, out_nV)
    products.grad_input(grad_nV, weight_VH, grad_nH)
    products.add_weight_gradient(grad_nV, hidden_nH, grad_VH)
    wide_nH, wide_VH, wide_nV = hidden_nH.double(), weight_VH.double(), grad_nV.double()
    torch.testing.assert_close(out_nV.double(), wide_nH @ wide_VH.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_nH.double(), wide_nV @ wide_VH, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_VH.double(), 1 + wide_nV.T @ wide_nH, rtol=1e-5, atol=1e-5)


def test_a_gpus_products_are_those_of_the_rounded_factors(monkeypatch):
    """On a pretended device: a wrong argument would end the first step there, a float32 copy its memory."""
    monkeypatch.setattr(products, "_tensor_cores", lambda factor, result: factor.dtype != result.dtype)
    draw = torch.Generator().manual_seed(0)
    hidden_nH, weight_VH = (torch.randn(n, 16, generator=draw).bfloat16() for n in (5, 21))
    grad_nV = torch.randn(5, 21, generator=draw)
    out_nV, grad_nH, grad_VH = torch.empty(5, 21), torch.empty(5, 16), torch.ones(21, 16)
    with half_precision_products():
        products.project(hidden_nH, weight_VH, out_nV)
        products.grad_input(grad_nV, weight_VH, grad_nH)
        products.add_weight_gradient(grad_nV, hidden_nH, grad_VH)
    wide_nH, wide_VH, low_nV = hidden_nH.double(), weight_VH.double(), grad_nV.bfloat16().double()
    torch.testing.assert_close(out_nV.double(), wide_nH @ wide_VH.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_nH.double(), low_nV @ wide_VH, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_VH.double(), 1 + low_nV.T @ wide_nH, rtol=1e-5, atol=1e-5)


def test_a_gradient_in_bfloat16_is_rounded_once():
    """Summed in bfloat16, it would lose digits at every slice."""
    grad_nV, weight_VH = torch.randn(4, 300), torch.randn(300, 8)
    out_nH, exact_nH = torch.empty(4, 8, dtype=torch.bfloat16), torch.empty(4, 8)
    products.grad_input(grad_nV, weight_VH, out_nH)
    products.grad_input(grad_nV, weight_VH, exact_nH)
    assert torch.equal(out_nH, exact_nH.bfloat16())


needs_instructions = pytest.mark.skipif(not cpu_bfloat16.available(), reason="this CPU doesn't multiply in bfloat16")


@needs_instructions
@pytest.mark.parametrize("tokens, vocabulary, width", [(1, 1, 2), (4, 21, 16), (6, 1100, 34), (128, 513, 64)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_in_bfloat16_sum_in_float32(tokens, vocabulary, width, threads):
    """Of bfloat16 factors as they are, of float32 gradients rounded once: as a GPU's tensor cores."""
    draw = torch.Generator().manual_seed(0)
    hidden_nH, weight_VH = (torch.randn(n, width, generator=draw).bfloat16() for n in (tokens, vocabulary))
    grad_nV = torch.randn(tokens, vocabulary, generator=draw)
    out_nV, grad_VH = torch.empty(tokens, vocabulary), torch.ones(vocabulary, width)
    grad_nH = torch.empty(tokens, width, dtype=torch.bfloat16)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        products.project(hidden_nH, weight_VH, out_nV)
        products.grad_input(grad_nV, weight_VH, grad_nH)
        products.add_weight_gradient(grad_nV, hidden_nH, grad_VH)
    finally:
        torch.set_num_threads(before)
    wide_nH, wide_VH, wide_nV = hidden_nH.double(), weight_VH.double(), grad_nV.bfloat16().double()
    sums = {"rtol": 1e-5, "atol": 1e-5 * vocabulary**0.5}
    torch.testing.assert_close(out_nV.double(), wide_nH @ wide_VH.T, rtol=1e-5, atol=1e-5 * width**0.5)
    torch.testing.assert_close(grad_nH.double(), wide_nV @ wide_VH, rtol=2**-8, atol=2e-3)
    exact_nV = grad_nV.double() if tokens % 2 else wide_nV  # an odd number of tokens can't be taken in pairs
    torch.testing.assert_close(grad_VH.double(), 1 + exact_nV.T @ wide_nH, **sums)


@needs_instructions
def test_slices_of_larger_buffers_are_multiplied_right():
    """The loss's tiles are rows of larger buffers, and its vocabulary a part of the weight."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 32, generator=draw).bfloat16(), torch.randn(700, 32, generator=draw).bfloat16()
    buffer = torch.zeros(16, 600)
    products.project(hidden[2:7], weight[:600], buffer[:5])
    torch.testing.assert_close(buffer[:5], hidden[2:7].float() @ weight[:600].float().T, rtol=1e-5, atol=1e-4)
    assert not buffer[5:].any()


@needs_instructions
def test_what_does_not_fit_is_widened():
    """An odd width can't be read in pairs, a float32 hidden state would lose digits."""
    draw = torch.Generator().manual_seed(0)
    for width, dtype in ((15, torch.bfloat16), (16, torch.float32)):
        hidden, weight = (
            torch.randn(4, width, generator=draw).to(dtype),
            torch.randn(9, width, generator=draw).bfloat16(),
        )
        out = torch.empty(4, 9)
        products.project(hidden, weight, out)
        torch.testing.assert_close(out, hidden.float() @ weight.float().T, rtol=1e-6, atol=1e-6)
