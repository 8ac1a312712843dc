"""tools/bench_step.py at a tiny size: the arms train on equal tokens and have the losses of a plain loop."""

import json
import math
from pathlib import Path

import pytest
import torch

from nopsd.train.batches import batch_uids
from tests.programs import require_peer

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TINY = [
    "--hidden",
    "32",
    "--layers",
    "2",
    "--vocab",
    "2100",
    "--context",
    "30",
    "--prompt",
    "8",
    "--response",
    "12",
    "--max-response",
    "20",
    "--steps",
    "2",
    "--repeats",
    "1",
    "--lr",
    "1e-3",
]
# The loss is sum p (ls - lt) with log-probabilities near -log 2100 = -7.6, whose float32 neighbours lie 2**-21 apart:
# each side rounds by half of that, and means add nothing. A step without its update is 30 times as far off.
ROUNDING = 2**-21


@pytest.fixture
def bench(monkeypatch):
    for folder in (TOOLS / "peers", TOOLS):
        monkeypatch.syspath_prepend(str(folder))
    import bench_step

    return bench_step


@pytest.fixture
def run(bench, tmp_path):
    """Gives a function: arguments -> what the tool found, and the folder with what its arms read."""

    def with_arguments(*given):
        bench.main([*TINY, *given, "--keep", str(tmp_path), "--json", str(tmp_path / "found.json")])
        return tmp_path, json.loads((tmp_path / "found.json").read_text())

    return with_arguments


def plain_losses(folder: Path, lr: float, sequences: int, samples: int) -> list[float]:
    """Two steps in float64, a sequence at a time: mean over sequences of the mean reverse KL, clip 1, AdamW."""
    from transformers import AutoModelForCausalLM

    questions = json.loads((folder / "questions.json").read_text())
    student, teacher = (AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64) for _ in range(2))
    optimizer = torch.optim.AdamW(student.parameters(), lr, weight_decay=0.0)
    losses = []
    for step in range(2):
        of_step = questions[step * sequences // samples : (step + 1) * sequences // samples]
        total = torch.zeros((), dtype=torch.float64)
        for q in of_step:
            for y in q["responses"]:
                with torch.no_grad():
                    t = teacher(torch.tensor([q["teacher_ids"] + y])).logits[0, len(q["teacher_ids"]) - 1 : -1]
                s = student(torch.tensor([q["student_ids"] + y])).logits[0, len(q["student_ids"]) - 1 : -1]
                s, t = s.log_softmax(-1), t.log_softmax(-1)
                total = total + (s.exp() * (s - t)).sum(-1).mean() / sequences
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        losses.append(total.item())
    return losses


def test_nopsds_arms_have_a_plain_loops_losses(run, monkeypatch, capsys):
    """Two steps of the real loop, so that gradient, clip and AdamW are right too; four responses to each question."""
    folder, found = run("--arms", "nopsd", "--samples", "4")
    expected, (zero3,) = plain_losses(folder, 1e-3, 4, 4), found["runs"]["nopsd"]
    assert zero3["losses"] == pytest.approx(expected, rel=1e-5, abs=ROUNDING)
    assert len(zero3["cpu_s"]) == 2 and zero3["step_cpu_s"] == zero3["cpu_s"][1] > 0
    assert zero3["peak_mib"] >= zero3["loaded_mib"] > 0

    import nopsd_step

    monkeypatch.setattr(nopsd_step.teachers, "squared_distance", None)  # put back afterwards
    nopsd_step.main("nopsd-plain", folder, -1)
    without = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert without["losses"] == pytest.approx(expected, rel=1e-5, abs=ROUNDING)
    assert abs(expected[1] - expected[0]) > 30 * ROUNDING, "a skipped update must be seen"


@pytest.mark.soak  # half a minute each: TRL is imported and trained; its losses are compared in tests/train/losses
@pytest.mark.parametrize("shape", [["--samples", "1", "--micro", "2"], ["--samples", "4"]], ids=["two-micro", "four"])
def test_trl_trains_on_the_same_tokens(run, shape):
    """SDFTTrainer's losses of two steps are a plain loop's: no prompt was cut, no response swapped."""
    folder, found = run("--arms", "trl-sdft", "trl-distillation", "--peer-python", require_peer("trl"), *shape)
    expected = plain_losses(folder, 1e-3, 4, int(shape[1]))
    assert found["runs"]["trl-sdft"][0]["losses"] == pytest.approx(expected, rel=1e-5, abs=ROUNDING)
    assert all(math.isfinite(x) and x > 0 for x in found["runs"]["trl-distillation"][0]["losses"])


def test_every_question_has_a_context_of_its_own(bench, tmp_path):
    """A shared context would let a cache look better than training is; the order must be the loop's own."""
    args = bench.parser().parse_args(TINY)
    made = [bench.prepare(args, tmp_path) for _ in range(2)]
    questions = made[0]
    assert made[0] == made[1]
    assert len({q["context"] for q in questions}) == len({q["text"] for q in questions}) == len(questions) == 8
    assert [q["uid"] for q in questions[4:]] == batch_uids([f"q{i:03d}" for i in range(8)], 1, 4, 0)
    for q in questions:
        assert len(q["teacher_ids"]) == len(q["student_ids"]) + 30 and q["responses"][0][-1] == 2
    assert len({len(q["responses"][0]) for q in questions}) > 2  # ragged


def test_other_losses_stop_the_tool(bench):
    """Times of different work compare nothing; DistillationTrainer, which has no context, is not held to it."""
    bench.check_losses(
        {"nopsd": {"losses": [1.0]}, "trl-sdft": {"losses": [1.00001]}, "trl-distillation": {"losses": [9.0]}}
    )
    with pytest.raises(SystemExit, match="losses differ"):
        bench.check_losses({"nopsd": {"losses": [1.0]}, "trl-sdft": {"losses": [1.001]}})


def test_the_table_names_time_and_memory_against_sdft(bench):
    """A README's figures come from it."""
    sdft, own = ({"step_cpu_s": t, "peak_mib": m * 1024, "losses": [0.1, 0.2]} for t, m in ((4.0, 6), (3.0, 3)))
    args = vars(bench.parser().parse_args(TINY))
    found = {
        "arguments": args,
        "response_lengths": [8, 20],
        "left_out": {},
        "runs": {"nopsd": [own], "trl-sdft": [sdft]},
    }
    shown = bench.table(found).splitlines()
    assert shown[-2] == "| nopsd | 3.00 | 0.75 [0.75, 0.75] | 3.00 | 0.50 [0.50, 0.50] | 0.10000 0.20000 |"
