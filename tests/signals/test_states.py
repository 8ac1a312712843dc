"""Where an answer's states start and go, against the model's own hidden states in float64."""

import copy

import numpy as np
import pytest
import torch

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.rollout.types import Rollout
from nopsd.signals.forward_columns import MeasuredModel, forward_columns
from nopsd.signals.states import signs, trajectory

CONFIG = SignalConfig(max_batch_tokens=40, logit_chunk=3)
ALONE = Ranks(0, 1, torch.device("cpu"))
NAMES = ["representation", "representation_shift", "trajectory", "mean_logp"]


def ends(model, rollout):
    """[L, 2, H]: every block's output at the first and the last token of the response."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in model.double().model.layers
    ]
    with torch.no_grad():
        model(torch.tensor([rollout.prompt_ids + rollout.response_ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    first, last = len(rollout.prompt_ids), len(rollout.prompt_ids) + len(rollout.response_ids) - 1
    return np.stack([state[0, [first, last]].numpy() for state in seen])


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_columns_are_of_the_blocks_outputs_at_both_ends(
    family, build_model, make_rollouts, unsharded, tmp_path, oracle
):
    """A layer left out, a prompt's or padding's position: other demonstrations, and nothing else would show it."""
    model, rollouts = build_model(family), make_rollouts(5, samples=2)
    reference = copy.deepcopy(model)
    found = forward_columns(MeasuredModel(unsharded(model), "m"), rollouts, NAMES, CONFIG, ALONE, tmp_path)
    states = np.stack([ends(reference, rollout) for rollout in rollouts]).reshape(5, 2, 3, 2, 16)
    start, end = states.mean(axis=2).transpose(2, 0, 1, 3)  # [question, sample, H] each
    way = np.linalg.norm(end - start, axis=2)
    assert np.allclose(found["representation"], np.concatenate([start, end - start], 2).mean(1), rtol=1e-4, atol=1e-5)
    assert np.allclose(found["representation_shift"], way.mean(1), rtol=1e-4)
    projected = states[:, :, :, 1] @ signs(16)
    unit = (projected / np.linalg.norm(projected, axis=-1, keepdims=True)).reshape(5, 2, -1).mean(1)
    assert found["trajectory"].shape == (5, 3 * 64)
    assert np.allclose(found["trajectory"], unit, rtol=1e-4, atol=1e-5)
    nll = np.array([oracle.token_columns(reference, rollout)[2] for rollout in rollouts]).reshape(5, 2)
    assert np.allclose(found["mean_logp"], -nll, rtol=1e-5, atol=1e-5)  # one a rollout, not a question


def test_responses_of_one_token_and_of_none(build_model, unsharded, tmp_path):
    """One token goes nowhere; none has no way, and must not pass for the shortest."""
    rollouts = [Rollout("a", 0, [5, 6], [7], "", "stop", 0), Rollout("b", 0, [5, 6], [], "", "stop", 0)]
    engine = unsharded(build_model())
    found = forward_columns(MeasuredModel(engine, "m"), rollouts, NAMES, CONFIG, ALONE, tmp_path)
    assert found["representation_shift"][0] == 0 and np.isnan(found["representation_shift"][1])
    assert not found["representation"][0, 16:].any() and not found["representation"][1].any()
    assert not found["trajectory"][1].any()


def test_trajectories_have_layers_of_unit_length_by_a_fixed_matrix():
    matrix = signs(8)
    assert set(np.unique(matrix)) == {-0.125, 0.125} and matrix.shape == (8, 64)
    assert matrix[0, :8].tolist() == signs(30)[0, :8].tolist()  # the same draws on every machine
    states = np.random.default_rng(0).normal(size=(3, 2, 8))
    layers = trajectory(states).reshape(2, 3, 64)
    assert np.allclose(np.linalg.norm(layers, axis=2), 1)
    assert np.allclose(trajectory(4 * states), trajectory(states))
