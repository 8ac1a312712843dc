"""One forward pass over a batch of rollouts, with every layer's contributions formed in its hooks (SPEC §3.2-3.4).

In: a (ZeRO-3) engine, rollouts and the spans to score. Out: `SampleSets` of each rollout of the batch.
A layer's contributions live only inside its hook, a chunk of positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nopsd.engine.distributed import Ranks
from nopsd.engine.rows import gather_rows
from nopsd.neurons.activity import LayerActivity
from nopsd.neurons.adapters import NeuronSites, watch
from nopsd.neurons.batches import Batch, Span, input_ids
from nopsd.neurons.contribution import contribution
from nopsd.neurons.sets import Accumulator, SampleSets, SetSizes, accumulator, finish
from nopsd.rollout.types import Rollout


class Scorer:
    """Scores batches; every method is collective under ZeRO-3 (all ranks together, an idle one with `idle`)."""

    def __init__(
        self, engine: Any, sites: NeuronSites, sizes: SetSizes, value: str, align: str, ranks: Ranks
    ) -> None:
        self.engine, self.sites, self.sizes, self.ranks = engine, sites, sizes, ranks
        self.value = value
        self.shift = 1 if align == "predict" else 0  # the position that predicts y_t, or y_t's own (G9)

    def score(self, rollouts: Sequence[Rollout], batch: Batch, spans: Sequence[Span]) -> list[SampleSets]:
        """The sets of the batch's rollouts, on the CPU; `spans` by rollout index."""
        scored = [spans[i] for i in batch]
        targets = [rollouts[s.index].response_ids[s.start : s.stop] for s in scored]
        rows_TH = self._token_rows([token for target in targets for token in target])
        token_rows = list(rows_TH.split([len(t) for t in targets]))
        first = [len(rollouts[s.index].prompt_ids) + s.start - self.shift for s in scored]
        accumulators = [accumulator(self.sizes, self.ranks.device) for _ in batch]

        def consume(activity: LayerActivity) -> None:
            (block,) = activity.blocks
            down = block.down_HF.float()
            for row, (start, rows, kept) in enumerate(zip(first, token_rows, accumulators)):
                at = row * activity.shape[1] + start
                self._add_chunks(kept, activity.layer, block.values(slice(at, at + len(rows))), rows, down)

        with watch(self.sites, self.value, consume):
            self._forward(input_ids(rollouts, batch))
        return [_on_cpu(finish(kept.best(), self.sizes)) for kept in accumulators]

    def idle(self) -> None:
        """Take part in the others' collectives without scoring anything (§13.1)."""
        self._token_rows([])
        self._forward(torch.zeros(1, 2, dtype=torch.long))

    def _add_chunks(
        self, kept: Accumulator, layer: int, values_TF: torch.Tensor, rows_TH: torch.Tensor, down_HF: torch.Tensor
    ) -> None:
        for first in range(0, len(rows_TH), self.sizes.chunk):
            piece = slice(first, first + self.sizes.chunk)
            kept.add(layer, first, contribution(values_TF[piece], rows_TH[piece], down_HF))

    def _token_rows(self, tokens: list[int]) -> torch.Tensor:
        return gather_rows(self.sites.unembedding, torch.tensor(tokens, dtype=torch.long), self.ranks).float()

    @torch.no_grad()
    def _forward(self, ids_BT: torch.Tensor) -> None:
        # Through the engine's root, where ZeRO-3 starts its trace of the modules; of the logits only the last
        # position's are computed. No mask: padding is on the right, and a causal model does not look there.
        self.engine(input_ids=ids_BT.to(self.ranks.device), use_cache=False, logits_to_keep=1)


def _on_cpu(sets: SampleSets) -> SampleSets:
    return SampleSets(sets.count, sets.ids.cpu(), sets.scores.cpu(), sets.histogram.cpu())
