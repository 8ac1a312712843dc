"""Contributions are the paper's Eq. 3, on real models, against independent loops in float64."""

import copy
from itertools import product

import numpy as np
import pytest
import torch

from nopsd.config import NeuronConfig
from nopsd.config.layers import chosen_layers
from nopsd.neurons.adapters import find_sites, watch
from nopsd.neurons.layer_scores import ScoredRow, layer_scores
from nopsd.neurons.score_pool import ScoredModel, score_pool


def loops(model, rollout, config):
    """Counts and sets with loops, in float64: (s, ids, scores)."""
    model = copy.deepcopy(model).double()
    values = {}
    for layer, block in enumerate(model.model.layers):
        if config.value == "act_fn":
            block.mlp.act_fn.register_forward_hook(lambda m, i, o, layer=layer: values.__setitem__(layer, o[0].numpy()))
        else:
            block.mlp.down_proj.register_forward_pre_hook(
                lambda m, i, layer=layer: values.__setitem__(layer, i[0][0].numpy())
            )
    with torch.no_grad():
        model(input_ids=torch.tensor([rollout.prompt_ids + rollout.response_ids]))
    unembedding = model.lm_head.weight.detach().numpy()
    first = len(rollout.prompt_ids) - (1 if config.align == "predict" else 0)
    last = len(rollout.response_ids) - (1 if config.drop_last_position else 0)
    best = {}
    for start in range(0, last, config.chunk):
        for layer in chosen_layers(config.layers, 3):
            down = model.model.layers[layer].mlp.down_proj.weight.detach().numpy()
            pairs = []
            for t, i in product(range(start, min(start + config.chunk, last)), range(24)):
                row = unembedding[rollout.response_ids[t]]
                pairs.append((-values[layer][first + t, i] * float(np.dot(down[:, i], row)), t, i))
            for score, _, i in sorted(pairs)[: config.per_layer]:
                best[layer * 24 + i] = max(best.get(layer * 24 + i, -np.inf), -score)
    kept = sorted((-score, g) for g, score in best.items() if score > 0)[: config.k]
    return len(best), [g for _, g in kept], [-score for score, _ in kept]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"value": "gated"},
        {"align": "self"},
        {"drop_last_position": True},
        {"max_batch_tokens": 1},
        {"chunk": 100, "per_layer": 5, "k": 3},
        {"layers": "1-2"},
        {"layers": "every 2"},
    ],
)
def test_equals_loops_in_float64(engine, alone, make_rollouts, tmp_path, changed):
    """Scores to 1e-5, and the same counts and sets, with responses of uneven length batched together."""
    config = NeuronConfig(**{"per_layer": 12, "k": 20, "chunk": 5, "max_batch_tokens": 64, **changed})
    rollouts = make_rollouts(7)
    found = score_pool(ScoredModel(engine, "m"), rollouts, config, alone, tmp_path)
    assert found.uids == [r.uid for r in rollouts]
    assert found.truncated.tolist() == [r.truncated for r in rollouts]
    for row, rollout in enumerate(rollouts):
        count, ids, scores = loops(engine.module, rollout, config)
        kept = found.ids[row][found.ids[row] >= 0]
        assert found.counts[row] == count
        assert kept.tolist() == ids
        # float16 on disk: half a step is 2**-11 = 4.9e-4 of the score, and float32's sums add far less
        assert np.allclose(found.scores[row][: len(ids)], scores, rtol=5e-4)
        assert found.histogram[row].tolist() == np.bincount(np.array(ids, dtype=int) // 24, minlength=3).tolist()
        assert found.lengths[row] == len(rollout.response_ids) - config.drop_last_position


def test_act_fn_scores_to_1e_5(build_model, make_rollouts):
    """Before they are stored in float16, scores equal float64 loops to 1e-5 of their size."""
    model, rollout = build_model(), make_rollouts(1, seed=4)[0]
    config = NeuronConfig(per_layer=10_000, k=10_000, chunk=1024)
    sites, best_M = find_sites(model), torch.full((72,), -torch.inf)
    tokens, places = torch.unique(torch.tensor(rollout.response_ids), return_inverse=True)
    rows = [ScoredRow(0, len(rollout.prompt_ids) - 1, places)]

    def consume(activity):
        ((_, _, scores, _),) = layer_scores(activity, rows, sites.unembedding[tokens], config.chunk)
        best_M[activity.layer * 24 : (activity.layer + 1) * 24] = scores.max(0).values

    with torch.no_grad(), watch(sites, "act_fn", consume):
        model(input_ids=torch.tensor([rollout.prompt_ids + rollout.response_ids]))
    count, ids, scores = loops(model, rollout, config)
    assert count == 72
    assert np.abs(best_M[ids].numpy() - np.array(scores)).max() < 1e-5 * max(scores)
