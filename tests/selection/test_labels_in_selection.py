"""No selector and no retriever can see an answer: by what they are given, by what they import, and by what changes."""

import ast
import json
from dataclasses import fields
from pathlib import Path

import numpy as np

import nopsd.selection
import nopsd.signals
from nopsd.config import ContextConfig, SelectConfig, load_config
from nopsd.data.records import Question
from nopsd.data.sources import load_splits
from nopsd.data.wording import question_text
from nopsd.selection.gathering import PoolData
from nopsd.selection.pool import Pool
from nopsd.selection.retrievers import RETRIEVERS, Request
from nopsd.selection.select_pool import Sharing, select_pool
from nopsd.selection.selectors import SELECTORS
from nopsd.signals.store import Signals

LABELS = {"answer", "answers", "gold", "label", "labels", "correct", "key", "target", "accuracy"}
MODULES = sorted(p for package in (nopsd.selection, nopsd.signals) for p in Path(package.__path__[0]).rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_neither_package_imports_anything_that_holds_an_answer():
    """`extract_answer` reads the model's own text and `majority_answer` counts those; all else that judges is out."""
    allowed = {"nopsd.data.answers.extract_answer", "nopsd.evaluation.metrics.majority_answer"}
    assert len(MODULES) > 30
    for path in MODULES:
        for name in set(imports(path)) - allowed:
            assert not name.startswith(("nopsd.evaluation", "nopsd.data.answers", "nopsd.data.sources")), (path, name)
            assert name.split(".")[-1] not in {"AnswerKey", "load_answer_key"}, (path, name)
        if nopsd.selection.__path__[0] in str(path):
            assert not any(name.startswith("nopsd.data") for name in imports(path)), path  # not even questions


def test_what_selectors_and_retrievers_are_given_has_no_place_for_an_answer():
    for kind in (Question, Pool, Request):
        assert not {f.name for f in fields(kind)} & LABELS, kind
    needs = {n for s in (*SELECTORS.values(), *RETRIEVERS.values()) for n in s.needs}
    assert needs and not needs & LABELS


def test_poisoned_answers_change_no_selection_and_no_context(tmp_path, make_neurons, alone):
    """The same files to the byte, for every selector and every retriever, whatever stands in the answer column."""
    files = {}
    for name, answer in (("clean", "A"), ("poison", "POISON")):
        source = tmp_path / f"{name}.jsonl"
        rows = [{"id": f"q{i:03d}", "question": f"q {i}", "options": ["x", "y"], "answer": answer} for i in range(60)]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides = ["data.name=file", "data.domain=d", f"data.path={source}", "data.test_ratio=0.4"]
        questions = sorted(load_splits(load_config("lab", overrides).data).pool, key=lambda q: q.uid)
        files[name] = run_all(questions, make_neurons, alone, tmp_path / name)
    assert files["clean"] == files["poison"] and len(files["clean"]) == len(SELECTORS) + len(RETRIEVERS)
    assert not any(b"POISON" in content for contents in files["poison"] for content in contents)


def run_all(questions, make_neurons, alone, folder):
    draw = np.random.default_rng(1)
    neurons = make_neurons(len(questions))
    neurons.uids[:] = [q.uid for q in questions]
    neurons.agreement[:] = draw.random(len(questions))
    columns = {c: draw.random(len(questions)) for s in SELECTORS.values() for c in s.needs if c != "agreement"}
    columns |= {"agrees": draw.integers(0, 2, (len(questions), 3)), "embedding": draw.random((len(questions), 4))}
    columns["trajectory"] = draw.random((len(questions), 6))
    cases = [(s, "none") for s in sorted(SELECTORS)] + [("neuron_count", r) for r in sorted(RETRIEVERS)]
    left = []
    for selector, retriever in cases:
        select_pool(
            PoolData(neurons, {q.uid: question_text(q) for q in questions}, signals=Signals(neurons.uids, columns)),
            SelectConfig(selector),
            ContextConfig(retriever, 3),
            Sharing(alone, block_mib=64),
            folder,
        )
        left.append([(folder / n).read_bytes() for n in ("selected.json", "contexts.json", "scores.jsonl")])
    return left
