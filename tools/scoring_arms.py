"""The arms of tools/bench_scoring.py: one scoring pass as nopsd makes it, and the other ways to make it.

In: a model's shape. Out: a model with random weights, responses with a text's repetition, and for each arm a function
that runs it once. The plain arms use torch alone, so that they are a check of nopsd's sets too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nopsd.config import DistConfig, NeuronConfig
from nopsd.engine.distributed import Ranks, init_distributed
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.neurons.store import NeuronSets
from nopsd.rollout.types import Rollout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = {  # H, F, layers, heads, key-value heads, head size, vocabulary
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, 128, 151936),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, 128, 151936),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128, 151936),
    "tiny": (32, 48, 2, 4, 2, 8, 512),
}


class Plain:
    """A model called the way a DeepSpeed engine is."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


@dataclass
class Bench:
    """The model, what is scored, and by which sizes."""

    engine: Any
    ranks: Ranks
    rollouts: list[Rollout]
    neuron: NeuronConfig
    vocabulary_layers: int
    zero3: bool

    @property
    def ids_BT(self) -> Tensor:
        rows = [r.prompt_ids + r.response_ids for r in self.rollouts]
        return torch.tensor(rows, device=self.ranks.device)


def model_config(shape: str, layers: int) -> Any:
    """`layers` 0: the shape's own."""
    from transformers import Qwen3Config

    hidden, width, own_layers, heads, kv_heads, head, vocab = SHAPES[shape]
    return Qwen3Config(
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers or own_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        vocab_size=vocab,
        tie_word_embeddings=True,
        max_position_embeddings=40960,
    )


def random_model(shape: str, layers: int, dtype: torch.dtype, device: str = "cpu") -> Any:
    """A frozen Qwen3 of that shape; the same weights in every process."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(model_config(shape, layers), dtype=dtype)
    return model.requires_grad_(False).eval()


def prepare(args: argparse.Namespace) -> Bench:
    """Model and rollouts, the same in every process."""
    if args.zero3:
        engine, ranks = _sharded(args)
    else:
        engine = Plain(random_model(args.shape, args.layers, DTYPES[args.dtype], args.device))
        ranks = Ranks(0, 1, torch.device(args.device))
    neuron = NeuronConfig(
        value=args.value,
        count_mode=args.mode,
        scale_with_width=not args.paper_sizes,
        max_batch_tokens=args.batch * (args.prompt + args.response),
    )
    rollouts = zipf_rollouts(args.batch, args.prompt, args.response, SHAPES[args.shape][-1])
    return Bench(engine, ranks, rollouts, neuron, args.vocabulary_layers, args.zero3)


def _sharded(args: argparse.Namespace) -> tuple[Any, Ranks]:
    import deepspeed
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    from nopsd.engine.ds_config import RunSettings, load_ds_config

    ranks = init_distributed(DistConfig(threads=args.threads))
    device = "cpu" if args.device == "cpu" else "gpu"
    ds_config = load_ds_config(None, "teacher", device, RunSettings(1, 1.0, args.dtype))
    live_config = HfDeepSpeedConfig(ds_config)  # held weakly by transformers: without a name nothing is sharded
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model_config(args.shape, args.layers), dtype=DTYPES[args.dtype])
    engine, *_ = deepspeed.initialize(model=model.requires_grad_(False).eval(), config=ds_config)
    del live_config
    engine.eval()
    return engine, ranks


def zipf_rollouts(count: int, prompt: int, response: int, vocab: int) -> list[Rollout]:
    """Tokens whose frequencies fall as 1/rank^1.1: some 500 distinct ones of 1,024, rather more than in a text."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.arange(1, vocab + 1, dtype=torch.float64).pow(-1.1)
    names = torch.randperm(vocab, generator=generator)

    def draw(length: int) -> list[int]:
        return names[torch.multinomial(weights, length, True, generator=generator)].tolist()

    return [Rollout(f"q{i:03d}", 0, draw(prompt), draw(response), "", "stop", 0) for i in range(count)]


# Arms. Each returns its sets: neuron ids by (layer * F + i) of every rollout, or nothing.


@torch.no_grad()
def forward(bench: Bench) -> None:
    if bench.zero3:  # ZeRO-3 traces from the engine's root; the head runs on one position
        bench.engine(input_ids=bench.ids_BT, use_cache=False, logits_to_keep=1)
    else:
        bench.engine.module.get_decoder()(input_ids=bench.ids_BT, use_cache=False)


def score(bench: Bench) -> NeuronSets:
    with tempfile.TemporaryDirectory() as folder:
        return score_pool(ScoredModel(bench.engine, "bench"), bench.rollouts, bench.neuron, bench.ranks, folder)


def nopsd(bench: Bench) -> list[set[int]]:
    return [{int(i) for i in row if i >= 0} for row in score(bench).ids]


@torch.no_grad()
def stored(bench: Bench) -> list[set[int]]:
    layers = bench.engine.module.get_decoder().layers
    kept: list[Tensor] = []
    hooks = [_value_hook(layer.mlp, bench.neuron.value, kept.append) for layer in layers]
    forward(bench)
    for hook in hooks:
        hook.remove()
    head = bench.engine.module.get_output_embeddings().weight

    def scores(layer: int, row: int, rollout: Rollout) -> Tensor:
        rows_TH = head[torch.tensor(rollout.response_ids, device=head.device)].float()
        return _responses(kept[layer][row], rollout) * (rows_TH @ layers[layer].mlp.down_proj.weight.float())

    return [_plain_set(bench, rollout, row, scores, len(layers)) for row, rollout in enumerate(bench.rollouts)]


@torch.no_grad()
def vocabulary(bench: Bench) -> list[set[int]]:
    """As MUI and its like: inside the forward, every neuron of a layer on every entry of the vocabulary."""
    layers = bench.engine.module.get_decoder().layers[: bench.vocabulary_layers]
    head, found = bench.engine.module.get_output_embeddings().weight, {}

    def consume(layer: int, value_BTF: Tensor) -> None:
        down_HF = layers[layer].mlp.down_proj.weight.float()
        scores = [torch.empty_like(_responses(value_BTF[b], r)) for b, r in enumerate(bench.rollouts)]
        for first in range(0, len(head), 8192):
            entries_FV = down_HF.t() @ head[first : first + 8192].float().t()
            for row, rollout in enumerate(bench.rollouts):
                targets = torch.tensor(rollout.response_ids, device=head.device) - first
                here = ((targets >= 0) & (targets < entries_FV.shape[1])).nonzero().flatten()
                scores[row][here] = entries_FV[:, targets[here]].t()
        for row, rollout in enumerate(bench.rollouts):
            found[layer, row] = _top_pairs(bench, scores[row] * _responses(value_BTF[row], rollout))

    hooks = [_value_hook(layer.mlp, bench.neuron.value, partial(consume, at)) for at, layer in enumerate(layers)]
    forward(bench)
    for hook in hooks:
        hook.remove()
    width = layers[0].mlp.down_proj.in_features
    return [
        {at * width + i for at in range(len(layers)) for i in found[at, row][0].tolist()}
        for row in range(len(bench.rollouts))
    ]


def _value_hook(mlp: Any, value: str, take: Callable[[Tensor], None]) -> Any:
    if value == "gated":
        return mlp.down_proj.register_forward_pre_hook(lambda _, inputs: take(inputs[0]))
    return mlp.act_fn.register_forward_hook(lambda _module, _inputs, output: take(output))


def _responses(values_TF: Tensor, rollout: Rollout) -> Tensor:
    first = len(rollout.prompt_ids) - 1
    return values_TF[first : first + len(rollout.response_ids)].float()


def _top_pairs(bench: Bench, scores_TF: Tensor) -> tuple[Tensor, Tensor]:
    """Neurons and scores of a layer's n greatest pairs; of one chunk, as these responses are."""
    per_layer = round(0.2056 * scores_TF.shape[1]) if bench.neuron.scale_with_width else bench.neuron.per_layer
    top = torch.topk(scores_TF.flatten(), min(per_layer, scores_TF.numel()))
    return top.indices % scores_TF.shape[1], top.values


def _plain_set(
    bench: Bench, rollout: Rollout, row: int, scores: Callable[[int, int, Rollout], Tensor], layers: int
) -> set[int]:
    best, width = [], 0
    for layer in range(layers):
        scores_TF = scores(layer, row, rollout)
        width = scores_TF.shape[1]
        neurons, top = _top_pairs(bench, scores_TF)
        best.append(torch.full((width,), -torch.inf, device=top.device).scatter_reduce_(0, neurons, top, "amax"))
    k = round(0.01428 * layers * width) if bench.neuron.scale_with_width else bench.neuron.k
    top_M = torch.topk(torch.cat(best), min(k, layers * width))
    return set(top_M.indices[top_M.values > 0].tolist())


RUN: dict[str, Callable[[Bench], list[set[int]] | None]] = {
    "forward": forward,
    "nopsd": nopsd,
    "stored": stored,
    "vocabulary": vocabulary,
}
