"""Batches of the distillation loop: data order, row alignment, weights, sharing out over ranks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from nopsd.engine.sequence_parallel import SequenceParallel
from nopsd.train.batches import (
    Batching,
    Example,
    Side,
    batch_uids,
    check_alignment,
    rank_micro_batches,
    sequence_weights,
)
from nopsd.train.planning import Limits, retained_of


def test_questions_from_elsewhere_have_a_share_and_an_order_of_their_own():
    """A quarter of eight; the others pass once over the pool before any comes again, as they do without."""
    own, others = [f"q{i}" for i in range(6)], [f"e{i}" for i in range(4)]
    steps = [batch_uids(own, step, 8, 0, others, 0.25) for step in range(2)]
    assert all(step[:6] == batch_uids(own, number, 6, 0) for number, step in enumerate(steps))
    assert sorted(steps[0][6:] + steps[1][6:]) == others
    assert batch_uids(own, 3, 8, 0, (), 0.25) == batch_uids(own, 3, 8, 0)
    assert [retained_of(8, share) for share in (0, 0.01, 0.3, 0.99)] == [0, 1, 2, 7]


def examples(count: int, seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(1, 99, (length,), generator=generator).tolist()

    return [Example(f"q{i}", ids(2, 6), ids(8, 20), ids(1, 9)) for i in range(count)]


def test_an_epoch_uses_every_question_once_and_the_next_is_shuffled_anew():
    uids = [f"q{i}" for i in range(10)]
    drawn = list(itertools.chain.from_iterable(batch_uids(uids, step, 4, seed=3) for step in range(5)))
    assert sorted(drawn[:10]) == sorted(uids) == sorted(drawn[10:])  # step 2 wraps around
    assert drawn[:10] != drawn[10:]
    assert drawn != list(itertools.chain.from_iterable(batch_uids(uids, step, 4, seed=4) for step in range(5)))


def test_the_order_depends_on_the_set_and_not_on_how_it_was_listed():
    uids = [f"q{i}" for i in range(10)]
    assert batch_uids(uids, 7, 4, 0) == batch_uids(uids[::-1], 7, 4, 0)


def test_a_batch_larger_than_the_set_repeats_whole_epochs():
    assert sorted(batch_uids(["a", "b"], 0, 4, 0)) == ["a", "a", "b", "b"]


def test_rows_of_both_roles_predict_the_response_tokens():
    step = examples(5)
    for batch in rank_micro_batches(step, 0, 1, Batching(Limits(2))):
        for side in (batch.student, batch.teacher):
            assert side.ids_BT.flatten()[side.rows_N + 1].tolist() == batch.targets_N.tolist()
    batch = rank_micro_batches(step[:1], 0, 1, Batching(Limits(1)))[0]
    assert batch.targets_N.tolist() == step[0].response
    assert batch.student.ids_BT[0].tolist() == step[0].student_prompt + step[0].response
    assert batch.teacher.rows_N[0] == len(step[0].teacher_prompt) - 1


def test_a_shift_by_one_token_is_refused():
    step = [Example("q", [1, 2], [3, 4, 5], [6, 7, 8])]
    batch = rank_micro_batches(step, 0, 1, Batching(Limits(1)))[0]
    shifted = Side(batch.teacher.ids_BT, batch.teacher.rows_N - 1)
    with pytest.raises(ValueError, match="teacher"):
        check_alignment({"student": batch.student, "teacher": shifted}, batch.targets_N)


def test_another_response_on_the_teachers_side_is_refused():
    batch = rank_micro_batches([Example("q", [1, 2], [3, 4, 5], [6, 7, 8])], 0, 1, Batching(Limits(1)))[0]
    ids = batch.teacher.ids_BT.clone()
    ids[0, -1] = 9
    with pytest.raises(ValueError, match="teacher"):
        check_alignment({"teacher": Side(ids, batch.teacher.rows_N)}, batch.targets_N)


def test_auxiliary_prompts_are_followed_by_the_same_response():
    """Their rows must predict the very tokens the student's do, in dummies too, or another position is compared."""
    step = [replace(e, aux_prompts={"ctx_only": [90 + i] * (i + 1)}) for i, e in enumerate(examples(3))]
    for rank in range(4):  # one runs a dummy
        for batch in rank_micro_batches(step, rank, 4, Batching(Limits(1))):
            side = batch.aux["ctx_only"]
            assert side.ids_BT.flatten()[side.rows_N + 1].tolist() == batch.targets_N.tolist()
            if batch.weights_N.any():
                index = int(side.ids_BT[0, 0]) - 90
                assert side.rows_N[0] == index and batch.targets_N.tolist() == step[index].response


def test_a_rectangle_is_padded_on_the_right_where_causal_attention_never_looks():
    step = [Example("a", [1], [1, 1], [2, 2, 2]), Example("b", [1], [1, 1], [2])]
    side = rank_micro_batches(step, 0, 1, Batching(Limits(2, packed=False), pad=7))[0].student
    assert side.ids_BT.tolist() == [[1, 2, 2, 2], [1, 2, 7, 7]] and side.segments is None
    assert side.rows_N.tolist() == [0, 1, 2, 4]


def test_a_packed_row_holds_no_padding():
    step = [Example("a", [1], [1, 1], [2, 2, 2]), Example("b", [1], [1, 1], [2])]
    batch = rank_micro_batches(step, 0, 1, Batching(Limits(2), pad=7))[0]
    assert batch.student.ids_BT.tolist() == [[1, 2, 2, 2, 1, 2]] and batch.student.rows_N.tolist() == [0, 1, 2, 4]
    assert batch.teacher.rows_N.tolist() == [1, 2, 3, 6]
    assert batch.teacher.segments is not None and batch.teacher.segments.lengths == (5, 3)
    assert batch.teacher.prompts == (2, 2) and batch.teacher.names == ("a", "b")


@pytest.mark.parametrize(
    ("tokens", "skip", "most", "expected"),
    [
        (5, 0, None, [0, 1, 2, 3, 4]),
        (5, 2, None, [2, 3, 4]),
        (5, 0, 2, [0, 1]),
        (5, 1, 3, [1, 2]),
        (5, 3, 2, []),
        (2, 4, None, []),
        (2, 0, 9, [0, 1]),
        (2, 4, 9, []),
    ],
)
def test_skipped_and_capped_positions_carry_no_loss(tokens, skip, most, expected):
    step = [Example("q", [90], [91], list(range(tokens))), Example("other", [90], [91], list(range(20, 29)))]
    (batch,) = rank_micro_batches(step, 0, 1, Batching(Limits(2), skip_first=skip, max_tokens=most))
    counted = batch.targets_N[batch.weights_N > 0].tolist()
    assert [i for i in counted if i < 20] == expected


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", (2.0 * 1 + 4.0 * 3) / 4),
        ("seq_mean_token_mean", (2.0 + 4.0) / 2),
        ("seq_mean_token_sum", (2.0 * 1 + 4.0 * 3) / 2),
    ],
)
def test_aggregations(aggregation, expected):
    """Two sequences of 1 and 3 tokens whose tokens lose 2 and 4 each, and an empty one that must not count."""
    w = sequence_weights([1, 3, 0], aggregation)
    assert w[0] * 1 * 2.0 + w[1] * 3 * 4.0 == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("ranks", "micro", "tokens"),
    [
        (1, 8, None),
        (1, 2, None),
        (2, 2, None),
        (4, 1, None),
        (3, 2, None),
        (1, 1, 60),
        (3, 1, 40),
        (2, 1, 1),
    ],
)
def test_the_weighted_sum_does_not_depend_on_the_split(aggregation, ranks, micro, tokens, packed):
    """Σ weight·ℓ with ℓ = the token's id: the same number for every ranks × micro-batches (13.4)."""
    step = examples(7)
    spans = [range(1, min(6, len(e.response))) for e in step]
    weights = sequence_weights([len(s) for s in spans], aggregation)
    whole = sum(w * sum(e.response[t] for t in s) for e, s, w in zip(step, spans, weights))
    split = sum(
        float((batch.weights_N.double() * batch.targets_N).sum())
        for rank in range(ranks)
        for batch in rank_micro_batches(
            step, rank, ranks, Batching(Limits(micro, tokens, packed), aggregation, 0, skip_first=1, max_tokens=6)
        )
    )
    assert split == pytest.approx(whole, rel=1e-6)


def test_an_idle_rank_gets_a_dummy_of_weight_zero():
    batches = rank_micro_batches(examples(1), 1, 2, Batching(Limits(1)))
    assert len(batches) == 1 and batches[0].weights_N.tolist() == [0.0] and batches[0].student.ids_BT.numel() == 2


def test_a_step_whose_tokens_are_all_masked_has_weight_zero_and_still_runs():
    batches = rank_micro_batches(examples(2), 0, 1, Batching(Limits(2), skip_first=99))
    assert len(batches) == 1 and float(batches[0].weights_N.sum()) == 0.0


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_share_a_sequence_share_its_loss_rows(size):
    """Each row of the loss once, with its own target, on every side: counted twice, the gradient would double."""
    step = [replace(e, aux_prompts={"ctx_only": [90 + i]}) for i, e in enumerate(examples(3))]
    whole = rank_micro_batches(step, 0, 1, Batching(Limits(4)))[0]
    places = [SequenceParallel(None, rank, size) for rank in range(size)]
    shares = [rank_micro_batches(step, 0, 1, Batching(Limits(4), parallel=place))[0] for place in places]
    for share in shares:
        for side in (share.student, share.teacher, share.aux["ctx_only"]):
            assert side.ids_BT.flatten()[side.rows_N + 1].tolist() == share.targets_N.tolist()
        assert len(share.weights_N) == len(share.served_N) == len(share.targets_N)
    rows = torch.cat([share.student.rows_N for share in shares]).sort().values
    assert rows.tolist() == whole.student.rows_N.tolist()
    assert float(sum(share.weights_N.double().sum() for share in shares)) == pytest.approx(1.0)
