"""The retrievers that show a question its own response, and one set of demonstrations to all."""

import numpy as np
import pytest

from nopsd.selection.seeded import generator
from tests.selection.pools import AGREES, contexts_of, shown, signals_of


def test_same_prompt_rollout_shows_the_first_agreeing_response_of_the_question_itself(make_neurons, alone, tmp_path):
    neurons = make_neurons(12)
    signals = signals_of(neurons, agrees=AGREES)
    selection, contexts = contexts_of(neurons, alone, tmp_path, signals, retriever="same_prompt_rollout")
    found = shown(contexts)
    assert found["q000"] == [("q000", 1)] and found["q002"] == [("q002", 3)] and found["q005"] == [("q005", 0)]
    assert found["q004"] == found["q008"] == []
    agreeing = sum(bool(near) for near in found.values())
    assert agreeing == 7 and len(found) == 11  # q003 has no scored position
    assert selection.stats["short_contexts"] == selection.stats["empty_contexts"] == 4
    _, contexts = contexts_of(neurons, alone, tmp_path, signals, retriever="same_prompt_rollout", m=0)
    assert not any(contexts.values())


@pytest.mark.parametrize(("pick", "samples"), [("first", 1), ("likeliest", 3), ("shortest", 2), ("longest", 1)])
def test_which_agreeing_response_is_shown(make_neurons, alone, tmp_path, pick, samples):
    """Likelier or shorter responses that don't agree (here the first) are barred; of equals the first counts."""
    neurons = make_neurons(12)
    likelihoods = np.tile([-0.1, -0.9, -0.4, -0.3], (12, 1))
    lengths = np.tile([5, 90, 20, 20], (12, 1))
    signals = signals_of(neurons, agrees=AGREES, mean_logp=likelihoods, response_length=lengths)
    context = {"retriever": "same_prompt_rollout", "pick": pick}
    found = shown(contexts_of(neurons, alone, tmp_path, signals, **context)[1])
    assert found["q000"] == [("q000", samples)]
    assert found["q001"] == [("q001", 0)] and found["q002"] == [("q002", 3)] and found["q008"] == []


def test_fixed_shows_all_questions_of_a_domain_the_same(make_neurons, alone, tmp_path):
    """One stored context: who differs would need one of its own. Those shown themselves see the draw's next one."""
    neurons = make_neurons(12)
    domains = {uid: "a" if i % 3 else "b" for i, uid in enumerate(neurons.uids)}
    texts = {uid: "same" if uid in ("q001", "q002") else uid for uid in neurons.uids}
    found = shown(contexts_of(neurons, alone, tmp_path, domains=domains, texts=texts, retriever="fixed")[1])
    for domain in "ab":
        members = [uid for uid in neurons.uids if domains[uid] == domain]
        draw = generator(0, "fixed", members[0]).permutation(members).tolist()
        for uid in found.keys() & set(members):
            wanted = [other for other in draw if other != uid and texts[other] != texts[uid]]
            assert [near for near, _ in found[uid]] == wanted[:3]
    other = shown(contexts_of(neurons, alone, tmp_path, domains=domains, retriever="fixed", seed=5)[1])
    assert other != found
