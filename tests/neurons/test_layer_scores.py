"""A layer's scores are the paper's Eq. 3, and the same bits whatever else is in the batch's chunks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nopsd.neurons import projection
from nopsd.neurons.activity import Block, LayerActivity
from nopsd.neurons.layer_scores import ScoredRow, layer_scores
from tests.pretended_gpu import half_precision_products


def rows_of(lengths, distinct, longest, seed=0):
    """Rollouts of uneven length in a batch, in another order than their rows."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for row, length in reversed(list(enumerate(lengths))):
        first = int(torch.randint(0, longest - length + 1, (1,), generator=draw))
        rows.append(ScoredRow(row, first, torch.randint(0, distinct, (length,), generator=draw)))
    return rows


def dense(hidden, width, batch, longest, seed=1):
    draw = torch.Generator().manual_seed(seed)
    gate = torch.randn(batch * longest, width, generator=draw)
    down = torch.randn(hidden, width, generator=draw) / hidden**0.5
    block = Block(0, down, None, lambda rows: torch.nn.functional.silu(gate[rows]))
    return LayerActivity(0, (batch, longest), (block,), width)


def mixture(hidden, experts, inner, per_token, batch, longest, seed=1):
    """Each position goes to `per_token` experts; the last expert is never chosen."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.rand(batch * longest, experts - 1, generator=draw).topk(per_token, dim=1).indices
    blocks = []
    for expert in range(experts - 1):
        tokens = (chosen == expert).any(1).nonzero().flatten()
        gate = torch.randn(len(tokens), inner, generator=draw)
        down = torch.randn(hidden, inner, generator=draw) / hidden**0.5
        if len(tokens):
            form = lambda rows, gate=gate: torch.nn.functional.silu(gate[rows])  # noqa: E731
            blocks.append(Block(expert * inner, down, tokens, form))
    return LayerActivity(0, (batch, longest), tuple(blocks), experts * inner)


def assembled(activity, rows, directions, chunk):
    """One [T_s, width] matrix a rollout, NaN where there is no element."""
    found = [np.full((len(row.tokens), activity.width), np.nan, dtype=np.float32) for row in rows]
    for index, first, scores, columns in layer_scores(activity, rows, directions, chunk):
        assert first % chunk == 0 and len(scores) <= chunk
        for c in range(len(scores)):
            at = np.arange(activity.width) if columns is None else columns[c].numpy()
            kept = at >= 0
            assert (np.diff(at[kept]) > 0).all()
            assert np.isnan(found[index][first + c, at[kept]]).all()  # nothing is made twice
            found[index][first + c, at[kept]] = scores[c].numpy()[kept]
    return found


def loops(activity, rows, directions):
    """The same from the formula, one (position, neuron) after the other, in float64."""
    found = [np.full((len(row.tokens), activity.width), np.nan) for row in rows]
    for matrix, row in zip(found, rows):
        for block in activity.blocks:
            tokens = range(activity.shape[0] * activity.shape[1]) if block.tokens is None else block.tokens.tolist()
            values = block.values(slice(0, len(tokens))).double().numpy()
            down = block.down_HF.double().numpy()
            for r, p in enumerate(tokens):
                t = p - row.row * activity.shape[1] - row.first
                if 0 <= t < len(row.tokens):
                    e_y = directions[row.tokens[t]].double().numpy()
                    for i in range(block.width):
                        matrix[t, block.first + i] = values[r, i] * float(np.dot(down[:, i], e_y))
    return found


def cases():
    tiny = rows_of([11, 1, 18], 13, 20), torch.randn(13, 16, generator=torch.Generator().manual_seed(2))
    yield "dense", dense(16, 24, 3, 20), *tiny, 5
    yield "mixture", mixture(16, 6, 24, 2, 3, 20), *tiny, 5
    yield "one chunk", dense(16, 40, 3, 20), *tiny, 1000


CASES = {name: rest for name, *rest in cases()}


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_loops_in_float64(name):
    activity, rows, directions, chunk = CASES[name]
    for found, expected in zip(assembled(activity, rows, directions, chunk), loops(activity, rows, directions)):
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        assert np.nanmax(np.abs(found - expected)) < 1e-5 * np.nanmax(np.abs(expected))


def test_rollouts_without_scored_positions_yield_nothing():
    activity, rows, directions, chunk = CASES["dense"]
    assert list(layer_scores(activity, [], directions, chunk)) == []
    empty = ScoredRow(0, 0, torch.zeros(0, dtype=torch.long))
    assert list(layer_scores(activity, [empty], directions, chunk)) == []
    assert len(list(layer_scores(activity, rows, directions, chunk))) == 3 + 1 + 4


def test_a_transposed_bf16_down_projection_is_not_rounded_on_the_way():
    """A GPT-2 Conv1D's weight, and float32 sums of exact bf16 products."""
    activity, rows, directions, chunk = CASES["dense"]
    (block,) = activity.blocks
    down = block.down_HF.bfloat16().t().contiguous().t()
    activity = LayerActivity(0, activity.shape, (Block(0, down, None, block.values),), activity.width)
    for found, expected in zip(assembled(activity, rows, directions, chunk), loops(activity, rows, directions)):
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_gpus_projection_is_exact_in_half_precision_or_stays_in_float32():
    """On a pretended device: directions that the weight's format holds are multiplied in it, others rounded."""
    weight = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)
    draw = torch.Generator().manual_seed(0)
    exact = torch.randn(4, 8, generator=draw).bfloat16().float()
    down = torch.randn(8, 5, generator=draw).bfloat16()
    half = projection._as_exact(exact, weight)
    assert half.dtype == torch.bfloat16
    with half_precision_products():
        found = projection._product(half, down)
    torch.testing.assert_close(found.double(), exact.double() @ down.double(), rtol=1e-6, atol=1e-6)
    other = exact + 1e-4
    assert projection._as_exact(other, weight) is other
    weight.dtype = torch.float32
    assert projection._as_exact(exact, weight) is exact


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_on_a_gpu_equals_float64():
    """Its matrix units are given bf16 operands, and must add up in float32; see projection._as_exact."""
    draw = torch.Generator().manual_seed(5)
    gate, down = torch.randn(700, 3072, generator=draw), torch.randn(1024, 3072, generator=draw) / 32
    directions, down = torch.randn(397, 1024, generator=draw).bfloat16().float(), down.bfloat16()
    rows, gate_on = rows_of([611], 397, 700), gate.cuda()
    block = Block(0, down.cuda(), None, lambda part: torch.nn.functional.silu(gate_on[part]))
    activity = LayerActivity(0, (1, 700), (block,), 3072)
    ((_, _, found, _),) = layer_scores(activity, rows, directions.cuda(), 1024)
    values = torch.nn.functional.silu(gate.double())[rows[0].first : rows[0].first + 611]
    expected = values * (directions.double()[rows[0].tokens] @ down.double())
    assert (found.cpu() - expected).abs().max() < 1e-5 * expected.abs().max()
