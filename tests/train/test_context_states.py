"""Prompts read once, against whole forwards of a plain model, one sequence at a time."""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nopsd.config import Config, DistillConfig
from nopsd.engine.distributed import Ranks
from nopsd.engine.packed_attention import Context, use_packed_attention
from nopsd.stages.registry import STAGES
from nopsd.train import context_states
from nopsd.train.algorithms.distill import Distillation
from nopsd.train.batches import Batching, Example, MicroBatch, Side, rank_micro_batches
from nopsd.train.context_states import PrefixCache, key_of, plan_prefixes, prefixes, suffixes
from nopsd.train.losses.fused_linear import DistillInputs
from nopsd.train.losses.head import DistillModel, response_hidden
from nopsd.train.metrics import Clock
from nopsd.train.planning import Limits
from nopsd.train.run import Step
from nopsd.train.teachers import Reader, context_metrics, teacher_of
from tests.models import qwen3

HERE = Path(__file__).parent
ALONE = Ranks(0, 1, torch.device("cpu"))
TOKEN = 2 * 2 * 1 * 8 * 8  # bytes a token: keys and values, two layers, one head of width 8, float64
LONG, LONGER, SHORT = list(range(1, 13)), list(range(20, 40)), [3, 4, 5]  # prompts


@pytest.fixture(autouse=True)
def tiny_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_states, "SHORTEST", 5)


def tiny(dtype: torch.dtype = torch.float64) -> Any:
    return qwen3().to(dtype)


class Forwards:
    """A packed model's forward, and what it was asked: tokens, and whether they were recorded."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.model, self.asked = tiny(dtype), []
        use_packed_attention(self.model)

    def __call__(self, ids_BT: Tensor, rows_N: Tensor, segments: Any = None) -> Tensor:
        self.asked.append((ids_BT.shape[1], bool(segments and segments.recorded)))
        return response_hidden(self.model, ids_BT, rows_N, segments)

    def recorded(self) -> list[int]:
        return [tokens for tokens, recorded in self.asked if recorded]


def sides_of(prompts: list[list[int]], micro: int = 2, packed: bool = True, skip: int = 0) -> list[Side]:
    """One rollout of each prompt, each of another length."""
    examples = [Example(f"q{i}", SHORT, p, [30 + i, 7, 9, 11][: 2 + i % 3]) for i, p in enumerate(prompts)]
    batches = rank_micro_batches(examples, 0, 1, Batching(Limits(micro, packed=packed), skip_first=skip))
    return [batch.teacher for batch in batches]


@torch.no_grad()
def plain(model: Any, side: Side) -> Tensor:
    """Whole sequences through Transformers' own attention, one at a time."""
    sequences = side.ids_BT[0].split(side.lengths)
    return torch.cat([model.base_model(s[None]).last_hidden_state[0] for s in sequences])[side.rows_N]


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("kept", [False, True])
def test_states_are_those_of_whole_forwards(kept: bool, skip: int) -> None:
    """Else the teacher would be another one where its prompt is shared, first met, or held."""
    forward, reference = Forwards(), tiny()
    reader = Reader(forward, ALONE, True, PrefixCache([LONG, LONGER], 2**20) if kept else None)
    for prompts in ([LONG, LONGER, LONG, SHORT, LONG], [LONGER, LONG, SHORT[:1]]):
        sides = sides_of(prompts, skip=skip)
        for side, found in zip(sides, reader.read(sides), strict=True):
            torch.testing.assert_close(found, plain(reference, side), rtol=0, atol=1e-12)
    assert len(forward.recorded()) == (3 if kept else 1)  # kept: a token to measure, then each prompt once


def test_float32_differs_by_rounding_alone() -> None:
    """The tolerance that the README states: the same sums in another order."""
    sides, forward = sides_of([LONG] * 4, micro=4), Forwards(torch.float32)
    (found,) = Reader(forward, ALONE, True).read(sides)
    assert len(forward.recorded()) == 1
    torch.testing.assert_close(found, plain(tiny(torch.float32), sides[0]), rtol=1e-5, atol=1e-5)


def test_bfloat16_differs_by_less_than_its_own_rounding() -> None:
    """What `teacher.context_mib` may change there: states as near to exact ones as whole forwards are, and nearer to
    these."""
    sides, forward = sides_of([LONG] * 4, micro=4), Forwards(torch.bfloat16)
    (found,) = Reader(forward, ALONE, True).read(sides)
    assert len(forward.recorded()) == 1
    exact, whole = plain(tiny(), sides[0]), plain(tiny(torch.bfloat16), sides[0])

    def gap(states: Tensor, reference: Tensor) -> float:
        return float((states.double() - reference.double()).norm() / reference.double().norm())

    rounding = gap(whole, exact)
    assert 1e-3 < rounding < 3e-2
    assert gap(found, exact) <= 1.1 * rounding and gap(found, whole) <= 0.3 * rounding


def test_a_prompt_is_computed_once_and_its_rollouts_behind_it() -> None:
    """Else nothing would be saved: four rollouts cost one prompt, and the last token of it each."""
    forward = Forwards()
    reader = Reader(forward, ALONE, True)
    reader.read(sides_of([LONGER] * 4, micro=2))
    responses = sum(2 + i % 3 for i in range(4))
    assert forward.recorded() == [19] and sum(tokens for tokens, _ in forward.asked) == 19 + 4 + responses
    assert (reader.fills, reader.hits) == (1, 3)


def test_alone_and_unkept_a_sequence_goes_whole() -> None:
    """A context used once would cost a pass for nothing."""
    for reader in (Reader(Forwards(), ALONE, True), Reader(Forwards(), ALONE, False)):
        sides = sides_of([LONG, LONGER, SHORT, SHORT])
        reader.read(sides)
        assert reader.forward.asked == [(side.ids_BT.shape[1], False) for side in sides]


def test_rectangles_go_whole() -> None:
    """They hold no segments to put contexts before."""
    forward = Forwards()
    side = sides_of([LONG] * 2, packed=False)[0]
    (found,) = Reader(forward, ALONE, True, PrefixCache([LONG], 2**20)).read([side])
    assert forward.asked == [(side.ids_BT.shape[1], False)]
    model, length = tiny(), len(LONG)
    for row, states in enumerate(found.split([len(r) for r in side.rows_N.split([3, 2])])):
        ids = side.ids_BT[row, : side.lengths[row]]
        with torch.no_grad():
            whole = model.base_model(ids[None]).last_hidden_state[0, length - 1 : -1]
        torch.testing.assert_close(states, whole, rtol=0, atol=1e-12)


def test_bits_do_not_depend_on_what_is_held_or_was_read_before() -> None:
    """A resumed run starts with nothing held, and must have the unbroken one's losses to the last bit."""
    steps = [[LONG, LONGER, LONG], [LONGER, SHORT], [LONG, LONGER]]
    warm = Reader(Forwards(torch.float32), ALONE, True, PrefixCache([LONG, LONGER], 2**20))
    for prompts in steps[:2]:
        warm.read(sides_of(prompts, micro=3))
    fills = warm.fills
    sides = sides_of(steps[2], micro=3)
    cold = Reader(Forwards(torch.float32), ALONE, True, PrefixCache([LONG, LONGER], 2**20))
    full = Reader(Forwards(torch.float32), ALONE, True, PrefixCache([LONG, LONGER], 2**20))
    full.cache.nbytes = 2**20  # no room for any of the chosen
    assert torch.equal(warm.read(sides)[0], cold.read(sides)[0])
    assert torch.equal(warm.read(sides)[0], full.read(sides)[0]) and not full.cache.held
    assert warm.fills == fills and cold.fills == full.fills == 2


def test_prompts_are_told_apart_by_content() -> None:
    """Two questions of one name, or prompts that differ in one token, must never share a context."""
    other = [*LONG[:4], 49, *LONG[5:]]
    forward, reader = Forwards(), None
    reader = Reader(forward, ALONE, True, PrefixCache([LONG, other], 2**20))
    for prompt in (LONG, other):  # both are q0
        (side,) = sides_of([prompt])
        torch.testing.assert_close(reader.read([side])[0], plain(tiny(), side), rtol=0, atol=1e-12)
    assert reader.cache.held.keys() == {key_of(LONG[:-1]), key_of(other[:-1])}


def test_a_row_before_the_response_is_still_there() -> None:
    """A row shifted by one (the alignment test's counter-check) must read its own state, not a neighbour's."""
    from dataclasses import replace

    side = sides_of([LONG, LONG], micro=2)[0]
    shifted = replace(side, rows_N=side.rows_N - 1)
    (found,) = Reader(Forwards(), ALONE, True).read([shifted])
    torch.testing.assert_close(found, plain(tiny(), shifted), rtol=0, atol=1e-12)


def test_the_budget_is_kept_to_the_byte() -> None:
    """More would run a GPU out of memory, less waste it. First come is first kept, and what is too long is left out."""
    budget = 19 * TOKEN  # LONGER's prefix, or LONG's eleven tokens and eight more
    one = [5, *LONGER]
    for size, prompts, expected in (
        (budget, [LONGER, LONG], [LONGER]),
        (budget, [LONG, LONGER, LONG], [LONG]),
        (budget - 1, [LONGER], []),
        (budget, [one, LONG], [LONG]),
        (30 * TOKEN, [LONG, LONGER], [LONG, LONGER]),
        (budget, [SHORT], []),
    ):
        reader = Reader(Forwards(), ALONE, False, PrefixCache(prompts, size))
        for _ in range(2):
            reader.read(sides_of([*prompts, *prompts]))
        kept = reader.cache
        assert kept.held.keys() == kept.chosen == {key_of(p[:-1]) for p in expected}, (size, prompts)
        assert kept.nbytes == sum(c.nbytes for c in kept.held.values()) == sum(len(p) - 1 for p in expected) * TOKEN
    assert PrefixCache([LONG, LONGER], 15 * TOKEN, groups=2).choose(TOKEN) == {key_of(LONG[:-1]), key_of(LONGER[:-1])}


def test_memory_is_given_back_with_the_last_rollout() -> None:
    """A step's contexts held to its end would add up over its questions."""
    forward, alive, recorded = Forwards(), [], []

    def watched(ids_BT: Tensor, rows_N: Tensor, segments: Any = None) -> Tensor:
        alive.append(sum(context() is not None for context in recorded))
        recorded.extend(weakref.ref(context) for context in (segments.recorded if segments else ()))
        return forward(ids_BT, rows_N, segments)

    Reader(watched, ALONE, True).read(sides_of([LONGER, LONGER, LONG, LONG], micro=2))
    assert alive == [0, 1, 0, 1]


def test_cutting_against_plain_lists() -> None:
    """Random sides: each tail's ids, places and contexts, by slicing each sequence by hand."""
    source = random.Random(0)
    for _ in range(50):
        prompts = [source.choice([LONG, LONGER, SHORT, SHORT[:1], [source.randrange(50)] * 9]) for _ in range(6)]
        side = sides_of(prompts, micro=6)[0]
        (found,) = plan_prefixes([prefixes(side)], [], True)
        contexts = {p.key: Context(p.tokens) for p in found if p}
        ids, rows, segments = suffixes(side, found, contexts)
        whole = [s.tolist() for s in side.ids_BT[0].split(side.lengths)]
        heads = [tuple(s[: p - 1]) for s, p in zip(whole, side.prompts)]
        cuts = [len(h) if len(h) >= 5 and heads.count(h) > 1 else 0 for h in heads]
        assert [p.tokens if p else 0 for p in found] == cuts
        assert ids[0].tolist() == [i for s, c in zip(whole, cuts) for i in s[c:]]
        assert list(segments.context_lengths) == cuts
        assert ids[0, rows + 1].tolist() == side.ids_BT[0, side.rows_N + 1].tolist()
        assert segments.positions("cpu")[0, rows].tolist() == [
            p - 1 + t for s, p in zip(whole, side.prompts) for t in range(len(s) - p)
        ]


class Engine(torch.nn.Module):
    """A model called the way a DeepSpeed engine is."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **batch: Any) -> Any:
        return self.module(**batch)


def loss_and_gradient(
    dtype: torch.dtype, whole: bool, n: int = 1, seen: Sequence[int] = LONG
) -> tuple[float, float, int]:
    """Of a student whose teacher is its own copy under its own prompts: both are 0 but for rounding. `seen`: another
    prompt of the teacher's for the first question."""
    student, teacher = tiny(dtype), tiny(dtype)
    for lm in (student, teacher):
        use_packed_attention(lm)
    engine, config = Engine(DistillModel(student, DistillConfig())), Config()
    config.train.n = n
    taught = teacher_of(config, engine, teacher, ALONE, [LONG, LONGER])
    examples = [Example("a", LONG, list(seen), [7, 8, 9]), Example("b", LONGER, LONGER, [4, 5])] * n
    (batch,) = rank_micro_batches(examples, 0, 1, Batching(Limits(2 * n)))
    assert isinstance(batch, MicroBatch)
    (states,) = taught.hidden([batch.teacher], [batch.student] if whole else ())
    with taught.weight() as weight:
        found = engine(
            input_ids_BT=batch.student.ids_BT,
            rows_N=batch.student.rows_N,
            loss_inputs=DistillInputs(states.hidden_NH, weight, batch.weights_N),
            segments=batch.student.segments,
        )
    found.loss.backward()
    gradient = max(float(p.grad.abs().max()) for p in student.parameters())
    return abs(found.loss.item()), gradient, taught.readers[0].fills


@pytest.mark.parametrize(("dtype", "loss", "gradient"), [(torch.float64, 1e-12, 1e-12), (torch.float32, 1e-6, 1e-5)])
def test_behind_contexts(dtype: torch.dtype, loss: float, gradient: float) -> None:
    """What teacher.context_mib may change: the order of sums, no more."""
    found = loss_and_gradient(dtype, whole=False)
    assert found[0] < loss and found[1] < gradient and found[2] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2])
def test_a_teacher_under_the_students_own_prompts_teaches_nothing(dtype: torch.dtype, n: int) -> None:
    """AdamW makes full steps of a gradient of 1e-7: the control opsd_null would learn."""
    _, gradient, fills = loss_and_gradient(dtype, whole=True, n=n)
    assert fills == 0 and gradient == 0.0
    assert loss_and_gradient(dtype, whole=True, n=n, seen=[6, *LONG[1:]])[1] > 1e-4  # the zero above is no accident


def test_only_prompts_that_differ_are_held_over_steps() -> None:
    """A prompt that is read whole would take memory from those that are not."""
    algorithm = Distillation(teacher_prompts={"a": SimpleNamespace(ids=LONG), "b": SimpleNamespace(ids=LONGER)})
    run: Any = SimpleNamespace(
        config=Config(),
        student_prompts={"a": LONG, "b": SHORT},
        selected=["a", "b"],
        student=None,
        ranks=ALONE,
        parallel=SimpleNamespace(size=1),
    )
    algorithm.teacher_engine = object()
    algorithm.bind(run)
    assert algorithm.teacher.readers[0].cache.prompts == [LONGER]


def test_prompts_read_early_are_found_there() -> None:
    """Broken if one is computed twice, one that isn't to be held is computed at all, or the states are others'."""
    forward = Forwards()
    reader = Reader(forward, ALONE, False, PrefixCache([LONG, LONGER], 19 * TOKEN))
    reader.prepare([LONG, LONGER, SHORT])
    assert forward.recorded() == [1, 11]  # a token is measured; of the two one has room
    reader.prepare([LONG])
    sides = sides_of([LONG, LONGER, SHORT])
    for side, states in zip(sides, reader.read(sides), strict=True):
        torch.testing.assert_close(states, plain(tiny(), side), rtol=0, atol=1e-12)
    assert (reader.fills, reader.hits) == (1, 1)


@pytest.mark.parametrize(
    ("early", "device", "sleeps", "kept", "works"),
    [
        (None, "cuda", False, True, True),
        (None, "cuda", True, True, False),  # the server wants the memory
        (None, "cpu", False, True, False),  # the server wants the cores
        (True, "cpu", False, True, True),
        (False, "cuda", False, True, False),
        (True, "cuda", False, False, False),
    ],
)
def test_when_the_teacher_reads_early(early: bool | None, device: str, sleeps: bool, kept: bool, works: bool) -> None:
    """Each question's prompts on the ranks that own it, where there is a device for it and memory to hold them."""
    config, read = Config(), list[Any]()
    config.teacher.early, config.server.sleep = early, sleeps
    prepare: Any = SimpleNamespace(cache=object() if kept else None, prepare=read.extend)
    clock = Clock()
    for rank in range(2):
        algorithm = Distillation(teacher_prompts={})
        algorithm.teacher = SimpleNamespace(readers=[prepare])  # type: ignore[assignment]
        algorithm.readings = [{"a": LONG, "b": LONGER}, {"b": SHORT}]
        run: Any = SimpleNamespace(
            config=config, ranks=Ranks(rank, 2, torch.device(device)), parallel=SimpleNamespace(size=1)
        )
        work = algorithm.meanwhile(run, Step(0, ["a", "b"], [], clock))
        assert (work is not None) is works
        if work is not None:
            work()
    assert sorted(read) == (sorted([LONG, LONGER, SHORT]) if works else [])
    assert ("teacher" in clock.seconds) is works


def test_the_budget_is_no_part_of_a_runs_identity() -> None:
    """A run must go on where there is more or less memory; what the teacher is does belong to it."""
    identities = []
    for key, value in (("context_mib", 1024), ("context_mib", 7), ("early", True), ("mix", 0.25)):
        config = Config()
        setattr(config.teacher, key, value)
        inputs: Any = SimpleNamespace(config=config, selected=[])
        identities.append(Distillation(teacher_prompts={}).identity(inputs))
    assert identities[0] == identities[1] == identities[2] != identities[3]
    assert {"teacher.kind", "teacher.mix"} < set(STAGES["train"].config_keys)
    assert not {"teacher", "teacher.context_mib", "teacher.early"} & set(STAGES["train"].config_keys)


def test_the_log_counts_and_starts_anew() -> None:
    """The numbers would otherwise add up over steps, or be there where nothing is reused."""
    reader = Reader(Forwards(), ALONE, True, PrefixCache([LONG], 2**20))
    reader.read(sides_of([LONG, LONG, LONGER]))
    row = context_metrics([reader, Reader(Forwards(), ALONE, False)], ALONE)
    assert row == {"context/fills": 1, "context/hits": 1, "context/mib": 11 * TOKEN / 2**20}
    assert context_metrics([reader], ALONE)["context/hits"] == 0
    assert context_metrics([Reader(Forwards(), ALONE, False)], ALONE) == {}
