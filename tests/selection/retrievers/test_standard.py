"""The retriever that shows a question its own response."""

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
