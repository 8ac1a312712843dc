"""`neuron_jaccard`: the m questions whose neuron sets overlap most (SPEC §5; the paper's §4.3)."""

from __future__ import annotations

from nopsd.selection.neighbours import Neighbours, nearest_sets
from nopsd.selection.retrievers.base import Request, retriever


@retriever()
def neuron_jaccard(request: Request) -> Neighbours:
    return nearest_sets(
        request.table,
        request.queries,
        request.shard,
        request.config.m,
        request.config.dedup_text,
        request.ranks,
        exchange=request.exchange,
        block_mib=request.block_mib,
    )
