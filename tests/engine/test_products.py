"""The vocabulary-sized products against float64: if these fail, losses or gradients of a model are wrong."""

import pytest
import torch

from nopsd.engine import products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_equal_float64_of_the_same_weights(dtype, monkeypatch):
    """bfloat16 weights are widened a slice at a time, here of 8 rows."""
    monkeypatch.setattr(products, "SLICE", 8)
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


def test_a_gradient_in_bfloat16_is_rounded_once():
    """Summed in bfloat16, it would lose digits at every slice."""
    grad_nV, weight_VH = torch.randn(4, 300), torch.randn(300, 8)
    out_nH, exact_nH = torch.empty(4, 8, dtype=torch.bfloat16), torch.empty(4, 8)
    products.grad_input(grad_nV, weight_VH, out_nH)
    products.grad_input(grad_nV, weight_VH, exact_nH)
    assert torch.equal(out_nH, exact_nH.bfloat16())
