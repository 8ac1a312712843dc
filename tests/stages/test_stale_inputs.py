"""Everything that shapes an artefact enters its fingerprint: broken if a run says "up to date" of other inputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nopsd.config import load_config
from nopsd.errors import ArtefactError
from nopsd.evaluation.artefacts import read_pool_correct
from nopsd.files import read_json, sha256_json
from nopsd.rollout.types import Rollout
from nopsd.run import runner
from nopsd.run.folder import RunFolder
from nopsd.run.session import Session
from nopsd.stages.registry import STAGES

JUDGED = {"evaluate_base", "evaluate", "report"}


def write_questions(path: Path, answer: str, questions: int = 8) -> None:
    rows = [
        {
            "id": f"q{i}",
            "question": f"Question {i}?",
            "options": {"A": f"one {i}", "B": f"two {i}"},
            "answer": answer,
        }
        for i in range(questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Made(Session):
    """A session whose artefacts differ exactly if their fingerprints do; pool and tests as the source gives them."""

    def __init__(self, *overrides: str) -> None:
        super().__init__(load_config("lab", overrides))
        self.run = self  # type: ignore[assignment]

    def stage_hash(self, name: str) -> str:
        return sha256_json(STAGES.fingerprint(self, STAGES[name]))

    pool = property(lambda self: self.splits.pool)  # type: ignore[assignment]
    tests = property(lambda self: self.splits.tests)  # type: ignore[assignment]
    holdout = property(lambda self: list(self.splits.held))  # type: ignore[assignment]


def hashes(tmp_path: Path, *overrides: str) -> dict[str, str]:
    data = ("data.name=file", f"data.path={tmp_path / 'q.jsonl'}", f"model.path={tmp_path / 'model'}", "data.domain=d")
    return {stage.name: Made(*data, *overrides).stage_hash(stage.name) for stage in STAGES}


@pytest.fixture
def inputs(tmp_path: Path, lab_model_dir: Path) -> Path:
    shutil.copytree(lab_model_dir, tmp_path / "model")
    write_questions(tmp_path / "q.jsonl", "A")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("generation_config.json", "special_tokens_map.json", "added_tokens.json", "tokenization_own.py"),
    ],
)
def test_each_file_of_a_model_shapes_every_stage(inputs: Path, name: str) -> None:
    before, file = hashes(inputs), inputs / "model" / name
    data = file.read_bytes() if file.exists() else b""
    if name == "model.safetensors":  # one weight's last bit
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        file.write_bytes(data.replace(b"}", b" }", 1) if data.startswith(b"{") else data + b" ")
    after = hashes(inputs)
    assert all(before[stage] != after[stage] for stage in before)


def test_what_shapes_nothing_makes_nothing_again(inputs: Path) -> None:
    before = hashes(inputs)
    (inputs / "model" / "README.md").write_text("x")
    (inputs / "model" / "trainer_state.json").write_text("{}")
    assert hashes(inputs) == before


@pytest.mark.parametrize(("method", "made_again"), [("nopsd", JUDGED), ("opsd_oracle", JUDGED | {"train"})])
def test_gold_answers_count_where_they_are_read_and_nowhere_else(
    inputs: Path, method: str, made_again: set[str]
) -> None:
    """Broken if other answers leave the old table, or make a label-free method train again."""
    before = hashes(inputs, f"method={method}", "data.test_ratio=0.5")
    write_questions(inputs / "q.jsonl", "B")
    after = hashes(inputs, f"method={method}", "data.test_ratio=0.5")
    assert {stage for stage in before if before[stage] != after[stage]} == made_again


class Answering:
    """A client that answers A, and counts how often it is asked."""

    asked = 0

    def generate(self, prompts: list[list[int]], uids: list[str], sampling: object, *rest: object, **more: object):
        Answering.asked += 1
        n = sampling.n  # type: ignore[attr-defined]
        return [
            [Rollout(uid, i, prompt, [5], "<answer>A</answer>", "stop", 0) for i in range(n)]
            for uid, prompt in zip(uids, prompts)
        ]


@pytest.fixture
def run(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setattr(Session, "client_holding", lambda self, folder, version: Answering())
    settings = [
        *("method=base", "data.name=file", f"data.path={inputs / 'q.jsonl'}", "data.domain=d", "eval.n=2"),
        *(f"run_dir={inputs / 'run'}", f"model.path={inputs / 'model'}", "eval.bootstrap=10", "data.test_ratio=0.5"),
    ]

    def once() -> RunFolder:
        with Session(load_config("lab", settings)) as session:
            runner.bring_up(STAGES, session, STAGES.planned(session.config), None)
            return session.run

    yield once


def test_changed_answers_judge_the_same_responses_anew(run, inputs: Path) -> None:
    """All answers turned from A to B: the table said 100 % as before, and every stage "up to date"."""
    folder = run().root
    average = lambda: read_json(folder / "evaluate_base" / "metrics.json")["base"]["d"]["metrics"]["avg"]  # noqa: E731
    asked, first = Answering.asked, average()
    sampled = (folder / "evaluate_base" / "rollouts.parquet").stat().st_mtime_ns
    write_questions(inputs / "q.jsonl", "B")
    run()
    assert (first, average()) == (1.0, 0.0) and Answering.asked == asked
    assert (folder / "evaluate_base" / "rollouts.parquet").stat().st_mtime_ns == sampled
    assert "0.0" in (folder / "report" / "report.md").read_text()
    stamps = [path.stat().st_mtime_ns for path in sorted(folder.rglob("manifest.json"))]
    run()
    assert stamps == [path.stat().st_mtime_ns for path in sorted(folder.rglob("manifest.json"))]
    assert read_pool_correct(folder / "evaluate_base") is not None


def test_another_chat_template_is_refused_before_anything_is_sampled(run, inputs: Path) -> None:
    run()
    template = inputs / "model" / "chat_template.jinja"
    template.write_text("{# another #}" + template.read_text())
    with pytest.raises(ArtefactError, match=r"made from something else \(model\.tokenizer: .*--redo data"):
        run()


def test_a_folder_of_before_these_were_recorded_goes_on(run) -> None:
    folder = run().root
    for stage in ("data", "rollout", "evaluate_base", "report"):
        for name in ("manifest.json", "begun.json"):
            made = read_json(folder / stage / name)
            part = made["fingerprint"] if name == "manifest.json" else made
            for key in ("model.tokenizer", "model.generation_config", "answers"):
                part.pop(key, None)
            (folder / stage / name).write_text(json.dumps(made))
    asked = Answering.asked
    run()
    assert Answering.asked == asked


def test_other_answers_of_the_base_compare_the_held_out_ones_anew(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if the trained model is compared with answers of the base that are no longer there."""
    settings = ("data.holdout=2", "data.test_ratio=0.5")
    sealed = {"files": {"rollouts.parquet": "one"}}
    monkeypatch.setattr(Made, "manifest", lambda self, stage: sealed, raising=False)
    before = hashes(inputs, *settings)
    sealed["files"]["rollouts.parquet"] = "other"
    after = hashes(inputs, *settings)
    assert {stage for stage in before if before[stage] != after[stage]} == {"evaluate", "report"}
