"""The four teachers and LoRA: three steps each on real 2-rank ZeRO-3 engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.config import Config, DistillConfig, LoraConfig, TeacherConfig
from nopsd.engine.distributed import Ranks
from nopsd.engine.lora import STUDENT, adapter_parameters, add_lora
from nopsd.train.batches import MicroBatch, Side
from nopsd.train.losses.fused_linear import DistillInputs
from nopsd.train.losses.head import DistillModel
from nopsd.train.teachers import teacher_of
from tests.models import qwen3
from tests.rounding import LOSS, SMALL_LOGPROB, ZERO
from tests.train.losses.reference import reverse_kl

HERE = Path(__file__).parent
ALONE = Ranks(0, 1, torch.device("cpu"))
PROMPT, TEACHER_PROMPT, RESPONSE = [3, 4, 5], [9, 8, 7, 6, 4, 5], [10, 11, 12, 2]


@pytest.fixture(scope="session")
def taught(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> Any:
    """What every case of worker_teachers.py left."""
    out = tmp_path_factory.mktemp("teachers")
    cases = ["kinds", "align", "lora", "lora_ema"]
    job = {"models": tiny_models, "out": out, "cases": cases, "alone": ["lora_ema"]}
    run_ranks(HERE / "worker_teachers.py", job, 2, 1)
    cases += ["lora_ema_alone"]
    return {case: torch.load(out / f"{case}.pt", weights_only=True) for case in cases} | {"models": tiny_models}


def losses(found: dict[str, Any]) -> list[float]:
    return [row["loss"] for row in found["rows"]]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "ema", "live", "mixed"])
def test_every_kind_trains(taught: Any, kind: str):
    """A teacher whose states or weight are missing under ZeRO-3 gives no loss, no gradient, or a hang."""
    rows = taught["kinds"][kind]["rows"]
    assert len(rows) == 3 and all(row["loss"] > 0.1 and row["grad_norm"] > 0.1 for row in rows)
    assert taught["kinds"][kind]["second"] is (kind != "live")  # live: no second model in memory


@pytest.mark.engine
@pytest.mark.slow
def test_the_kinds_differ_once_the_student_has_moved(taught: Any):
    """At step 0 all are θ_0; a live teacher that stood still would go on as the frozen one does."""
    ways = [losses(taught["kinds"][kind]) for kind in ("frozen", "ema", "live", "mixed")]
    assert max(way[0] for way in ways) - min(way[0] for way in ways) < LOSS
    assert len({round(way[2], 5) for way in ways}) == 4
    live, mixed = (taught["kinds"][kind]["rows"][-1]["ema_distance"] for kind in ("live", "mixed"))
    assert live == 0 < mixed


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(("mixed", "pure"), [("mixed0", "frozen"), ("mixed1", "live")])
def test_a_trust_region_ends_at_the_frozen_and_the_live_teacher(taught: Any, mixed: str, pure: str):
    """c weighs the student's own logits: swapped or forgotten, an end would be the other teacher's."""
    assert losses(taught["kinds"][mixed]) == pytest.approx(losses(taught["kinds"][pure]), abs=1e-6)
    for name, weight in taught["kinds"][mixed]["student"].items():
        assert (weight - taught["kinds"][pure]["student"][name]).abs().max() < 1e-5, name


@pytest.mark.engine
@pytest.mark.slow
def test_a_live_teacher_without_demonstrations_teaches_nothing(taught: Any):
    """Its hidden states and its weight must be the student's at the very same rows; so must LoRA's base at step 0."""
    assert all(abs(row["loss"]) < ZERO and row["grad_norm"] < 1e-6 for row in taught["align"]["live"])
    assert abs(taught["align"]["lora"][0]["loss"]) < ZERO and taught["align"]["lora"][0]["grad_norm"] < 1e-6


@pytest.mark.engine
@pytest.mark.slow
def test_lora_moves_the_adapters_alone(taught: Any):
    """Base weights that move, or that the optimizer keeps states for, are full fine-tuning at LoRA's learning rate."""
    found = taught["lora"]
    moved = {name for name, weight in found["before"].items() if not torch.equal(weight, found["after"][name])}
    assert moved == set(found["trained"]) == {n for n in found["before"] if ".lora_" in n}
    adapters = sum(found["before"][name].numel() for name in moved)
    assert adapters / 2 <= found["optimizer"] < 1.1 * adapters / 2 + 1000  # this rank's half
    assert not found["second"] and all(row["loss"] > 0.1 for row in found["rows"])


@pytest.mark.engine
@pytest.mark.slow
def test_lora_checkpoints_hold_no_base_weights(taught: Any):
    """A checkpoint of a 70B base for a few adapters would fill the disk."""
    base = sum(t.numel() for n, t in taught["lora"]["before"].items() if ".lora_" not in n) * 4
    models = sum(size for name, size in taught["lora"]["files"].items() if "model_states" in name)
    assert models < 0.8 * base, (models, base)


@pytest.mark.engine
@pytest.mark.slow
def test_merged_weights_are_what_the_adapters_compute(taught: Any):
    """Server, export and training forward must be one policy; PEFT itself is the reference for the adapter's folder."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = taught["lora"]
    base = AutoModelForCausalLM.from_pretrained(taught["models"] / "tied", dtype=torch.float32).eval()
    names = [name for name, _ in base.named_parameters()]
    assert [name for name, _ in found["pushed"]] == names == [name for name, _ in found["metas"]]
    assert [list(t.shape) for _, t in found["pushed"]] == [shape for _, shape in found["metas"]]
    merged = AutoModelForCausalLM.from_pretrained(found["folder"], dtype=torch.float32).eval()
    assert all(torch.equal(merged.get_parameter(name), weight) for name, weight in found["pushed"])
    ids = torch.tensor([probe_ids()])
    with torch.no_grad():
        assert (base(ids).logits[0] - found["base"]).abs().max() < SMALL_LOGPROB  # adapters off: the base model
        assert (merged(ids).logits[0] - found["logits"]).abs().max() < 1e-4
        assert (found["base"] - found["logits"]).abs().max() > 1e-2
        gone = sum((merged.get_parameter(n) - base.get_parameter(n)).double().pow(2).sum() for n in names) ** 0.5
        peft = PeftModel.from_pretrained(base, Path(found["folder"]) / "adapter").eval()
        assert (peft(ids).logits[0] - found["logits"]).abs().max() < SMALL_LOGPROB
    assert found["rows"][-1]["ema_distance"] == pytest.approx(float(gone), rel=1e-4)


def probe_ids() -> list[int]:
    sys.path.insert(0, str(HERE))
    import worker_teachers

    return worker_teachers.PROBE


@pytest.mark.engine
@pytest.mark.slow
def test_under_lora_the_average_is_of_the_adapters_and_comes_back_after_a_resume(taught: Any):
    """The average's closed form on the second adapter; a resume that lost it would teach with its random start."""
    found, rate = taught["lora_ema"], 0.1
    assert set(found["followed"]) == set(found["teacher"]) == set(found["path"][0])
    for name, teacher in found["teacher"].items():
        closed = (1 - rate) ** 3 * found["path"][0][name].double()
        closed += sum(rate * (1 - rate) ** (3 - k) * found["path"][k][name].double() for k in (1, 2, 3))
        assert (teacher - closed).abs().max() < 1e-6, name
        assert torch.equal(found["again"]["teacher"][name], teacher)
        assert torch.equal(found["again"]["student"][name], found["path"][3][name])
    assert found["again"]["from"] == 2 and losses(found["again"]) == losses(found)[2:]


@pytest.mark.engine
@pytest.mark.slow
def test_adapters_saved_by_two_ranks_go_on_with_one(taught: Any):
    """The cutting anew must find its way without the base's weights, which the checkpoint leaves out."""
    found, alone = taught["lora_ema"], taught["lora_ema_alone"]
    assert alone["from"] == 2
    assert losses(alone) == pytest.approx(losses(found)[2:], abs=LOSS)
    for name, teacher in found["teacher"].items():
        assert (alone["teacher"][name] - teacher).abs().max() < 1e-4, name


def tiny(seed: int, tied: bool = False) -> Any:
    return qwen3(seed, tie_word_embeddings=tied)


class PlainEngine(torch.nn.Module):
    """What the teachers use of a DeepSpeed engine."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **batch: Any) -> Any:
        return self.module(**batch)


def side(prompt: list[int]) -> Side:
    first = len(prompt) - 1
    return Side(torch.tensor([prompt + RESPONSE]), torch.arange(first, first + len(RESPONSE)))


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_a_trust_region_mixes_logits_and_not_probabilities(mix: float):
    """Value and gradient against plain autograd over whole logits, the teacher's side detached."""
    student, base = tiny(0), tiny(1)
    z, z_own, z_base = (
        model(input_ids=s.ids_BT).logits[0, s.rows_N]
        for model, s in ((student, side(PROMPT)), (student, side(TEACHER_PROMPT)), (base, side(TEACHER_PROMPT)))
    )
    q = ((1 - mix) * z_base + mix * z_own).detach().log_softmax(-1)
    expected = reverse_kl(z.log_softmax(-1), q).sum() / 4
    gradient = torch.autograd.grad(expected, list(student.parameters()))

    engine = PlainEngine(DistillModel(student, DistillConfig(logit_chunk=3))).eval()
    config = Config(teacher=TeacherConfig(kind="trust_region", mix=mix))
    teacher = teacher_of(config, engine, base, ALONE)
    weights = torch.full((4,), 0.25)
    batch = MicroBatch(side(PROMPT), side(TEACHER_PROMPT), torch.tensor(RESPONSE), weights, torch.zeros(4))
    states = teacher.hidden([batch.teacher])[0]
    with teacher.weight() as weight:
        inputs = DistillInputs(states.hidden_NH, weight, batch.weights_N, teacher_mix=states.mix)
        result = engine(input_ids_BT=batch.student.ids_BT, rows_N=batch.student.rows_N, loss_inputs=inputs)
    torch.testing.assert_close(result.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(result.loss, list(student.parameters())), gradient, rtol=1e-4, atol=1e-6
    )


def test_the_students_own_states_are_taken_without_dropout_and_leave_it_training():
    """A live or adapter teacher with dropout on would disagree with itself."""
    lm = tiny(0)
    add_lora(lm, LoraConfig(r=2, dropout=0.5), seed=1)
    for parameter in adapter_parameters(lm, STUDENT).values():
        parameter.data.normal_(0, 0.5)
    engine = PlainEngine(DistillModel(lm, DistillConfig())).train()
    batch = MicroBatch(side(PROMPT), side(TEACHER_PROMPT), torch.tensor(RESPONSE), torch.ones(4), torch.zeros(4))
    teacher = teacher_of(Config(teacher=TeacherConfig(kind="live")), engine, None, ALONE)
    first, second = teacher.hidden([batch.teacher])[0].hidden_NH, teacher.hidden([batch.teacher])[0].hidden_NH
    assert torch.equal(first, second) and not first.requires_grad
    assert engine.training and lm.training
    frozen = teacher_of(Config(teacher=TeacherConfig(kind="frozen")), engine, None, ALONE)
    off = frozen.hidden([batch.teacher])[0].hidden_NH
    assert (off - first).abs().max() > 1e-2
    with torch.no_grad():
        s = side(TEACHER_PROMPT)
        torch.testing.assert_close(off, tiny(0).base_model(s.ids_BT).last_hidden_state[0, s.rows_N])
