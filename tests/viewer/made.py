"""Run folders as stages leave them, made in a moment: no model, no server."""

import json
import math
import time

import numpy as np

from nopsd.config import load_config, to_yaml
from nopsd.data.records import Option, Question
from nopsd.files import write_json, write_jsonl
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.run.folder import RunFolder
from nopsd.stages.registry import STAGES
from nopsd.traces.schema import COUNTED, TOKEN_VALUES, Prompts, StepTrace
from nopsd.traces.writer import TraceWriter
from nopsd.train.batches import batch_uids
from nopsd.viewer.site import Site

STEPS, BATCH, POOL = 6, 4, 20


def made_run(folder, text="so it is", steps=STEPS, labelled=True, overrides=(), uid="q", pool=POOL):
    """A run whose stages up to the second evaluation are there; `text` stands in every question and response."""
    config = load_config("lab", [f"run_dir={folder}", f"train.steps={steps}", f"train.batch={BATCH}", *overrides])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    run, uids = RunFolder(folder), [f"{uid}{i:03d}" for i in range(pool)]
    questions = [question(name, text) for name in uids]
    tests = [question(f"{uid}t{i}", text) for i in range(3)]
    data = run.stage_dir("data")
    for name, rows in (("pool", questions), ("tests", tests)):
        write_jsonl(data / f"{name}.jsonl", [q.to_json() for q in rows])
    rollout = run.stage_dir("rollout")
    samples = [
        Rollout(u, s, [5], [6, 7, 8 + s], f"{text} <answer>{'AB'[s]}</answer>", "stop", 0) for u in uids for s in (0, 1)
    ]
    write_rollouts(rollout / "rollouts.parquet", samples)
    selected = uids[:8]
    write_selection(run.stage_dir("select"), uids, selected)
    write_training(run.stage_dir("train"), config, selected, text, steps)
    for stage, model, right in (("evaluate_base", "base", 1), ("evaluate", "final", 2)):
        write_evaluation(run.stage_dir(stage), model, tests if labelled else [], right)
    with open(folder / "journal.jsonl", "w") as journal:
        for stage in ("data", "rollout", "select", "train"):
            begin = {
                "stage": stage,
                "event": "begin",
                "at": time.time() - 90,
                "pid": 1,
                "created": 0.0,
                "host": "h",
                "ranks": 1,
            }
            end = {"stage": stage, "event": "end", "at": time.time() - 60, "outcome": "done", "error": None}
            journal.write(json.dumps(begin) + "\n" + json.dumps(end) + "\n")
            write_json(run.stage_dir(stage) / "manifest.json", {"stage": stage, "fingerprint": {}, "files": {}})
    return config


def question(uid, text):
    return Question(
        uid, "biology", "lab", f"{text} {uid}?", tuple(Option(label, f"{text} {label}") for label in "ABCD")
    )


def write_selection(folder, uids, selected):
    write_json(
        folder / "selected.json", {"uids": selected, "threshold": 8.0, "selector": "neuron_density", "stats": {}}
    )
    rows = [{"uid": u, "score": float(i), "selected": u in selected} for i, u in enumerate(uids)]
    write_jsonl(folder / "scores.jsonl", rows)
    near = {u: [{"uid": v, "sample": 0, "distance": 0.25} for v in uids[8:11]] for u in selected}
    write_json(folder / "contexts.json", near)


def write_training(folder, config, selected, text, steps):
    rows = []
    writer = TraceWriter(folder / "trace", 1, 1 << 40)
    writer.write_prompts({u: Prompts([1, 2, 3], [4, 5, 1, 2, 3], ("x", "y")) for u in selected})
    for step in range(steps):
        rows.append(metrics_row(step))
        uids = batch_uids(selected, step, config.train.batch, config.train.seed)
        writer.add(step_trace(step, uids, text))
    writer.close()
    write_jsonl(folder / "metrics.jsonl", rows)
    write_json(folder / "plan.json", {"method": "nopsd", "questions": 8, "steps": steps, "warmup": 1})


def metrics_row(step):
    falling = math.exp(-step / 4)
    return {
        "step": step,
        "loss": 0.3 * falling,
        "loss_tokens": 80,
        "reverse_kl": 0.3 * falling,
        "forward_kl": 0.4 * falling,
        "student_entropy": 0.5,
        "teacher_entropy": 0.4 * falling,
        "response_length_mean": 20.0 + step,
        "response_length_max": 40,
        "truncated_share": 0.0,
        "guard/max_repeated": 0,
        "time/rollout": 2.0,
        "time/student": 1.0,
        "policy_version": step,
    }


def step_trace(step, uids, text, tokens=5):
    """Responses to these questions; every second one is cut, and its last token carries no loss."""
    rollouts = [
        Rollout(
            u,
            0,
            [1, 2, 3],
            [10 + i + j for j in range(tokens)],
            f"{text} <answer>{'AB'[i % 2]}</answer>",
            ["stop", "length"][i % 2],
            step,
            7,
            [-0.5] * tokens,
        )
        for i, u in enumerate(uids)
    ]
    total = tokens * len(uids)
    rng = np.random.default_rng(step)
    values = {name: rng.exponential(0.3, total).astype(np.float32) for name in TOKEN_VALUES}
    for name in ("student_logprob", "teacher_logprob"):
        values[name] = -values[name]
    return StepTrace(step, rollouts, {**values, COUNTED: np.arange(total) % tokens < tokens - 1})


def write_evaluation(folder, model, tests, right):
    """The first `right` of the questions are answered rightly."""
    folder.mkdir(parents=True)
    if not tests:
        write_json(folder / "metrics.json", {model: {}})
        return
    rows = []
    for i, q in enumerate(tests):
        answers = ["A", "A", "B"] if i < right else ["C", "C", None]
        rows.append(
            {
                "uid": q.uid,
                "answers": answers,
                "gold": "A",
                "correct": [a == "A" for a in answers],
                "majority": answers[0],
                "share": 2 / 3,
                "finish_reasons": ["stop"] * 3,
                "lengths": [9, 9, 9],
            }
        )
    write_jsonl(folder / f"eval_{model}_biology.jsonl", rows)
    metrics = {"avg": right * 2 / 9, "maj": right / 3, "ece": 0.1, "unparsed": 0.1, "samples": 3}
    write_json(folder / "metrics.json", {model: {"biology": {"metrics": metrics, "intervals": {"avg": [0.1, 0.4]}}}})


def site(*configs):
    return Site.of(configs, STAGES)
