"""How far bf16 moves neuron counts, neuron sets and what is chosen by them.

    python tools/measure_bf16_sets.py                            # 400 lab questions and Qwen3-0.6B's shape: 5 minutes
    python tools/measure_bf16_sets.py --only lab --questions 100
    python tools/measure_bf16_sets.py --only lab --model FOLDER --rollouts RUN/.../rollouts.parquet --paper-sizes
    python tools/measure_bf16_sets.py --only lab --model FOLDER --data sciknoweval --data-path FILE --questions 100

The same responses are scored by `score_pool` four times; contributions are float32 sums in all of them:

    float64        weights and activations float64: how far float32 itself is from exact
    float32        the reference
    bf16 weights   each weight rounded to bf16, activations float32: what the rounding of the weights does
    bf16           weights and activations bf16 (model.dtype=bfloat16): what a user of bf16 gets

The lab's responses are sampled by the float32 lab model at temperature 1. At Qwen3-0.6B's shape weights and tokens are
random: only the sets say something there. A released model whose weights are bf16 already loses nothing by the second.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from scoring_arms import SHAPES, Plain, random_model, zipf_rollouts

from nopsd.config import DataConfig, NeuronConfig, PromptConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.records import Question
from nopsd.data.sources import load_splits
from nopsd.engine.distributed import Ranks
from nopsd.lab.world import DOMAIN_BY_NAME, make_split
from nopsd.models import LAB_MODEL
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.neurons.store import NeuronSets
from nopsd.rollout.types import Rollout, read_rollouts

LAB_SIZES = NeuronConfig(per_layer=200, k=150, chunk=64)  # of the lab's preset
FRACTION, NEIGHBOURS = 0.2, 10  # the paper's selection and demonstrations


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def lab_questions(count: int) -> list[Question]:
    """The first pool questions of the lab's domains, in turn."""
    pools = [make_split(domain, "pool").questions for domain in DOMAIN_BY_NAME.values()]
    return [pools[i % len(pools)][i // len(pools)] for i in range(count)]


def sampled(model: Any, path: Path, asked: Sequence[Question], max_new: int) -> list[Rollout]:
    """One response to each question, sampled by `model`."""
    tokenizer = load_tokenizer(path)
    renderer = PromptRenderer(tokenizer, PromptConfig(enable_thinking=False))
    questions = len(asked)
    torch.manual_seed(0)
    return [
        _rollout(question.uid, prompt, response, tokenizer.eos_token_id)
        for first in range(0, questions, 64)
        for question, (prompt, response) in zip(
            asked[first : first + 64],
            _generate(model, [renderer.student(q) for q in asked[first : first + 64]], tokenizer, max_new),
        )
    ]


@torch.no_grad()
def _generate(
    model: Any, prompts: Sequence[list[int]], tokenizer: Any, max_new: int
) -> list[tuple[list[int], list[int]]]:
    longest = max(map(len, prompts))
    rows = [[tokenizer.pad_token_id] * (longest - len(p)) + p for p in prompts]
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        input_ids=torch.tensor(rows),
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new,
        pad_token_id=tokenizer.pad_token_id,
    )
    return list(zip(prompts, out[:, longest:].tolist()))


def _rollout(uid: str, prompt: list[int], response: list[int], eos: int) -> Rollout:
    ended = eos in response
    kept = response[: response.index(eos) + 1] if ended else response
    return Rollout(uid, 0, prompt, kept, "", "stop" if ended else "length", 0)


def score(model: Any, rollouts: Sequence[Rollout], config: NeuronConfig) -> NeuronSets:
    with tempfile.TemporaryDirectory() as folder:
        alone = Ranks(0, 1, torch.device("cpu"))
        return score_pool(ScoredModel(Plain(model), "measured"), rollouts, config, alone, folder)


@torch.no_grad()
def scored_in_each(model: Any, rollouts: Sequence[Rollout], config: NeuronConfig) -> dict[str, NeuronSets]:
    """Rounds `model` in place, from one precision to the next."""
    found = {"float64": score(model.double(), rollouts, config)}
    found["float32"] = score(model.float(), rollouts, config)
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    found["bf16 weights"] = score(model, rollouts, config)
    for parameter in model.parameters():  # not model.to(): a rotary embedding's frequencies stay float32, as loaded
        parameter.data = parameter.data.bfloat16()
    found["bf16"] = score(model, rollouts, config)
    return found


# Comparing. `ids` [N, K] are padded with -1.


def distances(a: NeuronSets, b: NeuronSets) -> np.ndarray:
    """[N, N] float64 Jaccard distances of every set of `a` to every set of `b`."""
    neurons = sum(a.header["widths"])
    one, other = _indicator(a.ids, neurons), _indicator(b.ids, neurons)
    shared = (one @ other.T).astype(np.float64)
    union = one.sum(1)[:, None] + other.sum(1)[None] - shared
    return 1 - shared / np.maximum(union, 1)


def _indicator(ids: np.ndarray, neurons: int) -> np.ndarray:
    out = np.zeros((len(ids), neurons + 1), dtype=np.float32)
    np.put_along_axis(out, ids.astype(np.int64), 1, axis=1)  # the padding falls into the last column
    return out[:, :neurons]


def compare(reference: NeuronSets, other: NeuronSets) -> dict[str, float]:
    """How `other` differs from `reference`; figures of the table's columns."""
    moved = np.diagonal(distances(reference, other))
    low, high = np.quantile(moved, [0.05, 0.95])
    change = other.counts / np.maximum(reference.counts, 1) - 1
    figures = {
        "moved": moved.mean(),
        "moved_5": low,
        "moved_95": high,
        "identical": float((moved == 0).mean()),
        "s_bias": change.mean(),
        "s_change": np.abs(change).mean(),
        "selected": _overlap([selected(reference)], [selected(other)]),
        "neighbours": _overlap(neighbours(reference), neighbours(other)),
    }
    if min(np.ptp(reference.counts), np.ptp(other.counts)) > 0:  # else it is not defined
        figures["s_spearman"] = spearmanr(reference.counts, other.counts).statistic
    return {name: float(value) for name, value in figures.items()}


def selected(sets: NeuronSets) -> set[int]:
    """The FRACTION of questions with the lowest counts, ties at the last place included (paper Alg. 1)."""
    last = np.sort(sets.counts)[math.ceil(FRACTION * len(sets.counts)) - 1]
    return set(np.nonzero(sets.counts <= last)[0].tolist())


def neighbours(sets: NeuronSets) -> list[set[int]]:
    apart = distances(sets, sets)
    np.fill_diagonal(apart, np.inf)
    return [set(row) for row in np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS].tolist()]


def _overlap(a: Sequence[set[int]], b: Sequence[set[int]]) -> float:
    """Mean share of a set of `a` that is in its partner of `b`."""
    return float(np.mean([len(x & y) / len(x) for x, y in zip(a, b)]))


def apart(sets: NeuronSets) -> float:
    """Mean Jaccard distance between different questions, the scale of all movements."""
    found = distances(sets, sets)
    return float(found[~np.eye(len(found), dtype=bool)].mean())


def report(name: str, model: Any, rollouts: Sequence[Rollout], config: NeuronConfig) -> dict[str, Any]:
    print(f"{name}: {len(rollouts)} responses, {sum(len(r.response_ids) for r in rollouts)} tokens", file=sys.stderr)
    found = scored_in_each(model, rollouts, config)
    reference = found.pop("float32")
    return {
        "model": name,
        "responses": len(rollouts),
        "tokens": sum(len(r.response_ids) for r in rollouts),
        "k": reference.header["k"],
        "per_layer": reference.header["per_layer"],
        "apart": apart(reference),
        "bf16": {precision: compare(reference, sets) for precision, sets in found.items()},
    }


def table(reports: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| model | precision | Jaccard distance to float32: mean (5 %, 95 %) | between questions | mean change of s "
        "| mean size of it | Spearman of s | selected in common | neighbours in common |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for found in reports:
        for precision, f in found["bf16"].items():
            cells = [
                f"{found['model']} ({found['responses']} responses)",
                precision,
                f"{f['moved']:.4f} ({f['moved_5']:.4f}, {f['moved_95']:.4f})",
                f"{found['apart']:.3f}",
                f"{f['s_bias']:+.2%}",
                f"{f['s_change']:.2%}",
                *_chosen(found, f),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _chosen(found: dict[str, Any], f: dict[str, float]) -> list[str]:
    if found["responses"] < 5 * NEIGHBOURS:  # too few to choose among
        return ["–", "–", "–"]
    spearman = f"{f['s_spearman']:.4f}" if "s_spearman" in f else "–"
    return [spearman, f"{f['selected']:.1%}", f"{f['neighbours']:.1%}"]


def questions_of(args: argparse.Namespace) -> list[Question]:
    if not args.data:
        return lab_questions(args.questions)
    config = DataConfig(name=args.data, path=args.data_path, domain=args.domain)
    return load_splits(config).pool[: args.questions]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["lab", "random"], help="one of the two models")
    parser.add_argument("--model", type=Path, default=LAB_MODEL, help="a model folder (default: the lab's)")
    parser.add_argument("--rollouts", type=Path, help="a run's rollouts.parquet (default: lab questions, sampled here)")
    parser.add_argument("--data", help="questions of a data set (data.name) instead of the lab's")
    parser.add_argument("--data-path", help="its file or folder (data.path)")
    parser.add_argument("--domain", default="biology", help="its domain (data.domain)")
    parser.add_argument("--paper-sizes", action="store_true", help="n = 2000, K = 5000 instead of the lab's")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--max-new", type=int, default=64, help="response tokens sampled at most")
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen3-0.6b", help="of the random model")
    parser.add_argument("--layers", type=int, default=0, help="of the random model; 0: the shape's own")
    parser.add_argument("--samples", type=int, default=8, help="responses of the random model")
    parser.add_argument("--response", type=int, default=256, help="tokens of each of them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write the figures there")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    reports = []
    if args.only != "random":
        model = load(args.model)
        rollouts = (
            read_rollouts(args.rollouts)
            if args.rollouts
            else sampled(model, args.model, questions_of(args), args.max_new)
        )
        config = NeuronConfig() if args.paper_sizes else LAB_SIZES
        reports.append(report("lab" if args.model == LAB_MODEL else args.model.name, model, rollouts, config))
    if args.only != "lab":
        model = random_model(args.shape, args.layers, torch.float32)
        rollouts = zipf_rollouts(args.samples, 32, args.response, model.config.vocab_size)
        config = NeuronConfig(scale_with_width=True, max_batch_tokens=2048)
        reports.append(report(f"{args.shape}, random", model, rollouts, config))
    if args.json:
        Path(args.json).write_text(json.dumps(reports, indent=1) + "\n")
    print(table(reports))


if __name__ == "__main__":
    main()
