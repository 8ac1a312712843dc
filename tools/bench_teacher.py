"""CPU time of the teacher's forwards with each prompt computed once, against whole sequences.

    python tools/bench_teacher.py                                  # the README's sizes: a quarter of an hour
    python tools/bench_teacher.py --hidden 64 --layers 2 --context 300 --questions 2 --turns 1

A random Qwen3 of these sizes, without DeepSpeed, reads `--questions` prompts of `--context` tokens, each followed by
responses of about `--response` tokens (log-normal, as of reasoning). In one process the ways take turns:

    whole n        n rollouts a question, whole sequences
    contexts n     the same, each prompt computed once in the step
    filling 1      one rollout a question, contexts over steps: the step that first meets them
    held 1         the same, when they are there already

Reported: CPU seconds of all threads and as the ratio to `whole` of the same n and turn, median and range.
All hidden states of a turn are compared with the whole ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nopsd.engine.distributed import Ranks
from nopsd.engine.packed_attention import use_packed_attention
from nopsd.train.batches import Batching, Example, Side, rank_micro_batches
from nopsd.train.context_states import PrefixCache
from nopsd.train.losses.head import response_hidden
from nopsd.train.planning import Limits
from nopsd.train.teachers import Reader

ALONE = Ranks(0, 1, torch.device("cpu"))
VOCABULARY = 2048  # no logits are made


@dataclass(frozen=True)
class Way:
    """A reader of a step's sides, and its name; `like`: the way it is compared with."""

    name: str
    reader: Reader
    sides: Sequence[Side]
    like: str


def model_of(hidden: int, layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    lm = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=hidden // 8,
            max_position_embeddings=16384,
        )
    ).eval()
    use_packed_attention(lm)
    return lm


def examples_of(questions: int, n: int, context: int, response: int) -> list[Example]:
    source = random.Random(n)

    def ids(length: int) -> list[int]:
        return [source.randrange(VOCABULARY) for _ in range(length)]

    found = []
    for q in range(questions):
        prompt = ids(context)
        for _ in range(n):
            length = max(8, min(2 * response, int(source.lognormvariate(0.0, 0.6) * response)))
            found.append(Example(f"q{q}", prompt[-64:], prompt, ids(length)))
    return found


def ways_of(lm: Any, sizes: argparse.Namespace) -> list[Way]:
    forward, found = partial(response_hidden, lm), []
    for n in (1, sizes.n):
        examples = examples_of(sizes.questions, n, sizes.context, sizes.response)
        sides = [batch.teacher for batch in rank_micro_batches(examples, 0, 1, Batching(Limits(sizes.micro)))]
        whole = f"whole {n}"
        found.append(Way(whole, Reader(forward, ALONE, False), sides, whole))
        if n > 1:
            found.append(Way(f"contexts {n}", Reader(forward, ALONE, True), sides, whole))
            continue
        cache = PrefixCache([e.teacher_prompt for e in examples], 2**40)
        reader = Reader(forward, ALONE, False, cache)
        reader.read(sides)
        found += [Way("filling 1", reader, sides, whole), Way("held 1", reader, sides, whole)]
    return found


def measure(way: Way) -> tuple[float, Tensor]:
    """CPU seconds of a step, and its hidden states."""
    if way.name.startswith("filling") and way.reader.cache is not None:
        way.reader.cache.held.clear()
        way.reader.cache.nbytes = 0
    start = time.process_time()
    states = way.reader.read(way.sides)
    return time.process_time() - start, torch.cat(states)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("hidden", 512),
        ("layers", 12),
        ("context", 1536),
        ("response", 150),
        ("questions", 4),
        ("n", 4),
        ("micro", 4),
        ("turns", 5),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args(arguments)
    torch.set_num_threads(sizes.threads)
    ways = ways_of(model_of(sizes.hidden, sizes.layers), sizes)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    worst = 0.0
    for _ in range(sizes.turns):
        expected: dict[str, Tensor] = {}
        for way in ways:
            spent, states = measure(way)
            seconds[way.name].append(spent)
            whole = expected.setdefault(way.like, states)
            worst = max(worst, float((states - whole).abs().max() / whole.abs().max()))
    print(f"{'':14}{'CPU s':>8}  ratio to whole (range), {sizes.turns} turns")
    for way in ways:
        ratios = [a / b for a, b in zip(seconds[way.name], seconds[way.like])]
        print(
            f"{way.name:14}{statistics.median(seconds[way.name]):8.2f}  "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    print(f"hidden states differ by at most {worst:.1e} of the largest")
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
