"""The cost model: if it fails, the table of step times in the README is arithmetic of something else."""

import dataclasses
import math

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from nopsd.cluster.doctor.scaling import (
    QWEN3,
    Machine,
    Work,
    compute_s,
    gather_s,
    micro_batches,
    rollout_s,
    server_gpus,
    states_fit,
    step_s,
    sync_s,
    together,
)

MACHINE, WORK = Machine(), Work()
SMALL = QWEN3["Qwen3-4B"]


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen3-4B", 4.02), ("Qwen3-8B", 8.19), ("Qwen3-14B", 14.77), ("Qwen3-32B", 32.76)]
)
def test_parameters_are_the_models_own(name, billions):
    """Counted by transformers itself, on the meta device; and the size by which the model is known."""
    shape = QWEN3[name]
    config = Qwen3Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.mlp,
        head_dim=128,
        num_attention_heads=shape.width // 128,
        num_key_value_heads=shape.kv_width // 128,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    assert shape.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=1e-3)
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=5e-3)


def test_arithmetic_is_that_of_plain_loops():
    """Matrix products and attention of one sequence, counted position by position and matrix by matrix."""
    work, shape = dataclasses.replace(WORK, sequences=1, question=3, context=5, response=4), SMALL
    matrices = shape.layers * [
        (shape.hidden, shape.width),
        (shape.width, shape.hidden),
        (shape.hidden, shape.kv_width),
        (shape.hidden, shape.kv_width),
        *3 * [(shape.hidden, shape.mlp)],
    ] + [(shape.hidden, shape.vocabulary)]

    def forward(length: int) -> float:
        flops = 0.0
        for position in range(length):
            flops += sum(2 * rows * columns for rows, columns in matrices)
            flops += shape.layers * 2 * 2 * shape.width * (position + 0.5)  # scores and mixture; half of its own
        return flops

    teacher, student = compute_s(shape, MACHINE, work, 1)
    rate = MACHINE.peak * MACHINE.efficiency
    assert teacher == pytest.approx(forward(9) / rate, rel=1e-9)
    assert student == pytest.approx(4 * forward(7) / rate, rel=1e-9), "forward, backward as two, and once again"
    plain = dataclasses.replace(work, checkpointing=False)
    assert compute_s(shape, MACHINE, plain, 1)[1] == pytest.approx(3 * forward(7) / rate, rel=1e-9)


def test_gathers_go_through_the_slower_of_two_links():
    """Inside one host NVLink counts, between hosts the cards, and on many hosts a ring's latency too."""
    size = 2 * SMALL.parameters
    assert gather_s(SMALL, MACHINE, 1) == 0
    assert gather_s(SMALL, MACHINE, 8) == pytest.approx(size * 7 / 8 / MACHINE.inside_rate)
    two = size / 2 / (8 * MACHINE.network_rate * MACHINE.network_efficiency) + 36 * MACHINE.hop_s
    inside = size * 15 / 16 / MACHINE.inside_rate + 36 * MACHINE.hop_s
    assert gather_s(SMALL, MACHINE, 16) == pytest.approx(max(two, inside))
    slow = dataclasses.replace(MACHINE, network_rate=1e9)
    assert gather_s(SMALL, slow, 16) == pytest.approx(size / 2 / (8e9 * 0.8) + 36 * MACHINE.hop_s)


def test_decoding_reads_weights_and_keys_for_each_token():
    """One sequence alone: its longest response, at the memory's rate."""
    work = dataclasses.replace(WORK, sequences=1, question=0, response=1000, longest=1000)
    read = 2 * SMALL.parameters + 500 * 2 * 36 * 1024 * 2
    expected = 1000 * read / (MACHINE.memory_rate * MACHINE.memory_efficiency)
    assert rollout_s(SMALL, MACHINE, work, 1) == pytest.approx(expected)
    one_wave, two_waves = (dataclasses.replace(work, sequences=n, at_once=256) for n in (256, 512))
    assert rollout_s(SMALL, MACHINE, two_waves, 1) == pytest.approx(2 * rollout_s(SMALL, MACHINE, one_wave, 1))


def test_micro_batches_never_cut_a_sequence():
    assert micro_batches(dataclasses.replace(WORK, sequences=7, micro_tokens=10), 2, 4) == 2
    assert micro_batches(dataclasses.replace(WORK, sequences=7, micro_tokens=10), 2, 11) == 4


def test_what_hides_behind_what():
    machine = dataclasses.replace(MACHINE, overlap=1.0)
    assert together(3, 2, machine) == 3 and together(3, 2, dataclasses.replace(machine, overlap=0.0)) == 5


def test_memory_and_servers():
    """80 GB: 4B trains on two GPUs, 32B needs more than a host's eight; its server takes two."""
    assert states_fit(SMALL, MACHINE, 2) and not states_fit(SMALL, MACHINE, 1)
    assert not states_fit(QWEN3["Qwen3-32B"], MACHINE, 8) and states_fit(QWEN3["Qwen3-32B"], MACHINE, 16)
    assert [server_gpus(shape, MACHINE) for shape in QWEN3.values()] == [1, 1, 1, 2]
    assert sync_s(SMALL, MACHINE) == pytest.approx(1.5 * 2 * SMALL.parameters / 40e9 + 0.1)


def test_a_step_gets_faster_with_gpus_and_slower_with_size():
    for shape in QWEN3.values():
        steps = [sum(step_s(shape, MACHINE, WORK, 3 * n // 4, n // 4).values()) for n in (8, 16, 32, 64, 128, 256, 512)]
        assert steps == sorted(steps, reverse=True) and all(math.isfinite(step) for step in steps)
    sizes = [sum(step_s(shape, MACHINE, WORK, 48, 16).values()) for shape in QWEN3.values()]
    assert sizes == sorted(sizes)
