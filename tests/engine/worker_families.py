"""On two ranks: each family's base model in small, its sequences split over both, against the whole on one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from nopsd.engine.distributed import Ranks
from nopsd.engine.packed_attention import Segments, inputs_of
from nopsd.engine.sequence_parallel import join, split_sequences
from nopsd.engine.tiny import tiny_model
from tests.engine import families

LENGTHS = (5, 1, 13, 8)  # 27 tokens: neither divisible by two nor cut where a sequence ends


def gap(name: str, parallel: Any) -> dict[str, float]:
    """Largest difference of hidden states, of their size: a packed row, a rectangle, and the embedding's gradient."""
    plain, split = (tiny_model(families.config_of(name)) for _ in range(2))
    plain.set_attn_implementation("eager")
    split_sequences(split, parallel)
    draws = torch.Generator().manual_seed(2)
    sequences = [torch.randint(3, 64, (n,), generator=draws) for n in LENGTHS]
    alone = [plain.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0] for ids in sequences]
    row = split.base_model(**inputs_of(torch.cat(sequences)[None], Segments(LENGTHS))).last_hidden_state[0]
    rectangle = split.base_model(input_ids=sequences[2][None], use_cache=False).last_hidden_state[0]
    weights = torch.randn(row.shape, generator=draws)
    (torch.cat(alone) * weights).sum().backward()
    own = torch.zeros_like(weights)
    own[parallel.rank :: parallel.size] = weights[parallel.rank :: parallel.size]  # each row's loss on one rank
    (row * own).sum().backward()
    grad = split.get_input_embeddings().weight.grad
    torch.distributed.all_reduce(grad)
    return {
        "packed": relative(row, torch.cat(alone)),
        "padded": relative(rectangle, alone[2]),
        "gradient": relative(grad, plain.get_input_embeddings().weight.grad),
    }


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    parallel = join(ranks, 2)
    gaps = {name: gap(name, parallel) for name in job["families"]}
    if ranks.is_main:
        (Path(job["out"]) / "gaps.json").write_text(json.dumps(gaps))
