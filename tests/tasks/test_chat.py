"""`nopsd chat`: which weights answer, and what the teacher is shown. If it fails, replies are compared that are not
what their titles say."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nopsd import cli
from nopsd.config import Config, load_config, to_yaml
from nopsd.data.sources import load_splits
from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError
from nopsd.files import write_json, write_jsonl
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.selection.jaccard import jaccard_distances
from nopsd.tasks.chat import Chat, PlainEngine

POOL, SHOWN = 8, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, lab_model_dir: Path) -> Config:
    """A run of the lab: its pool answered greedily and scored; a student that always says the same."""
    root = tmp_path_factory.mktemp("chat") / "run"
    config = load_config("lab", [f"run_dir={root}", f"context.m={SHOWN}", "eval.max_new=24"])
    root.mkdir()
    (root / "config.yaml").write_text(to_yaml(config))
    splits = load_splits(config.data)
    pool = splits.pool[:POOL]
    write_jsonl(root / "data" / "pool.jsonl", [q.to_json() for q in pool])
    write_jsonl(root / "data" / "tests.jsonl", [q.to_json() for q in splits.tests["biology"][:2]])
    export = root / "train" / "export"
    shutil.copytree(lab_model_dir, export)
    write_json(export / "nopsd_export.json", {"steps": 1})
    student = AutoModelForCausalLM.from_pretrained(lab_model_dir)
    with torch.no_grad():
        student.model.norm.weight.mul_(-1.0)  # the least likely token becomes the likeliest
    student.save_pretrained(export)
    chat = Chat(config)
    rollouts = []
    for question in pool:
        prompt = chat.session.renderer.student(question)
        ids = chat.generate(chat.base, prompt)
        rollouts.append(Rollout(question.uid, 0, prompt, ids, chat.session.tokenizer.decode(ids), "stop", 0))
    write_rollouts(root / "rollout" / "rollouts.parquet", rollouts)
    (root / "neurons").mkdir()
    model = ScoredModel(PlainEngine(chat.base), "hash")
    score_pool(model, rollouts, config.neuron, Ranks(0, 1, torch.device("cpu")), root / "neurons")
    write_json(root / "neurons" / "manifest.json", {"fingerprint": {}, "files": {}})
    return config


def test_the_teacher_sees_the_nearest_answers_by_neurons(run: Config) -> None:
    chat = Chat(run)
    question = chat.session.pool[3]
    base, student, teacher = chat.ask(question)
    neurons = chat.session.run.neurons()
    row = neurons.uids.index(question.uid)
    distances = jaccard_distances(neurons.ids[row : row + 1], neurons.ids, 4 * 448)[0]
    distances[row] = 2.0
    assert list(teacher.shown) == [neurons.uids[i] for i in distances.argsort(kind="stable")[:SHOWN]]
    assert base.text == chat.session.rollouts[3].text.replace("<|im_end|>", "").strip()
    assert (base.who, student.who, teacher.who) == ("base", "student", "teacher")
    assert student.text != base.text, "the student's weights are the export's"


def test_the_commands_questions(
    run: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By id, as text, and line by line from standard input."""
    uid = Chat(run).session.tests["biology"][0].uid
    assert cli.main(["chat", run.run_dir, "--question", uid, "--max-new", "4"]) == 0
    said = capsys.readouterr().out
    assert (
        "--- base model, 4 tokens" in said and "--- teacher (base model with demonstrations), 4 tokens; shown: " in said
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n\nWhy?\n"))
    assert cli.main(["chat", run.run_dir, "--json", "--max-new", "2", "--temperature", "0.7"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in rows] == ["What is it?", "Why?"]
    assert [[reply["who"] for reply in row["replies"]] for row in rows] == [["base", "student", "teacher"]] * 2
    assert cli.main(["chat", run.run_dir, "--question", "nobody"]) == 1
    assert "the run has no question nobody" in capsys.readouterr().err


def test_without_neuron_sets_there_is_no_teacher(run: Config, tmp_path: Path) -> None:
    shutil.copytree(run.run_dir, tmp_path / "run")
    (tmp_path / "run" / "neurons" / "manifest.json").unlink()
    chat = Chat(load_config(str(tmp_path / "run" / "config.yaml"), [f"run_dir={tmp_path / 'run'}"]), max_new=2)
    assert [reply.who for reply in chat.ask(chat.asked("Why?"))] == ["base", "student"]


def test_a_run_that_has_not_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no trained model yet"):
        Chat(load_config("lab", [f"run_dir={tmp_path}"]))
