"""A layer's scores are the same bits whichever part of them a rank makes (SPEC §13.1), and are what §3.2 says."""

import numpy as np
import pytest
import torch

from nopsd.neurons import projection
from nopsd.neurons.activity import Block, LayerActivity
from nopsd.neurons.layer_scores import ScoredRow, Share, layer_scores

SHARES = [("neurons", n) for n in (1, 2, 3, 4)] + [("positions", n) for n in (1, 2, 4)]


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


def assembled(activity, rows, directions, chunk, shares):
    """All shares' scores put together: one [T_s, width] matrix a rollout, NaN where no share has an element."""
    found = [np.full((len(row.tokens), activity.width), np.nan, dtype=np.float32) for row in rows]
    for share in shares:
        for index, first, scores, columns in layer_scores(activity, rows, directions, chunk, share):
            assert first // chunk == (first + len(scores) - 1) // chunk  # chunks stay where they are
            for c in range(len(scores)):
                at = np.arange(activity.width) if columns is None else columns[c].numpy()
                kept = at >= 0
                assert (np.diff(at[kept]) > 0).all()
                assert np.isnan(found[index][first + c, at[kept]]).all()  # nothing is made twice
                found[index][first + c, at[kept]] = scores[c].numpy()[kept]
    return found


def bits(matrices):
    return [m.view(np.int32) for m in matrices]


def loops(activity, rows, directions):
    """The same from SPEC §3.2's formula, one (position, neuron) after the other, in float64."""
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
    for found, expected in zip(
        assembled(activity, rows, directions, chunk, [Share()]), loops(activity, rows, directions)
    ):
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        assert np.nanmax(np.abs(found - expected)) < 1e-5 * np.nanmax(np.abs(expected))


@pytest.mark.parametrize("kind, world", SHARES)
@pytest.mark.parametrize("name", CASES)
def test_shares_are_bit_identical(name, kind, world):
    """Else the sets would depend on how many ranks share a batch."""
    activity, rows, directions, chunk = CASES[name]
    whole = bits(assembled(activity, rows, directions, chunk, [Share()]))
    shares = [Share(**{kind: (rank, world)}) for rank in range(world)]
    assert all(map(np.array_equal, bits(assembled(activity, rows, directions, chunk, shares)), whole))


@pytest.fixture(scope="module")
def wide():
    """Qwen3-0.6B's layer, with responses that are no multiple of anything."""
    activity, rows = dense(1024, 3072, 2, 700), rows_of([611, 203], 397, 700)
    directions = torch.randn(397, 1024, generator=torch.Generator().manual_seed(3))
    return activity, rows, directions, [m.copy() for m in by_piece(activity, rows, directions, [Share()])]


def by_piece(activity, rows, directions, shares):
    found = [np.zeros((len(row.tokens), activity.width), dtype=np.float32) for row in rows]
    for share in shares:
        for index, first, scores, columns in layer_scores(activity, rows, directions, 256, share):
            low = 0 if columns is None else int(columns[0, 0])
            found[index][first : first + len(scores), low : low + scores.shape[1]] += scores.numpy()
    return found


@pytest.mark.parametrize("kind, world", SHARES)
def test_shares_are_bit_identical_at_real_width(wide, kind, world):
    """A matrix library picks other kernels there than at tiny sizes."""
    activity, rows, directions, whole = wide
    shares = [Share(**{kind: (rank, world)}) for rank in range(world)]
    assert all(map(np.array_equal, bits(by_piece(activity, rows, directions, shares)), bits(whole)))


@pytest.mark.parametrize("kind", ["neurons", "positions"])
@pytest.mark.parametrize("name", CASES)
def test_a_share_makes_products_that_the_whole_makes(name, kind, monkeypatch):
    """Of the same operands, layouts included: another shape may be rounded otherwise by another matrix library."""
    activity, rows, directions, chunk = CASES[name]
    made = []

    def spy(left, right):
        made.append((left.shape, left.numpy().tobytes(), right.shape, right.stride(), right.numpy().tobytes()))
        return left @ right

    monkeypatch.setattr(projection, "_product", spy)
    assembled(activity, rows, directions, chunk, [Share()])
    whole, made[:] = set(made), []
    assembled(activity, rows, directions, chunk, [Share(**{kind: (rank, 3)}) for rank in range(3)])
    assert set(made) == whole


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_neurons_and_positions_are_near_equal(world):
    """Else one rank would work while the others wait."""
    activity, rows = dense(16, 3072, 1, 100), rows_of([90], 13, 100)
    directions = torch.randn(13, 16)
    for kind, whole in (("neurons", 3072), ("positions", 90)):
        sizes = []
        for rank in range(world):
            ((_, _, scores, _),) = layer_scores(activity, rows, directions, 1024, Share(**{kind: (rank, world)}))
            sizes.append(scores.shape[1 if kind == "neurons" else 0])
        assert sum(sizes) == whole
        assert max(sizes) <= 1.1 * whole / world


def test_layers_share_and_empty_parts():
    activity, rows, directions, chunk = CASES["dense"]
    assert list(layer_scores(activity, rows, directions, chunk, Share(layers=range(1, 9)))) == []
    assert list(layer_scores(activity, [], directions, chunk)) == []
    assert len(list(layer_scores(activity, rows, directions, chunk, Share(layers=range(1))))) == 3 + 1 + 4


def test_a_transposed_bf16_down_projection_is_not_rounded_on_the_way():
    """A GPT-2 Conv1D's weight, and float32 sums of exact bf16 products."""
    activity, rows, directions, chunk = CASES["dense"]
    (block,) = activity.blocks
    down = block.down_HF.bfloat16().t().contiguous().t()
    activity = LayerActivity(0, activity.shape, (Block(0, down, None, block.values),), activity.width)
    for found, expected in zip(
        assembled(activity, rows, directions, chunk, [Share()]), loops(activity, rows, directions)
    ):
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_on_a_gpu_equals_float64_and_shares_are_bit_identical():
    """Its matrix units are given bf16 operands, and must add up in float32; see projection._as_exact."""
    draw = torch.Generator().manual_seed(5)
    gate, down = torch.randn(700, 3072, generator=draw), torch.randn(1024, 3072, generator=draw) / 32
    directions, down = torch.randn(397, 1024, generator=draw).bfloat16().float(), down.bfloat16()
    rows, every = rows_of([611], 397, 700), []
    gate_on = gate.cuda()
    block = Block(0, down.cuda(), None, lambda part: torch.nn.functional.silu(gate_on[part]))
    activity = LayerActivity(0, (1, 700), (block,), 3072)
    for kind, world in SHARES:
        shares = [Share(**{kind: (rank, world)}) for rank in range(world)]
        found = torch.zeros(611, 3072)
        for share in shares:
            for _, first, scores, columns in layer_scores(activity, rows, directions.cuda(), 1024, share):
                low = 0 if columns is None else int(columns[0, 0])
                found[first : first + len(scores), low : low + scores.shape[1]] += scores.cpu()
        values = torch.nn.functional.silu(gate.double())[rows[0].first : rows[0].first + 611]
        expected = values * (directions.double()[rows[0].tokens] @ down.double())
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        every.append(found)
    assert all(torch.equal(found, every[0]) for found in every)
