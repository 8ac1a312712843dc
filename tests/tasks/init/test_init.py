"""`nopsd init`: the preset that it writes must load, fit the machine and ask what the file asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nopsd import cli
from nopsd.cluster.doctor.fitting import GPUS
from nopsd.cluster.doctor.memory import GIB
from nopsd.config import load_config
from nopsd.data.sources import load_splits
from nopsd.errors import UserError
from nopsd.tasks.dry_run import dry_run
from nopsd.tasks.init import init as module
from nopsd.tasks.init.init import Wanted, init
from nopsd.tasks.init.machine import Machine, choose
from nopsd.tasks.init.preset_file import preset_text
from nopsd.tasks.init.sizes import Lengths, sizes

BARE = Machine(0, 0.0, "", 24 * GIB)


def gpus(count: int, name: str, memory: int = 2048) -> Machine:
    return Machine(count, GPUS[name], name, memory * GIB)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "this_machine", lambda: BARE)


@pytest.mark.parametrize("name", ["svamp.json.gz", "gsm8k_test.jsonl.gz", "mmlu_pro_test.jsonl.gz"])
def test_the_preset_runs_as_it_is(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Every check that a run makes passes, and what is shown is what is judged."""
    out = tmp_path / "mine.yaml"
    said = init(Wanted(str(shared_data / name), out))
    text, code = dry_run(load_config(str(out)))
    assert code == 0, text
    assert said.count("judged right: <answer>") == 3 and "NOTHING" not in said
    assert "<|im_start|>system" in said and f"nopsd run --preset {out}" in said
    for line in out.read_text().splitlines():
        assert line.startswith("#") or line.endswith(":") or "  # " in line or line.strip().startswith("path:"), line


def test_the_command_writes_beside_the_user_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"Is {i} even?", "options": ["yes", "no"], "answer": "AB"[i % 2]} for i in range(60)]
    (tmp_path / "my questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "my questions.jsonl"]) == 0
    assert "54 questions for the pool, 6 held out" in capsys.readouterr().out
    assert load_config("my_questions.yaml").run_dir == "runs/my_questions"
    assert cli.main(["init", "my questions.jsonl"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["init", "my questions.jsonl", "--force", "--domain", "parity"]) == 0
    assert load_config("parity.yaml").data.domain == "parity"


def test_unusable_answers_are_told_before_anything_runs(tmp_path: Path) -> None:
    rows = [{"question": f"Is {i} even?", "options": ["yes", "no"], "answer": "E"} for i in range(60)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = init(Wanted(str(tmp_path / "q.jsonl"), tmp_path / "q.yaml"))
    assert "60 of 60 answers can't be read" in said and "'E' is not among its options (A, B)" in said
    assert "judged right: NOTHING" in said


def test_an_empty_or_absent_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    for name, said in (("empty.jsonl", "has no rows"), ("no.jsonl", "does not exist")):
        with pytest.raises(UserError, match=said):
            init(Wanted(str(tmp_path / name), tmp_path / "out.yaml"))
    assert not (tmp_path / "out.yaml").exists()


@pytest.mark.parametrize(
    ("machine", "model"),
    [
        (BARE, "lab"),
        (gpus(1, "RTX4090-24GB"), "lab"),
        (gpus(1, "A100-40GB"), "Qwen/Qwen3-0.6B"),
        (gpus(4, "A100-40GB"), "Qwen/Qwen3-1.7B"),
        (gpus(4, "H100-80GB"), "Qwen/Qwen3-4B-Thinking-2507"),
        (gpus(8, "H200-141GB"), "Qwen/Qwen3-4B-Thinking-2507"),
    ],
)
def test_the_model_fits_the_machine(machine: Machine, model: str) -> None:
    """The presets state on which GPUs they fit: nothing larger, and not less than these, may be proposed there."""
    choice = choose(machine, None)
    assert choice.model == model
    if machine.gpus:
        settings = [f"{key}={value}" for key, (value, _) in choice.settings.items()]
        config = load_config(choice.base, settings)
        assert model == "lab" or config.dist.ranks == machine.gpus
    assert ("Qwen/Qwen3-32B" in choice.reason) is (machine.gpu_gib > 70)


def test_a_users_own_model_is_taken_and_estimated(lab_model_dir: Path) -> None:
    own = choose(gpus(4, "H100-80GB"), str(lab_model_dir))
    assert own.reason.startswith("yours: fits") and own.folder == lab_model_dir
    assert "slow on a CPU" in choose(BARE, "Qwen/Qwen3-0.6B").reason
    config = load_config(
        "paper/qwen3_0_6b", [f"{k}={v}" for k, (v, _) in choose(BARE, "Qwen/Qwen3-0.6B").settings.items()]
    )
    assert (config.model.dtype, config.dist.ranks) == ("auto", 1)


def test_sizes_follow_the_questions() -> None:
    """Else a run stops at its first long prompt, or trains for 150 steps on four questions."""
    paper = load_config("paper/biology")
    assert sizes(paper, Lengths([500], 3541, 262144), trial=False) == {}
    small = sizes(paper, Lengths([9000], 8, 262144), trial=False)
    assert small["context.m"][0] == 7 and small["train.steps"][0] == 10
    assert small["server.max_model_len"][0] == 25600 and small["context.max_prompt"][0] == 18176
    narrow = sizes(paper, Lengths([100], 3541, 4096), trial=False)
    assert narrow["eval.max_new"][0] == narrow["train.max_response"][0] == 1024
    assert narrow["server.max_model_len"][0] == 4096 and narrow["context.max_prompt"][0] == 3072


def test_the_file_keeps_every_value_and_its_reason() -> None:
    settings = {"a.b": ("#### x: 'y'", "a # reason"), "run_dir": ("r", ""), "a.c": ([1, "é, b"], "")}
    text = preset_text(["a title"], ("lab", "why"), settings)
    assert yaml.safe_load(text) == {"base": "lab", "run_dir": "r", "a": {"b": "#### x: 'y'", "c": [1, "é, b"]}}
    assert "# a # reason" in text and text.startswith("# a title\nbase: lab  # why\n")


def test_the_shown_questions_are_the_files(tmp_path: Path, shared_data: Path) -> None:
    out = tmp_path / "q.yaml"
    said = init(Wanted(str(shared_data / "svamp.json.gz"), out))
    assert load_splits(load_config(str(out)).data).pool[0].question.splitlines()[0] in said
