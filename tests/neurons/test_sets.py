"""Neuron sets against plain Python, with ties, in every mode."""

import math
from itertools import product

import pytest
import torch
from torch.nn.functional import pad

from nopsd.config import NeuronConfig
from nopsd.neurons.collect import collector
from nopsd.neurons.reduce import reduce_sets
from nopsd.neurons.sets import SampleSets, agreement, merge_rollouts, set_sizes

L, F = 3, 11


def run_batch(samples, columns=False, **settings):
    """Sets of several responses' scores [L, T, F]; with `columns` padded and in columns of their own."""
    config = NeuronConfig(**{"per_layer": 9, "k": 8, "chunk": 4, **settings})
    sizes = set_sizes(config, [F] * L)
    kept = collector(sizes, [s.shape[1] for s in samples], torch.device("cpu"))
    for layer in range(L):
        for sample, scores_LTF in enumerate(samples):
            for first in range(0, scores_LTF.shape[1], sizes.chunk):
                piece = scores_LTF[layer, first : first + sizes.chunk]
                if columns:
                    numbers = torch.arange(F).expand(len(piece), -1)
                    kept.add(sample, layer, first, pad(piece, (0, 3), value=-torch.inf), pad(numbers, (0, 3), value=-1))
                else:
                    kept.add(sample, layer, first, piece, None)
    return reduce_sets(kept, sizes, len(samples))


def run(scores_LTF, **settings):
    return run_batch([scores_LTF], **settings)[0]


def plain(scores_LTF, count_mode="pairs", chunk_merge="union", per_layer=9, k=8, chunk=4, positive_only=True):
    """(s, ids) with dictionaries and sorting: ties by (-score, position, neuron) and (-score, id)."""
    length = scores_LTF.shape[1]
    value = scores_LTF.tolist()
    size = length if chunk_merge == "exact" else 1 if count_mode == "token_topk" else chunk
    union = {}
    for start in range(0, length, size):
        best = {}
        for layer in range(L):
            pairs = sorted(
                (-value[layer][t][i], t, i) for t, i in product(range(start, min(start + size, length)), range(F))
            )
            for score, _, i in pairs if count_mode == "token_topk" else pairs[:per_layer]:
                best[layer * F + i] = max(best.get(layer * F + i, float("-inf")), -score)
        kept = best.items()
        if count_mode != "pairs":
            kept = sorted(kept, key=lambda gs: (-gs[1], gs[0]))[:k]
        for g, score in kept:
            union[g] = max(union.get(g, float("-inf")), score)
    listed = sorted((g for g in union if union[g] > 0 or not positive_only), key=lambda g: (-union[g], g))
    return (len(union), listed[:k]) if count_mode == "pairs" else (len(listed), listed)


def random_scores(seed, length=10, ties=True):
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-4, 5, (L, length, F), generator=generator).float()
    return torch.randn(L, length, F, generator=generator)


MODES = [
    {},
    {"chunk_merge": "exact"},
    {"count_mode": "chunk_topk"},
    {"count_mode": "token_topk"},
    {"positive_only": False},
    {"per_layer": 1000, "k": 1000},
    {"k": 1},
    {"count_mode": "token_topk", "positive_only": False},
]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("settings", MODES)
def test_sets_equal_plain_python(settings, ties):
    for seed in range(8):
        scores = random_scores(seed, ties=ties)
        found = run(scores, **settings)
        count, ids = plain(scores, **settings)
        assert (found.count, found.ids.tolist()) == (count, ids)
        assert found.histogram.tolist() == [sum(g // F == layer for g in ids) for layer in range(L)]


@pytest.mark.parametrize("settings", MODES)
def test_sets_bounds_and_repeatability(settings):
    """|N_K| <= K, N_K within U, scores positive and in order, equal on repeated runs."""
    for seed in range(5):
        scores = random_scores(seed)
        found, again = run(scores, **settings), run(scores, **settings)
        assert torch.equal(found.ids, again.ids) and torch.equal(found.scores, again.scores)
        if settings.get("count_mode", "pairs") == "pairs":
            assert len(found.ids) <= settings.get("k", 8)
        assert len(found.ids) <= found.count
        assert len(set(found.ids.tolist())) == len(found.ids)
        if settings.get("positive_only", True):
            assert (found.scores > 0).all()
        assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("ties", [True, False])
def test_exact_is_independent_of_the_chunk_size(ties):
    """`exact` gives identical s and N_K for B in {1, 7, T}."""
    scores = random_scores(1, length=19, ties=ties)
    results = [run(scores, chunk_merge="exact", chunk=b) for b in (1, 7, 19)]
    for other in results[1:]:
        assert other.count == results[0].count
        assert torch.equal(other.ids, results[0].ids) and torch.equal(other.scores, results[0].scores)


def test_union_count_does_not_fall_when_a_chunk_is_split():
    grew = False
    for seed in range(10):
        scores = random_scores(seed, length=16, ties=False)
        counts = [run(scores, chunk=b).count for b in (16, 8, 4, 2, 1)]
        assert counts == sorted(counts)
        grew |= counts[0] < counts[-1]
    assert grew


def test_rollouts_of_a_question_merge_to_the_top_k_of_the_maxima():
    """n_extract > 1. Merging the cut lists must equal merging everything and cutting then."""
    sizes = set_sizes(NeuronConfig(per_layer=9, k=8, chunk=4), [F] * L)
    for seed in range(10):
        several = [random_scores(10 * seed + i) for i in range(3)]
        merged = merge_rollouts([run(s) for s in several], sizes)
        whole = [run(s, k=L * F) for s in several]
        best = {}
        for sample in whole:
            for g, score in zip(sample.ids.tolist(), sample.scores.tolist()):
                best[g] = max(best.get(g, 0.0), score)
        assert merged.ids.tolist() == sorted(best, key=lambda g: (-best[g], g))[:8]
        assert merged.count == sum(s.count for s in whole) / 3


def test_sizes_follow_the_papers_ratios_with_the_width():
    sizes = set_sizes(NeuronConfig(scale_with_width=True), [9728] * 36)
    assert (sizes.per_layer, sizes.k) == (2000, 5001)  # round(0.2056 F), round(0.01428 L F)
    small = set_sizes(NeuronConfig(scale_with_width=True), [2])
    assert (small.per_layer, small.k) == (1, 1)
    half = set_sizes(NeuronConfig(scale_with_width=True, layers="every 2"), [9728] * 36)
    assert (half.per_layer, half.k) == (2000, 2500)  # K of the scored layers' neurons


def test_sets_of_a_batch_are_those_of_its_responses_alone():
    """Else responses of one forward pass mix: rows of uneven length, and one without any position."""
    samples = [random_scores(seed, length=length) for seed, length in enumerate((10, 0, 1, 7))]
    for settings in MODES:
        for found, scores in zip(run_batch(samples, **settings), samples, strict=True):
            count, ids = plain(scores, **settings) if scores.numel() else (0, [])
            assert (found.count, found.ids.tolist()) == (count, ids), settings
            assert found.histogram.tolist() == [sum(g // F == layer for g in ids) for layer in range(L)]


def test_sets_go_by_the_columns_of_a_mixture_and_never_by_its_padding():
    """Columns that name neurons give the sets of the dense form; places without an expert are -inf and in no set."""
    for settings in [*MODES, {"per_layer": 10_000, "k": 10_000, "positive_only": False}]:
        scores = random_scores(3)
        found, dense = run_batch([scores], columns=True, **settings)[0], run(scores, **settings)
        assert found.count == dense.count and torch.equal(found.ids, dense.ids), settings


def test_both_zeros_are_one_score():
    """-0.0 and 0.0 tie: which of them a maximum keeps must not depend on their order, nor a file's bits."""
    zeros = torch.zeros(L, 6, F)
    zeros[:, ::2] = -0.0
    for settings in MODES:
        found = run(zeros, **{**settings, "positive_only": False})
        other = run(-zeros, **{**settings, "positive_only": False})
        assert torch.equal(found.ids, other.ids)
        assert torch.equal(found.scores.view(torch.int32), torch.zeros_like(found.ids, dtype=torch.int32))
        assert torch.equal(other.scores.view(torch.int32), found.scores.view(torch.int32))


def test_agreement_is_the_mean_pairwise_jaccard_similarity():
    """NAD's score; with one rollout it is not defined."""

    def sets(*ids):
        return SampleSets(0, torch.tensor(ids, dtype=torch.int64), torch.zeros(len(ids)), torch.zeros(L))

    three = [sets(1, 2, 3, 4), sets(3, 4, 5), sets(9)]
    assert agreement(three) == pytest.approx((2 / 5 + 0 + 0) / 3)
    assert agreement([sets(2, 1), sets(1, 2)]) == 1.0
    assert agreement([sets(), sets()]) == 0.0
    assert math.isnan(agreement([sets(1)]))
