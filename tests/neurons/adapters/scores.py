"""Every contribution of a small model, as the tests of adapters compare them."""

import numpy as np
import torch

from nopsd.neurons.adapters import find_sites, watch
from nopsd.neurons.layer_scores import ScoredRow, layer_scores

PROMPT, TOKENS = [5, 9, 33, 2], [17, 40, 17, 8, 61, 40, 3]


def all_scores(model, value):
    """Each layer's contributions [T_s, F] as float64 arrays, NaN where a neuron has no activation."""
    sites, layers = find_sites(model), {}
    distinct, places = torch.unique(torch.tensor(TOKENS), return_inverse=True)
    directions = sites.unembedding[distinct].detach().float()
    rows = [ScoredRow(1, len(PROMPT) - 1, places)]

    def consume(activity):
        matrix = np.full((len(TOKENS), activity.width), np.nan)
        for _, first, scores, columns in layer_scores(activity, rows, directions, chunk=4):
            assert scores.dtype == torch.float32
            for c in range(len(scores)):
                at = columns[c] if columns is not None else torch.arange(activity.width)
                kept = at >= 0
                assert bool((at[kept].diff() > 0).all())
                assert bool((scores[c][~kept] == -torch.inf).all())
                matrix[first + c, at[kept].numpy()] = scores[c][kept].double().numpy()
        layers[activity.layer] = matrix

    with torch.no_grad(), watch(sites, value, consume):
        model(input_ids=torch.tensor([[4] * len(PROMPT + TOKENS), PROMPT + TOKENS]))
    assert list(layers) == [0, 1, 2]
    return list(layers.values())
