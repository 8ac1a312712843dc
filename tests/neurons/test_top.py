"""The exact top-n kernel against plain Python sorting, on inputs made to mislead its prefilter."""

import math
import random
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nopsd.errors import UserError
from nopsd.neurons.top import BLOCKS, SPARE, top_flat, top_mask

INF = math.inf
WIDE, NARROW = BLOCKS
EXTREMES = st.sampled_from([-INF, -1.0, -0.0, 0.0, 2.0, INF])


def plain(values, n):
    """Ascending places of the n greatest scores above -inf; ties to the lower place."""
    order = sorted((-v, i) for i, v in enumerate(values) if v != -INF)
    return sorted(i for _, i in order[: max(n, 0)])


def found(values, n, dtype=torch.float32):
    scores = torch.tensor(values, dtype=dtype)
    places = top_flat(scores, n)
    assert places.dtype == torch.int64
    return places.tolist(), scores.tolist()


def adversaries(numel):
    draw = random.Random(numel)
    normal = [draw.gauss(0, 1) for _ in range(numel)]
    block_equal = [1.0 if i % WIDE == draw.randrange(WIDE) or i % WIDE == 5 else -1.0 for i in range(numel)]
    return {
        "normal": normal,
        "negative": [-1 - abs(v) for v in normal],
        "all equal": [0.5] * numel,
        "ascending": [float(i) for i in range(numel)],
        "descending": [-float(i) for i in range(numel)],
        "few values": [float(draw.randint(-2, 2)) for _ in range(numel)],
        "signed zeros": [draw.choice([0.0, -0.0]) for _ in range(numel)],
        "+inf": [INF if i % 97 == 3 else v for i, v in enumerate(normal)],
        "mostly -inf": [v if i % 211 == 7 else -INF for i, v in enumerate(normal)],
        "all -inf": [-INF] * numel,
        "blocks with equal maxima": block_equal,
        "ties beside greater scores": [
            2.0 if i % (10 * WIDE) == 40 else 1.0 if i % WIDE == 20 else -1.0 for i in range(numel)
        ],
        "one hot block": [v + (50 if 2 * WIDE <= i < 3 * WIDE else 0) for i, v in enumerate(normal)],
        "last block hot": [v + (50 if i >= numel - 9 else 0) for i, v in enumerate(normal)],
        "ties at the end": [1.0 if i > numel // 2 else 0.0 for i in range(numel)],
    }


@pytest.mark.parametrize("name", adversaries(1))
def test_top_flat_equals_plain_sorting(name):
    """A wrong prefilter would drop neurons of U, or give ties to another neuron on another machine."""
    for numel in (1, 63, 64, 65, WIDE * 40, WIDE * 40 + 17, NARROW * 50 + 3):
        values = adversaries(numel)[name]
        # Both sides of each change of path, and more than there is.
        edges = {numel // (SPARE * b) + d for b in BLOCKS for d in (0, 1)}
        for n in {1, 2, 7, numel, numel + 5} | edges:
            places, rounded = found(values, n)
            assert places == plain(rounded, n), (numel, n)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_top_flat_in_other_types(dtype):
    """Scores of a bf16 model tie often: the rule for ties must hold there too."""
    places, rounded = found(adversaries(WIDE * 40)["normal"], 9, dtype)
    assert places == plain(rounded, 9)


@settings(max_examples=150, deadline=None, derandomize=True)
@example(0, [], 3)
@given(st.integers(0, 600), st.lists(EXTREMES, max_size=40), st.integers(0, 30))
def test_top_flat_on_any_mixture(background, extremes, n):
    """Few distinct values in any order: every count of ties at the threshold, in and out of its blocks."""
    draw = random.Random(background * 1000 + len(extremes))
    values = [draw.choice([-1.0, 0.0, 0.0, 1.0]) for _ in range(background)] + extremes
    draw.shuffle(values)
    places, rounded = found(values, n)
    assert places == plain(rounded, n)


def test_top_flat_of_nothing_and_of_no_places():
    """A chunk without neurons (an expert that no token reached) has an empty set, not an error."""
    assert top_flat(torch.empty(0, 7), 5).tolist() == []
    assert top_flat(torch.ones(3, 5000), 0).tolist() == []
    assert top_flat(torch.ones(3), 0).tolist() == []


def test_top_flat_reads_rows_in_order_also_of_a_view():
    """Places are those of the flattened tensor; a transposed or strided view has other memory."""
    scores = torch.randn(300, 70, generator=torch.Generator().manual_seed(1))
    for view in (scores.T, scores[::2], scores[:, 5:40]):
        assert top_flat(view, 11).tolist() == plain(view.flatten().tolist(), 11)


def test_top_flat_at_the_papers_size():
    """[1024 x 3072] with n = 631 and 2000: the sizes it is made for; the same scores as torch.topk picks."""
    scores = torch.randn(1024, 3072, generator=torch.Generator().manual_seed(2))
    for n in (631, 2000):
        places = top_flat(scores, n)
        assert (places.diff() > 0).all()
        best = torch.topk(scores.view(-1), n).values
        assert torch.equal(scores.view(-1)[places].sort(descending=True).values, best)


@pytest.mark.parametrize("numel", [1, 100, WIDE * 200 + 1])
def test_nan_is_refused(numel):
    """A NaN compares as neither greater nor less: it would silently leave the sets."""
    for place in {0, numel // 2, numel - 1}:
        scores = torch.zeros(numel)
        scores[place] = float("nan")
        for n in (1, numel):
            with pytest.raises(UserError, match="NaN"):
                top_flat(scores, n)


def test_top_mask_gives_ties_to_the_lower_column_and_refuses_nan():
    """The rows' cut of `token_topk`: equal scores must give equal sets."""
    scores = torch.tensor([[1.0, 2, 2, 2, 0], [3, 3, 3, 3, 3]])
    assert top_mask(scores, 2).tolist() == [[False, True, True, False, False], [True, True, False, False, False]]
    assert top_mask(scores, 9).all()
    with pytest.raises(UserError, match="NaN"):
        top_mask(torch.tensor([[1.0, float("nan")]]), 1)


@pytest.mark.parametrize("n", [0, 1, 4, 11, 30])
def test_top_mask_equals_plain_sorting_of_each_row(n):
    """Rows with different numbers of ties at their threshold."""
    scores = torch.randint(-3, 4, (40, 23), generator=torch.Generator().manual_seed(3)).float()
    mask = top_mask(scores, n)
    for row, kept in zip(scores.tolist(), mask):
        assert kept.nonzero().flatten().tolist() == plain(row, n)


def test_top_mask_without_rows_or_columns_and_with_a_nan_anywhere():
    """A mixture's positions may have no columns; and a NaN must be seen in whatever row and column it stands."""
    for shape in ((0, 4), (3, 0)):
        assert top_mask(torch.empty(shape), 2).shape == shape
    for row, column, n in product((0, 2), (0, 3, 6), (1, 3, 7)):
        scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(4))
        scores[row, column] = float("nan")
        with pytest.raises(UserError, match="NaN"):
            top_mask(scores, n)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_top_flat_on_a_gpu_equals_the_cpu():
    """The same scores must give the same sets on every device."""
    for name, values in adversaries(WIDE * 40 + 17).items():
        scores = torch.tensor(values)
        for n in (1, 9, 40, 400):
            assert top_flat(scores.cuda(), n).tolist() == plain(scores.tolist(), n), name
