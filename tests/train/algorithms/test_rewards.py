"""Advantages by hand; rewards on hostile texts: what they get wrong is learnt."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nopsd.data.reading import AnswerReader
from nopsd.data.records import Option, Question
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.rewards import certainty_rewards, group_advantages, majority_rewards, zero_share
from nopsd.train.batches import Batching, Example, rank_micro_batches
from nopsd.train.planning import Limits

ALONE = Ranks(0, 1, torch.device("cpu"))
QUESTION = Question("q", "d", "s", "Which?", (Option("A", "one"), Option("B", "two"), Option("C", "three")))


def test_advantages_by_hand():
    """verl's: (r − mean)/(std + 1e-6) with n − 1; groups must not leak into one another."""
    found = group_advantages([1, 0, 0, 1, 5, 5, 5, 5], 4, 1e-6)
    std = math.sqrt(4 * 0.25 / 3)
    assert found[:4] == pytest.approx([0.5 / (std + 1e-6) * s for s in (1, -1, -1, 1)], rel=1e-12)
    assert found[4:] == [0.0] * 4
    assert zero_share([1, 0, 0, 1, 5, 5, 5, 5], 4) == 0.5
    tenths = [0.1] * 3  # whose mean is not 0.1 in binary: its remainder over ε would be an advantage of its own
    assert group_advantages(tenths, 3, 0.0) == [0.0] * 3


@pytest.mark.parametrize(("count", "n"), [(3, 2), (4, 1), (0, 2)])
def test_what_is_no_group_is_refused(count: int, n: int):
    """Responses assigned to wrong questions would be compared with strangers."""
    with pytest.raises(ValueError, match="groups"):
        group_advantages([1.0] * count, n, 1e-6)


def rollouts(texts: list[str]) -> list[Rollout]:
    return [Rollout("q", i, [1], [2] if text else [], text, "stop", 0) for i, text in enumerate(texts)]


HOSTILE = {  # texts of a group, its rewards, the vote's share, the share that can't be read
    "the last tag": (
        ["<answer>B</answer>", "<answer>A</answer>", "<answer>A</answer>, no: <answer>B</answer>"],
        [1, 0, 1],
        2 / 3,
        0,
    ),
    "first of a tie": (["<answer>C</answer>", "<answer>A</answer>"], [1, 0], 1 / 2, 0),
    "nothing to read": (["", "no idea, sorry", "<answer></answer>"], [0, 0, 0], 0, 1),
    "unread ones have no vote": (["", "", "", "<answer>B</answer>"], [0, 0, 0, 1], 1 / 4, 3 / 4),
    "not an option": (["<answer>E</answer>", "<answer>E</answer>", "<answer>C</answer>"], [0, 0, 1], 1 / 3, 2 / 3),
    "another script's A": (
        ["<answer>\u0410</answer>", "<answer>\u0391</answer>", "<answer>A</answer>"],
        [0, 0, 1],
        1 / 3,
        2 / 3,
    ),
    "a claim about rewards": (
        ["reward=1 <answer>A</answer> majority", "<answer>B</answer>", "<answer>B</answer>"],
        [0, 1, 1],
        2 / 3,
        0,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_majority_rewards_on_hostile_texts(case: str):
    """An unreadable answer that votes, or is rewarded, teaches the policy to be unreadable."""
    texts, wanted, share, unparsed = HOSTILE[case]
    found = majority_rewards(["q"], rollouts(texts), len(texts), {"q": QUESTION})
    assert found.metrics["majority_share"] == pytest.approx(share)
    assert found.values == wanted
    assert found.metrics["unparsed_share"] == pytest.approx(unparsed)


def test_a_response_cut_inside_its_thinking_has_no_answer():
    """Options weighed in an unfinished think block are no vote."""
    texts = ["maybe <answer>A</answer> but", "maybe <answer>A</answer> but", "hm </think> <answer>B</answer>"]
    found = majority_rewards(["q"], rollouts(texts), 3, {"q": QUESTION}, AnswerReader(think_open=True))
    assert found.values == [0, 0, 1] and found.metrics["unparsed_share"] == pytest.approx(2 / 3)


def test_rewards_cannot_reach_a_label():
    """What the reward is handed has no answer field; a question that isn't in the pool is refused, not guessed."""
    names = {f.name for kind in (Question, Option, Rollout) for f in dataclasses.fields(kind)}
    assert not names & {"answer", "label_index", "gold", "key", "answers", "solution"}
    with pytest.raises(DataError, match="not in the pool"):
        majority_rewards(["other"], rollouts(["<answer>A</answer>"] * 2), 2, {"q": QUESTION})


def test_certainty_is_each_responses_own_mean():
    """Tokens summed into another response, or a long response rewarded for its length, would show."""
    lengths = [3, 0, 5, 1]
    examples = [Example("q", [1, 2], None, list(range(4, 4 + n))) for n in lengths]
    batches = rank_micro_batches(examples, 0, 1, Batching(Limits(2)))
    value = {(s, t): 10.0 * s + t for s, n in enumerate(lengths) for t in range(n)}
    statistics = []
    for batch in batches:
        places = [value[s, token - 4] for s, token in zip(batch.example_N.tolist(), batch.targets_N.tolist())]
        statistics.append(torch.tensor([[0.0] * len(places), places, [0.0] * len(places)]))
    found = certainty_rewards(4, batches, statistics, ALONE)
    assert found.values == [1.0, 0.0, 22.0, 30.0]
