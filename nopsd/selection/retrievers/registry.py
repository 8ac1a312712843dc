"""The retrievers by name. In: a config. Out: the `Retriever` it names, ours or a user's."""

from __future__ import annotations

from nopsd.config import ENTRY_POINTS, ContextConfig
from nopsd.plugins import resolve
from nopsd.selection.retrievers.base import Retriever
from nopsd.selection.retrievers.bm25 import bm25
from nopsd.selection.retrievers.embedding_cos import embedding_cos, mmr, trajectory_cos
from nopsd.selection.retrievers.standard import fixed, neuron_jaccard, nothing, random_draw, same_prompt_rollout

GROUP = ENTRY_POINTS["context.retriever"]  # of entry points
RETRIEVERS = {
    r.name: r
    for r in (
        neuron_jaccard,
        random_draw,
        fixed,
        embedding_cos,
        trajectory_cos,
        mmr,
        bm25,
        same_prompt_rollout,
        nothing,
    )
}


def find_retriever(config: ContextConfig) -> Retriever:
    """The retriever of context.retriever; ConfigError if there is none or its module can't be imported."""
    return resolve("context.retriever", config.retriever, RETRIEVERS, GROUP, Retriever)
