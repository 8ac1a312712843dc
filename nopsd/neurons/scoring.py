"""One forward pass over a batch of rollouts, every layer's contributions formed in its hooks (the paper's Eqs. 2 to 5).

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
from nopsd.neurons.collect import collector
from nopsd.neurons.layer_scores import ScoredRow, layer_scores
from nopsd.neurons.reduce import reduce_sets
from nopsd.neurons.sets import SampleSets, SetSizes
from nopsd.rollout.types import Rollout


class Scorer:
    """Scores batches; every method is collective under ZeRO-3 (all ranks together, an idle one with `idle`)."""

    def __init__(self, engine: Any, sites: NeuronSites, sizes: SetSizes, value: str, align: str, ranks: Ranks) -> None:
        self.engine, self.sites, self.sizes, self.ranks = engine, sites, sizes, ranks
        self.value = value
        self.shift = 1 if align == "predict" else 0  # score at the position that predicts y_t, or at y_t's own

    def score(self, rollouts: Sequence[Rollout], batch: Batch, spans: Sequence[Span]) -> list[SampleSets]:
        """The sets of the batch's rollouts, on the CPU; `spans` by rollout index."""
        scored = [spans[i] for i in batch]
        targets = [torch.tensor(rollouts[s.index].response_ids[s.start : s.stop], dtype=torch.long) for s in scored]
        tokens, places = torch.unique(torch.cat(targets), return_inverse=True)
        directions_UH = self._token_rows(tokens)
        lengths = [len(t) for t in targets]
        rows = [
            ScoredRow(row, len(rollouts[span.index].prompt_ids) + span.start - self.shift, own)
            for row, (span, own) in enumerate(zip(scored, places.to(self.ranks.device).split(lengths)))
        ]
        kept = collector(self.sizes, lengths, self.ranks.device)

        def consume(activity: LayerActivity) -> None:
            for sample, first, S_CW, columns in layer_scores(activity, rows, directions_UH, self.sizes.chunk):
                kept.add(sample, activity.layer, first, S_CW, columns)

        with watch(self.sites, self.value, consume, self.sizes.scored):
            self._forward(input_ids(rollouts, batch))
        return reduce_sets(kept, self.sizes, len(batch))

    def idle(self) -> None:
        """Take part in the others' collectives without scoring anything."""
        self._token_rows(torch.zeros(0, dtype=torch.long))
        self._forward(torch.zeros(1, 2, dtype=torch.long))

    def _token_rows(self, tokens: torch.Tensor) -> torch.Tensor:
        return gather_rows(self.sites.unembedding, tokens, self.ranks).float()

    def _forward(self, ids_BT: torch.Tensor) -> None:
        # Through the engine's root, where ZeRO-3 starts its trace of the modules; of the logits only the last
        # position's are computed. No mask: padding is on the right, and a causal model does not look there.
        with torch.no_grad():
            self.engine(input_ids=ids_BT.to(self.ranks.device), use_cache=False, logits_to_keep=1)
