"""Assigning a step's sequences to data-parallel groups and micro-batches: properties over random steps."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from nopsd.config import TrainConfig
from nopsd.errors import ConfigError
from nopsd.train.batches import batch_uids
from nopsd.train.planning import SLACK, Item, Limits, check_budget, lr_at, owner, plan, settled, side_tokens, work

Case = tuple[list[Item], int, Limits]


def drawn(seed: int) -> Case:
    """A step: 0 to 24 questions of 1 to 5 rollouts, one or two further prompts, groups 1 to 8, any limits."""
    source = random.Random(seed)
    sides, items = source.choice((2, 3)), []
    for question in range(source.randint(0, 24)):
        prompts = tuple(source.randint(1, 9) if side == 0 else source.randint(5, 60) for side in range(sides))
        items += [Item(f"q{question}", prompts, source.randint(1, 40)) for _ in range(source.randint(1, 5))]
    source.shuffle(items)
    tokens = source.choice((None, source.randint(1, 20), source.randint(40, 400)))
    once_from = source.choice((None, 1, 20))
    packed, owners = source.random() < 0.7, source.random() < 0.5
    return items, source.randint(1, 8), Limits(source.randint(1, 5), tokens, packed, once_from, owners)


CASES = [drawn(seed) for seed in range(300)]


def counted(items: list[Item], limits: Limits) -> int:
    """The tokens of the fullest side, by plain loops: a long prompt once, but the student's for every rollout."""
    most = 0
    for side in range(len(items[0].prompts)):
        if not limits.packed:
            tokens = max(i.prompts[side] + i.response for i in items) * len(items)
        else:
            tokens, seen = 0, set()
            for item in items:
                tokens += item.response
                long = limits.once_from is not None and item.prompts[side] >= limits.once_from
                if side == 0 or not long or item.uid not in seen:
                    tokens += item.prompts[side]
                seen.add(item.uid)
        most = max(most, tokens)
    return most


def test_every_sequence_runs_once_on_equally_many_micro_batches():
    """Else a rollout is lost or counts twice, or ranks wait for each other for ever."""
    for items, groups, limits in CASES:
        slots = plan(items, groups, limits)
        assert len(slots) == groups and len({len(group) for group in slots}) == 1 and slots[0]
        assert sorted(i for group in slots for pack in group for i in pack) == list(range(len(items)))


def test_the_budget_is_kept_and_a_sequence_over_it_goes_alone():
    """Else a micro-batch is larger than the memory that the user measured."""
    over = 0
    for items, groups, limits in CASES:
        for pack in itertools.chain.from_iterable(plan(items, groups, limits)):
            if limits.tokens is None:
                assert len(pack) <= limits.sequences
            elif len(pack) > 1:
                assert counted([items[i] for i in pack], limits) <= limits.tokens
            elif pack:
                over += counted([items[pack[0]]], limits) > limits.tokens
    assert over > 100


def test_sequences_by_number_take_the_fewest_micro_batches():
    """Else ranks would run dummies in place of work."""
    for items, groups, limits in CASES:
        if limits.tokens is None:
            count = -(-(-(-len(items) // groups)) // limits.sequences)
            assert len(plan(items, groups, limits)[0]) == max(1, count)


def test_the_plan_depends_on_the_step_alone():
    """Every rank computes it by itself; another order of equal numbers would be another plan for some."""
    for items, groups, limits in CASES[:50]:
        assert plan(items, groups, limits) == plan([Item(i.uid, i.prompts, i.response) for i in items], groups, limits)


def group_loads(items: list[Item], slots: list[list[list[int]]]) -> list[int]:
    return [work([items[i] for pack in group for i in pack], Limits(4)) if any(group) else 0 for group in slots]


def step_of(seed: int, questions: int, rollouts: int) -> list[Item]:
    source, items = random.Random(seed), []
    for question in source.sample(range(1000), questions):
        prompts = (100, source.randint(1000, 1500))
        items += [Item(f"q{question}", prompts, source.randint(50, 400)) for _ in range(rollouts)]
    return items


def test_groups_are_balanced():
    """The heaviest group holds up a step: by the longest-first rule, and within its slack where groups keep prompts."""
    for seed in range(40):
        items = step_of(seed, 32, 1)
        for owners, most in ((False, 1.05), (True, 1.05 * SLACK)):
            loads = group_loads(items, plan(items, 4, Limits(4, 4000, owners=owners)))
            assert max(loads) <= most * statistics.mean(loads)


def test_rollouts_of_a_question_stay_together():
    """Their teacher prompt is computed once where they are; a group of its own for each would compute it four times."""
    for seed in range(20):
        items = step_of(seed, 16, 4)
        slots = plan(items, 4, Limits(4, 8000, once_from=257))
        packs = [{items[i].uid for i in pack} for group in slots for pack in group if pack]
        assert sum(len(p) for p in packs) == 16  # each question in one micro-batch


def test_a_question_larger_than_a_groups_share_is_cut():
    """Else one rank would work and seven wait."""
    items = [Item("q", (10, 100), 50) for _ in range(8)]
    assert [len([i for pack in group for i in pack]) for group in plan(items, 8, Limits(4))] == [1] * 8
    assert plan(items, 2, Limits(1, 300))[0] != [[]]


def test_a_question_keeps_its_group_over_steps():
    """What a group keeps of earlier steps is of use only if the question comes back to it; without a group of its
    own one in `groups` does."""
    for groups in (2, 4, 8):
        kept = 0
        for seed in range(30):
            items = step_of(seed, 16, 1)
            slots = plan(items, groups, Limits(4, owners=True))
            kept += sum(
                owner(items[i].uid, groups) == group for group in range(groups) for p in slots[group] for i in p
            )
        assert kept / (30 * 16) > 0.6


def test_micro_batches_of_like_size_run_at_the_same_time():
    """Ranks gather weights together, so each waits for the largest of the turn."""
    for items, groups, limits in CASES:
        for group in plan(items, groups, limits):
            sizes = [counted([items[i] for i in pack], limits) if pack else 0 for pack in group]
            assert sizes == sorted(sizes, reverse=True)


def test_tokens_of_the_sides_by_hand():
    items = [Item("a", (3, 10), 4), Item("a", (3, 10), 6), Item("b", (5, 7), 1)]
    assert side_tokens(items, Limits(4)) == [3 + 4 + 3 + 6 + 5 + 1, 10 + 4 + 10 + 6 + 7 + 1]
    assert side_tokens(items, Limits(4, once_from=11)) == side_tokens(items, Limits(4))
    assert side_tokens(items, Limits(4, once_from=10)) == [3 + 4 + 3 + 6 + 5 + 1, 10 + 4 + 6 + 7 + 1]
    assert side_tokens(items, Limits(4, packed=False, once_from=10)) == [3 * 9, 3 * 16]


def test_a_budget_below_every_sequence_is_refused():
    """It would silently be train.micro=1."""
    check_budget(None, 9, 90, 10)
    check_budget(10, 9, 90, 10)
    with pytest.raises(ConfigError, match=r"train.micro_tokens=9: the shortest.*9 tokens.*set 100 or more"):
        check_budget(9, 9, 90, 10)


@pytest.mark.parametrize(("questions", "batch", "epochs"), [(1600, 16, 1.0), (33, 4, 1.0), (7, 16, 2.0), (50, 8, 0.3)])
def test_every_question_comes_as_often_as_asked_and_no_whole_step_more(questions, batch, epochs):
    """A step too few leaves questions out of the only epoch."""
    steps = settled(TrainConfig(epochs=epochs, batch=batch), questions).steps
    assert steps * batch >= epochs * questions > (steps - 1) * batch
    if epochs == int(epochs):
        uids = [f"q{i}" for i in range(questions)]
        drawn = [uid for step in range(steps) for uid in batch_uids(uids, step, batch, 0)]
        assert min(drawn.count(uid) for uid in uids) >= epochs


def test_decimal_fractions_count_as_written():
    """0.1 of 160 questions is 16, not 16.000…1 and a step more."""
    assert settled(TrainConfig(epochs=0.1, batch=16), 160).steps == 1
    assert settled(TrainConfig(epochs=0.7, batch=1), 10).steps == 7


def test_what_is_null_leaves_steps_and_warmup():
    assert settled(TrainConfig(steps=5, warmup=2), 1000) == TrainConfig(steps=5, warmup=2)


def test_warmup_as_a_share_of_the_steps():
    """TTRL's 3 %: the rate rises over so many of the steps and ends at zero with the last."""
    train = settled(TrainConfig(epochs=1, batch=16, warmup_ratio=0.03, schedule="cosine", lr=1.0), 1600)
    assert (train.steps, train.warmup) == (100, 3)
    assert [lr_at(step, train) for step in (0, 2, 3)] == pytest.approx([1 / 3, 1.0, 1.0])
    assert lr_at(100, train) == pytest.approx(0.0)


def test_learning_rate_rises_over_the_warm_up_then_stays_or_falls_to_nothing():
    constant = TrainConfig(steps=30, lr=2.0, warmup=10)
    assert [lr_at(s, constant) for s in (0, 4, 9, 10, 29)] == [0.2, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainConfig(steps=30, lr=2.0, warmup=10, schedule="cosine")
    assert lr_at(10, cosine) == 2.0 and lr_at(20, cosine) == pytest.approx(1.0) and lr_at(30, cosine) < 1e-9
    assert lr_at(0, TrainConfig(warmup=0, lr=2.0)) == 2.0
