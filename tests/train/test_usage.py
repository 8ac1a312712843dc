"""nopsd.train.usage: the numbers of a step's memory, arithmetic and queue; a GPU is a pretended one."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nopsd.engine.distributed import Ranks
from nopsd.train.batches import Example
from nopsd.train.usage import GIB, Arithmetic, Usage, peak_flops

EXAMPLES = [Example("a", [1] * 30, None, [2] * 10, None), Example("b", [1] * 20, None, [2] * 4, None)]


def pretended(monkeypatch, name):
    """CUDA's counters as they would be on a device of that name."""
    reset = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * GIB)
    ranks = SimpleNamespace(device=SimpleNamespace(type="cuda"), world=2, all_max=lambda tensor: tensor)
    monkeypatch.setattr("nopsd.train.usage.torch.tensor", lambda rows, dtype, device: torch.Tensor(rows))
    return ranks, reset


def model(tiny_models, kind="tied"):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_models / kind)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_the_arithmetic_is_what_pytorch_counts(tiny_models, kind):
    """Broken if an embedding counts as a product, a tied head as none: the utilisation would be off by a half."""
    lm, tokens = model(tiny_models, kind), 96
    lm.set_attn_implementation("eager")  # computes the whole square of the causal half that is counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lm(input_ids=torch.ones(1, tokens, dtype=torch.long), use_cache=False)
    found = Arithmetic.of(lm)
    square = 2.0 * found.layers * found.width * tokens * tokens
    assert found.forward(tokens) + square == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_gpus_numbers_are_of_the_step_alone(tiny_models, monkeypatch):
    """Broken if the peak is the run's, or the utilisation counts one GPU of two."""
    lm = model(tiny_models)
    ranks, reset = pretended(monkeypatch, "NVIDIA H100 80GB HBM3")
    usage = Usage(lm, "bfloat16", ranks)
    usage.begin()
    found, each = usage.numbers(EXAMPLES, 0.5), Arithmetic.of(lm)
    assert reset == [ranks.device] and found["memory/peak_gib"] == 3.0
    assert found["speed/mfu"] == pytest.approx(3 * (each.forward(40) + each.forward(24)) / (0.5 * 2 * 989e12))


@pytest.mark.parametrize(("name", "dtype"), [("NVIDIA H100 PCIe", "float32"), ("Radeon", "bfloat16")])
def test_no_utilisation_is_made_up(tiny_models, monkeypatch, name, dtype):
    lm = model(tiny_models)
    ranks, _ = pretended(monkeypatch, name)
    assert set(Usage(lm, dtype, ranks).numbers(EXAMPLES, 0.5)) == {"memory/peak_gib"}
    assert peak_flops("NVIDIA H100 PCIe") == 756e12 and peak_flops("NVIDIA A100-SXM4-80GB") == 312e12


def test_a_cpus_peak_follows_what_the_step_held(tiny_models):
    """Broken if it stays at the largest that the process ever was."""
    usage = Usage(model(tiny_models), "float32", Ranks(0, 1, torch.device("cpu")))
    found = []
    for mib in (0, 400, 0):
        usage.begin()
        held = torch.ones(mib << 18)
        found.append(usage.numbers(EXAMPLES, 1.0)["memory/peak_gib"])
        del held
    assert found[1] - found[0] > 0.3 and found[1] - found[2] > 0.3


def test_the_wait_in_the_queue_is_the_steps_own():
    """Counters run since a server's start; one that was lost in between says nothing."""
    counted = iter([{"u": (10.0, 100.0), "v": (1.0, 1.0)}, {"u": (13.0, 106.0), "w": (9.0, 9.0)}])
    usage = Usage(None, "float32", Ranks(0, 1, torch.device("cpu")), lambda: next(counted))
    usage.begin()
    assert usage.numbers([], 1.0)["speed/queue_s"] == 0.5
