"""`bm25` against the formula by plain loops; the package's other forms of it rank otherwise."""

import math

import pytest

from nopsd.selection.retrievers.bm25 import K1, B, words_of
from tests.selection.pools import contexts_of, shown

TEXTS = [
    "What does the enzyme amylase digest?",
    "Which enzyme digests starch, and which digests fat? Starch: 12",
    "What is the speed of light?",
    "The speed of sound, the speed of light",
    "Light",
    "Name the enzyme.",
]


def scores(query, texts):
    """Lucene's form: idf = log(1 + (N − n + .5)/(n + .5)), tf/(tf + k1 (1 − b + b L/mean L))."""
    documents = [words_of(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    total = [0.0] * len(documents)
    for word in words_of(query):
        n = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
        for place, document in enumerate(documents):
            tf = document.count(word)
            total[place] += idf * tf / (tf + K1 * (1 - B + B * len(document) / mean))
    return total


@pytest.mark.parametrize("query", range(len(TEXTS)))
def test_the_order_is_the_formulas(make_neurons, alone, tmp_path, query):
    neurons = make_neurons(12)
    texts = {uid: TEXTS[i] if i < len(TEXTS) else f"nothing {i}" for i, uid in enumerate(neurons.uids)}
    _, contexts = contexts_of(neurons, alone, tmp_path, texts=texts, retriever="bm25", m=4)
    by_hand = scores(TEXTS[query], list(texts.values()))
    order = sorted((i for i in range(12) if i != query), key=lambda i: (-round(by_hand[i], 9), i))
    if neurons.uids[query] in contexts:  # q003 has no scored position: it is shown, and shown nothing
        assert [uid for uid, _ in shown(contexts)[neurons.uids[query]]] == [neurons.uids[i] for i in order[:4]]
    assert all(n.distance is None for near in contexts.values() for n in near)


def test_words_are_case_folded_and_numbers_count():
    assert words_of("Starch: 12 — STRASSE, straße") == ["starch", "12", "strasse", "strasse"]
