"""How often the stages read what lies on disk: each artefact, and the file of questions, once a process of a stage.

All stages run here in order, each in sessions of its own, as `nopsd STAGE` starts them: the user's process and, of a
distributed stage, one rank. Model, trainer and server are put in from outside.
"""

import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from nopsd.config import load_config
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.engine.distributed import Ranks
from nopsd.files import write_json
from nopsd.neurons.store import NeuronSets, rank_file, write_neurons
from nopsd.rollout.types import Rollout
from nopsd.run import runner
from nopsd.run import session as session_module
from nopsd.run.session import Session
from nopsd.stages import neurons as neurons_stage
from nopsd.stages import signals as signals_stage
from nopsd.stages.registry import STAGES

POOL, TESTS = 9, 3
QUESTIONS = "questions.jsonl"
UNCOUNTED = ("sha256_file", "write_atomic")  # hashing and writing
SEALS = ("manifest.json", "begun.json", "environment.json", "config.yaml")


LISTENING = []  # the `Reads` of the test that runs


@cache
def install_hook():
    """One, for it can't be taken out and is called at every open and import from then on."""
    sys.addaudithook(lambda event, arguments: LISTENING[0].heard(arguments) if event == "open" else None)


class Reads:
    """Counts, by path below a folder, of the files that are read between `start` and `take`."""

    def __init__(self, root):
        self.root, self.counts = root, None
        install_hook()
        LISTENING[:] = [self]

    def start(self, counts=()):
        self.counts = Counter(counts)

    def take(self):
        found, self.counts = self.counts, None
        return {path: count for path, count in found.items() if Path(path).name not in SEALS}

    def add(self, path):
        if self.counts is not None and self.root in Path(path).parents:
            self.counts[str(Path(path).relative_to(self.root))] += 1

    def heard(self, arguments):
        if self.counts is None or not isinstance(arguments[0], (str, Path)):
            return
        if isinstance(arguments[1], str) and set(arguments[1]) & set("wax"):
            return
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_name not in UNCOUNTED:
            frame = frame.f_back
        if frame is None:
            self.add(arguments[0])


class Client:
    """A server whose answers are A, B, C, D in turn."""

    def generate(self, prompts, uids, sampling, seed, expected_version=None, **more):
        return [
            [
                Rollout(uid, s, list(prompt), [7, s], f"so <answer>{'ABCD'[s % 4]}</answer>", "stop", expected_version)
                for s in range(sampling.n)
            ]
            for uid, prompt in zip(uids, prompts, strict=True)
        ]

    def queue_times(self):
        return {}


def score(model, rollouts, config, ranks, folder, progress):
    uids = sorted({r.uid for r in rollouts})
    count = len(uids)
    ids = np.array([[i, i + 1, i + 2] for i in range(count)], dtype=np.int32)
    scores, lengths, cut = np.ones_like(ids, dtype=np.float16), np.full(count, 3, np.int32), np.zeros(count, bool)
    histogram, header = np.zeros((count, 2), np.int32), {"widths": [16, 16], "ranks": 1}
    counts = np.arange(count, dtype=np.float32)
    write_neurons(rank_file(folder, 0), NeuronSets(uids, counts, ids, scores, lengths, cut, histogram, header))


def columns(engine, rollouts, names, *arguments, **more):
    count = len({r.uid for r in rollouts})
    return {name: np.arange(count, dtype=np.float32) for name in names & {"token_entropy", "nait"}}


@pytest.fixture
def counted(tmp_path, monkeypatch, unrendered):
    """`counted(*overrides)`: of each stage of a run, (reads of the user's process, reads of a rank, prompts rendered).
    A stage without ranks has empty reads of a rank."""
    reads = Reads(tmp_path)
    rendered = []
    read_table, student = pyarrow.parquet.read_table, PromptRenderer.student

    def table(path, *arguments, **more):
        reads.add(path)
        return read_table(path, *arguments, **more)

    def render(self, question):
        rendered.append(question.uid)
        return student(self, question)

    monkeypatch.setattr(pyarrow.parquet, "read_table", table)  # it opens the file outside Python
    monkeypatch.setattr(PromptRenderer, "student", render)
    monkeypatch.setattr(session_module, "load_tokenizer", cache(load_tokenizer))  # no artefact, and slow to load
    monkeypatch.setattr(Session, "client", lambda self: Client())
    monkeypatch.setattr(Session, "client_holding", lambda self, folder, version: Client())
    monkeypatch.setattr(Session, "server_environment", lambda self: {})
    monkeypatch.setattr(runner, "check_hosts", lambda *arguments: None)
    monkeypatch.setattr(neurons_stage, "base_engine", lambda session: None)
    monkeypatch.setattr(neurons_stage, "score_pool", score)
    monkeypatch.setattr(signals_stage, "base_engine", lambda session: None)
    monkeypatch.setattr(signals_stage, "forward_columns", columns)
    monkeypatch.setattr("nopsd.train.trainer.run_training", leave_export)

    def run(*overrides):
        write_questions(tmp_path / QUESTIONS)
        config = load_config("lab", [*settings(tmp_path), *overrides])
        found = {}
        at_rank = {}

        def launch(name, *arguments, **more):
            here = reads.take()
            reads.start()
            with Session(config) as session:
                session.ranks = Ranks(0, 1, torch.device("cpu"))
                made = STAGES.fingerprint(session, STAGES[name])
                STAGES[name].work(session, session.run.stage_dir(name), None)
                session.run.commit(name, made)
            at_rank[name] = reads.take()
            reads.start(here)

        monkeypatch.setattr(runner, "launch_stage", launch)
        for stage in STAGES.planned(config):
            rendered.clear()
            reads.start()
            with Session(config) as session:
                runner.bring_up(STAGES, session, [stage], None)
            found[stage.name] = (reads.take(), at_rank.get(stage.name, {}), len(rendered))
        return found

    return run


def leave_export(inputs):
    """In place of the training: an export and no log."""
    write_json(inputs.folder / "export" / "nopsd_export.json", {"steps": 3})
    (inputs.folder / "metrics.jsonl").write_text("")


def write_questions(path):
    rows = [
        {"id": f"q{i:02d}", "question": f"Which of them is {i}?", "options": ["w", "x", "y", "z"], "answer": "A"}
        for i in range(POOL + TESTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings(folder):
    return [
        f"run_dir={folder / 'out'}",
        "data.name=file",
        "data.domain=d",
        f"data.path={folder / QUESTIONS}",
        "data.test_ratio=0.25",
        "zero_shot.n=4",
        "context.m=2",
        "select.fraction=0.4",
    ]


CASES = (
    ("method=nopsd",),
    ("method=nopsd", "select.selector=token_entropy"),
    ("method=nopsd", "distill.target=pmi"),
    ("method=nopsd", "distill.contrast=random_ctx"),
    ("method=nopsd", "distill.contrast=at_odds", "zero_shot.n=4"),
    ("method=lmsi",),
    ("method=ttrl",),
    ("method=opsd_oracle",),
)


@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
def test_nothing_is_read_twice(counted, overrides):
    """A pool of a hundred thousand long rollouts takes minutes to read, on every rank, each time."""
    for name, (here, at_rank, _) in counted(*overrides).items():
        answers = name in ("evaluate_base", "evaluate") or (name == "train" and overrides == ("method=opsd_oracle",))
        most = {QUESTIONS: 2} if answers else {}  # the questions, and the answer key apart from them
        for reads in (here, at_rank):
            assert not {path: n for path, n in reads.items() if n > most.get(path, 1)}, name


def test_questions_come_from_their_file_in_the_data_stage_alone(counted):
    """Read again later, an edited file would mix with artefacts of the old one. Evaluation reads the answers;
    selection copies the selected rows as they stand."""
    found = counted("method=nopsd")
    readers = {name for name, (here, at_rank, _) in found.items() if QUESTIONS in here or QUESTIONS in at_rank}
    assert readers == {"data", "evaluate_base", "select", "evaluate"}
    assert not any(QUESTIONS in at_rank for _, at_rank, _ in found.values()), "a rank read the user's file"


def test_prompts_of_the_pool_are_rendered_where_they_are_sampled(counted):
    """Training reads the ids that were sampled from: another tokenizer file in between can't give other prompts."""
    rendered = {name: count for name, (_, _, count) in counted("method=nopsd").items()}
    assert rendered.pop("data") == POOL + TESTS, "checked for length"
    assert rendered.pop("rollout") == POOL
    assert rendered.pop("evaluate_base") == rendered.pop("evaluate") == TESTS
    assert not any(rendered.values()), rendered
