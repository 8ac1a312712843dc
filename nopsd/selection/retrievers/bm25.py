"""`bm25`: the m questions whose texts share most words with the question's, by BM25 (package bm25s).

What retrieval by the text alone gives, without any model: the control of neuron sets and embeddings.
"""

from __future__ import annotations

import re

import bm25s
import numpy as np
import torch

from nopsd.selection.retrievers.base import NO_NEIGHBOR, Neighbors, Request, retriever

K1, B = 1.5, 0.75  # the package's, and Lucene's form of the weights
WORD = re.compile(r"\w+")


@retriever(neurons=False)
def bm25(request: Request) -> Neighbors:
    """Each rank finds the neighbors of a slice of the queries; no distances. Collective."""
    words = [words_of(text) for text in request.texts]
    index = bm25s.BM25(k1=K1, b=B, method="lucene", dtype="float64")
    index.index(words, show_progress=False)
    edges = np.linspace(0, len(request.queries), request.ranks.world + 1).astype(np.int64)
    own = request.queries[edges[request.ranks.rank] : edges[request.ranks.rank + 1]]
    numbers = np.full((len(own), request.config.m), NO_NEIGHBOR, dtype=np.int64)
    for row, query in enumerate(own):
        permitted = np.flatnonzero(request.permitted(own[row : row + 1])[0])
        scores = index.get_scores(words[query])[permitted]
        best = permitted[np.argsort(-scores, kind="stable")[: request.config.m]]
        numbers[row, : len(best)] = best
    whole = torch.cat(request.ranks.all_gather_ragged(torch.from_numpy(numbers))).numpy()
    return Neighbors(whole, np.full(whole.shape, np.nan))


def words_of(text: str) -> list[str]:
    """Words and numbers, case-folded."""
    return WORD.findall(text.casefold())
