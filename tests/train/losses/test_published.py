"""Losses of published methods as their presets have them, on numbers worked out by hand, in float64."""

import math
from dataclasses import replace

import pytest
import torch

from nopsd.config import load_config
from tests.train.losses.reference import token_divergence


def loss_of(method, p, q, **changed):
    """The loss of one token by the method's preset, and its gradient by the student's logits."""
    logits = torch.tensor(p, dtype=torch.float64).log().requires_grad_()
    teacher = torch.tensor(q, dtype=torch.float64).log()
    config = replace(load_config(None, [f"method={method}"]).distill, **changed)
    value = token_divergence(config, logits.log_softmax(-1)[None], teacher[None])[0]
    value.backward()
    return value.item(), logits.grad.tolist()


def test_nopsd_fkl_caps_each_term_of_the_forward_kl_before_the_sum():
    """Terms .529 and −.161: capped, the sum is −.111, and the gradient's direction is the other one.

    Capped after the sum it would be +.05, without a gradient.
    """
    whole, plain = loss_of("nopsd_fkl", [0.5, 0.5], [0.9, 0.1], pointwise_clip=None)
    assert whole == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), abs=1e-12)
    assert plain == pytest.approx([-0.4, 0.4])  # p − q
    capped, gradient = loss_of("nopsd_fkl", [0.5, 0.5], [0.9, 0.1])
    assert capped == pytest.approx(0.05 + 0.1 * math.log(0.2), abs=1e-12)
    assert gradient == pytest.approx([0.05, -0.05])


def test_opcd_counts_the_tail_of_the_students_top_ids_as_one_class():
    """The student's top id of three, and the rest: classes (.5, .5) and (.6, .4)."""
    value, _ = loss_of("opcd", [0.5, 0.3, 0.2], [0.6, 0.3, 0.1], topk=1)
    assert value == pytest.approx(0.00505939, abs=1e-8)


def test_canon_is_the_symmetric_jsd():
    """Half of KL(p‖m) and half of KL(q‖m), m halfway; nothing to learn where the teacher agrees."""
    value, _ = loss_of("canon", [0.5, 0.5], [0.9, 0.1])
    assert value == pytest.approx(0.101749, abs=1e-6)
    same, gradient = loss_of("canon", [0.7, 0.3], [0.7, 0.3])
    assert same == pytest.approx(0, abs=1e-12) and gradient == pytest.approx([0, 0], abs=1e-12)
