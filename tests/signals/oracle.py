"""The columns by plain loops in float64 over a model's own logits, states and modules; nothing of nopsd.signals."""

import math

import numpy as np
import torch


def whole_forward(model, rollout):
    """(logits [T, V], final hidden states [T, H]) of the response alone in a batch of one, as float64 lists' arrays."""
    ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
    with torch.no_grad():
        out = model.double()(ids, output_hidden_states=True, use_cache=False)
    return out.logits[0].double().numpy(), out.hidden_states[-1][0].double().numpy()


def token_columns(model, rollout):
    """entropy, self-certainty, nll: means over response tokens."""
    logits, _ = whole_forward(model, rollout)
    start, values = len(rollout.prompt_ids), []
    for t, token in enumerate(rollout.response_ids):
        z = [float(v) for v in logits[start + t - 1]]
        top = max(z)
        norm = top + math.log(sum(math.exp(v - top) for v in z))
        log_p = [v - norm for v in z]
        uniform = 1 / len(z)
        entropy = -sum(math.exp(v) * v for v in log_p)
        certainty = sum(uniform * (math.log(uniform) - v) for v in log_p)  # KL(U || p), from its definition
        values.append((entropy, certainty, -log_p[token]))
    return np.mean(values, axis=0)


def embedding(model, rollout):
    _, hidden = whole_forward(model, rollout)
    return np.mean(hidden[len(rollout.prompt_ids) :], axis=0)


def activations(model, rollout, value="act_fn"):
    """A [L][T, F] at the response positions, from the MLPs' own inputs."""
    seen = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda mlp, args: seen.append((mlp, args[0][0].detach())))
        for layer in model.double().model.layers
    ]
    whole_forward(model, rollout)
    for hook in hooks:
        hook.remove()
    start, found = len(rollout.prompt_ids), []
    for mlp, states in seen:
        with torch.no_grad():
            active = mlp.act_fn(mlp.gate_proj(states))
            active = active * mlp.up_proj(states) if value == "gated" else active
        found.append(active[start:].numpy())
    return found


def nait_directions(model, examples, value="act_fn"):
    """First right singular vector of the centred Δ, layer by layer (SVD, not the eigenproblem)."""
    each = [activations(model, example, value) for example in examples]
    directions = []
    for layer in range(len(each[0])):
        delta = np.array([sample[layer][-1] - sample[layer][0] for sample in each])
        mean = np.array([sum(column) / len(column) for column in delta.T])
        v = np.linalg.svd(delta - mean, full_matrices=False)[2][0]
        directions.append(v if mean @ v >= 0 else -v)
    return directions


def nait(model, rollout, directions, value="act_fn"):
    total = 0.0
    for values, v in zip(activations(model, rollout, value), directions):
        for i in range(values.shape[1]):
            total += sum(values[:, i]) / len(values) * v[i]
    return total
