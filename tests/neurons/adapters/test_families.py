"""Every family's adapter takes values, directions and routing weights from the right places."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.neurons.adapters.scores import PROMPT, TOKENS, all_scores

SEPARATE = ["qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3"]
FUSED = ["phi3", "glm"]
PLAIN = ["gpt_neox", "gpt2", "opt", "phi"]
MIXTURES = ["qwen3_moe", "mixed", "mixtral"]


def mlps(model):
    """(module whose input is the MLP's, module whose output is, its MLP) by layer."""
    decoder = model.get_decoder()
    for layer in getattr(decoder, "layers", None) or decoder.h:
        yield (layer.mlp, layer.mlp) if hasattr(layer, "mlp") else (layer.fc1, layer.fc2)


def seen(model):
    """MLP inputs and outputs at the scored positions, by layer, from hooks on whole MLPs."""
    inputs, outputs, handles = [], [], []
    place = slice(len(PROMPT) - 1, len(PROMPT) - 1 + len(TOKENS))
    for enters, leaves in mlps(model):
        handles.append(enters.register_forward_pre_hook(lambda m, i: inputs.append(i[0].view(-1, 16)[place])))
        handles.append(leaves.register_forward_hook(lambda m, i, o: outputs.append(o.view(-1, 16)[place])))
    with torch.no_grad():
        model(input_ids=torch.tensor([PROMPT + TOKENS]))
    for handle in handles:
        handle.remove()
    return inputs, outputs


@pytest.mark.parametrize("family", SEPARATE + FUSED + PLAIN + MIXTURES)
@pytest.mark.parametrize("tied", [False, True])
def test_gated_contributions_sum_to_the_token_row_times_the_mlp_output(build_family, family, tied):
    """Else a value, a direction, a routing weight or the token's row is taken from the wrong place."""
    model = build_family(family, tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    unembedding = model.get_output_embeddings().weight.detach()
    _, outputs = seen(model)
    for matrix, output, (_, leaves) in zip(all_scores(model, "gated"), outputs, mlps(model)):
        down = next((m for m in leaves.modules() if getattr(m, "bias", None) is not None and down_of(m, leaves)), None)
        bias = down.bias.detach() if down is not None else 0.0
        expected = ((output - bias) * unembedding[torch.tensor(TOKENS)]).sum(1)
        assert np.allclose(np.nansum(matrix, 1), expected.numpy(), atol=1e-4)
        assert expected.abs().max() > 0.1  # the test compares something


def down_of(module, mlp):
    names = ("dense_4h_to_h", "c_proj", "fc2", "down_proj")
    return module is mlp or any(getattr(mlp, name, None) is module for name in names)


def silu(x):
    return x / (1 + math.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


ACTIVATIONS = {
    "gemma": gelu_tanh,
    "gemma2": gelu_tanh,
    "gemma3": gelu_tanh,
    "gpt2": gelu_tanh,
    "phi": gelu_tanh,
    "gpt_neox": gelu,
    "opt": lambda x: max(x, 0.0),
}


def loop_values(mlp, x, act, value):
    """[(first neuron, values, directions [F, H])] of one position by the formulas, in loops over float64 weights."""
    w = {name: p.detach().numpy() for name, p in mlp.named_parameters()}

    def gated(gate, up, down, first=0, weight=1.0):
        values = []
        for i in range(len(gate)):
            k = act(float(gate[i] @ x))
            values.append(weight * k * (float(up[i] @ x) if value == "gated" else 1.0))
        return first, values, down.T

    if "gate.weight" in w:  # a mixture
        logits = [float(row @ x) for row in w["gate.weight"]]
        chances = [math.exp(z) / sum(math.exp(y) for y in logits) for z in logits]
        chosen = sorted(range(len(chances)), key=lambda e: -chances[e])[:2]
        scale = sum(chances[e] for e in chosen) if getattr(mlp.gate, "norm_topk_prob", True) else 1.0
        inner, found = w["experts.down_proj"].shape[2], []
        for e in sorted(chosen):
            both = w["experts.gate_up_proj"][e]
            down = w["experts.down_proj"][e]
            found.append(gated(both[:inner], both[inner:], down, e * inner, chances[e] / scale))
        return found
    if "gate_proj.weight" in w:
        return [gated(w["gate_proj.weight"], w["up_proj.weight"], w["down_proj.weight"])]
    if "gate_up_proj.weight" in w:
        both = w["gate_up_proj.weight"]
        return [gated(both[: len(both) // 2], both[len(both) // 2 :], w["down_proj.weight"])]
    if "c_fc.weight" in w:
        up, down = w["c_fc.weight"].T, w["c_proj.weight"]
        bias = w["c_fc.bias"]
    else:
        one, two = ("dense_h_to_4h", "dense_4h_to_h") if "dense_h_to_4h.weight" in w else ("fc1", "fc2")
        up, down, bias = w[f"{one}.weight"], w[f"{two}.weight"].T, w[f"{one}.bias"]
    return [(0, [act(float(up[i] @ x + bias[i])) for i in range(len(up))], down)]


@pytest.mark.parametrize("family", SEPARATE + FUSED + PLAIN + MIXTURES)
def test_act_fn_contributions_equal_loops_in_float64(build_family, family):
    """To 1e-5 of their size, and a mixture's only for the experts that each token was sent to."""
    model = build_family(family)
    exact = copy.deepcopy(model).double()
    exact.config._experts_implementation = "eager"  # transformers' default has no float64
    inputs, _ = seen(exact)
    unembedding = exact.get_output_embeddings().weight.detach().numpy()
    act = ACTIVATIONS.get(family, silu)
    decoder = exact.get_decoder()
    layers = list(getattr(decoder, "layers", None) or decoder.h)
    for found, x_TH, layer in zip(all_scores(model, "act_fn"), inputs, layers):
        expected = np.full_like(found, np.nan)
        for t, token in enumerate(TOKENS):
            for first, values, rows in loop_values(getattr(layer, "mlp", layer), x_TH[t].numpy(), act, "act_fn"):
                for i, k in enumerate(values):
                    expected[t, first + i] = k * float(rows[i] @ unembedding[token])
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        assert np.nanmax(np.abs(found - expected)) < 1e-5 * np.nanmax(np.abs(expected))


@pytest.mark.parametrize("family", ["qwen3", "mixtral"])
@pytest.mark.parametrize("value", ["act_fn", "gated"])
def test_bf16_weights_are_multiplied_in_float32(build_family, family, value):
    """Products rounded to bf16 on the way (relative 4e-3) would reorder neurons near the cut."""
    model = build_family(family).bfloat16()
    kept = [{} for _ in range(3)]
    for layer, store in zip(model.model.layers, kept):
        if family == "qwen3":
            layer.mlp.gate_proj.register_forward_hook(lambda m, i, o, store=store: store.update(gate=o[1]))
            layer.mlp.down_proj.register_forward_pre_hook(lambda m, i, store=store: store.update(gated=i[0][1]))
        else:
            layer.mlp.experts.register_forward_pre_hook(lambda m, i, store=store: store.update(args=i))
    found = all_scores(model, value)
    rows = model.lm_head.weight.detach().double().numpy()[TOKENS]
    for matrix, layer, store in zip(found, model.model.layers, kept):
        if family == "qwen3":
            place = slice(len(PROMPT) - 1, len(PROMPT) - 1 + len(TOKENS))
            gate = store["gate"][place].double()
            values = (torch.sigmoid(gate) * gate if value == "act_fn" else store["gated"][place].double()).numpy()
            expected = values * (rows @ layer.mlp.down_proj.weight.detach().double().numpy())
        else:
            expected = expert_loop(layer.mlp.experts, store["args"], rows, value)
        assert np.nanmax(np.abs(matrix - expected)) < 1e-5 * np.nanmax(np.abs(expected))


def expert_loop(experts, args, rows, value):
    """Contributions of the second row's scored positions, float64 after the experts' own bf16 projection."""
    hidden, index, weight = args
    expected = np.full((len(TOKENS), 32), np.nan)
    offset = len(PROMPT) + len(TOKENS) + len(PROMPT) - 1
    with torch.no_grad():
        for t in range(len(TOKENS)):
            for e, w in zip(index[offset + t].tolist(), weight[offset + t].double().tolist()):
                # At all of the expert's tokens at once, as the model does: bf16 products depend on the shape.
                at = (index == e).any(1).nonzero().flatten()
                gate, up = nn.functional.linear(hidden[at], experts.gate_up_proj[e]).chunk(2, -1)
                own = int((at == offset + t).nonzero())
                g = gate[own].double()
                k = g * torch.sigmoid(g) if value == "act_fn" else (experts.act_fn(gate) * up)[own].double()
                down = experts.down_proj[e].double().numpy()
                expected[t, e * 8 : e * 8 + 8] = w * k.numpy() * (rows[t] @ down)
    return expected
