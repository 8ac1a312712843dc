"""Which rollouts go together: budgets, whole questions, thinking cut off, even shares."""

from nopsd.neurons.batches import assign_shards, input_ids, plan_shards, schedule, scored_span
from nopsd.rollout.types import Rollout


def rollout(prompt, response, uid="a", sample=0):
    return Rollout(uid, sample, prompt, response, "", "stop", 0)


def test_batches_keep_the_budget_and_every_rollout_once(make_rollouts):
    rollouts = make_rollouts(30, samples=3)
    shards = plan_shards(rollouts, 60)
    batches = [batch for shard in shards for batch in shard]
    assert sorted(i for batch in batches for i in batch) == list(range(90))
    for batch in batches:
        padded = len(batch) * max(len(rollouts[i].prompt_ids + rollouts[i].response_ids) for i in batch)
        assert padded <= 60 or len(batch) == 1
    homes = {}
    for number, shard in enumerate(shards):
        for batch in shard:
            for i in batch:
                assert homes.setdefault(rollouts[i].uid, number) == number  # a question stays whole
    assert len(batches) < 60  # and they do share batches


def test_the_plan_depends_on_the_rollouts_alone_not_on_their_order(make_rollouts):
    """Else scores could differ in the last bit between two equal runs."""
    rollouts = make_rollouts(20)
    shuffled = rollouts[::-1]
    plan = [[[rollouts[i].uid for i in b] for b in shard] for shard in plan_shards(rollouts, 60)]
    assert plan == [[[shuffled[i].uid for i in b] for b in shard] for shard in plan_shards(shuffled, 60)]


def test_shards_are_assigned_evenly_and_an_idle_rank_gets_none():
    shards = [((0,), (1,), (2,)), ((3,),), ((4,),), ((5,),)]
    assert assign_shards(shards, [0, 1, 2, 3], 2) == [[0], [1, 2, 3]]
    assert assign_shards(shards, [1, 3], 3) == [[1], [3], []]


def test_every_rank_has_as_many_passes_and_all_know_how_far_they_are():
    """A rank with one forward pass fewer hangs the others under ZeRO-3."""
    shards = [((0, 4), (1,), (2,)), ((3,),), ((5,),)]
    passes = [schedule(shards, [[0], [1], []], rank) for rank in range(3)]
    assert [[p.batch for p in own] for own in passes] == [[(0, 4), (1,), (2,)], [(3,), (), ()], [(), (), ()]]
    assert [[p.rollouts for p in own] for own in passes] == [[3, 1, 1]] * 3
    assert [p.ends_shard for p in passes[0]] == [False, False, True]
    assert [p.ends_shard for p in passes[1]] == [True, False, False]


def test_padding_is_on_the_right():
    ids = input_ids([rollout([5], [6, 7]), rollout([8], [9])], (0, 1))
    assert ids.tolist() == [[5, 6, 7], [8, 9, 0]]


def test_thinking_is_dropped_up_to_the_last_closing_tag():
    """50 opens, 51 closes. A template may open or close the block in the prompt already."""
    tags = (50, 51)

    def span(prompt, response, think_ids=tags, drop_last=False):
        found = scored_span(rollout(prompt, response), 0, think_ids, drop_last)
        return found.start, found.stop

    assert span([1, 50], [3, 51, 4, 5]) == (2, 4)
    assert span([1], [50, 3, 51, 9, 51, 4]) == (5, 6)
    assert span([1, 50], [3, 4]) == (2, 2)  # never stopped thinking
    assert span([1, 50, 51], [3, 4]) == (0, 2)  # thinking switched off by the template
    assert span([1], [3, 4]) == (0, 2)
    assert span([1, 50], [3, 51, 4, 5], None) == (0, 4)
    assert span([1, 50], [3, 51, 4, 5], drop_last=True) == (2, 3)
    assert span([1, 50], [51], drop_last=True) == (0, 0)
    assert span([1], []) == (0, 0)
