"""An evaluation in the log format of lm-evaluation-harness 0.4, so that tools made for its logs read it.

In: judged questions, their rollouts and prompts. Out: FOLDER/results_DATE.json and FOLDER/samples_TASK_DATE.jsonl, with
the fields that its `EvaluationTracker` writes (save_results_aggregated, save_results_samples). A domain is a task,
`nopsd_DOMAIN`; a question has one row for each filter:

    extract          our extraction; `exact_match` is the share of its samples that are right (the mean is Avg@k)
    majority         the most frequent answer; `exact_match` 0 or 1 (the mean is maj@k)
    custom-extract   the first sample by the harness's own MMLU-Pro rule; lettered questions alone
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nopsd import __version__
from nopsd.config import EvalConfig
from nopsd.data.records import Question
from nopsd.data.wording import answer_kind
from nopsd.evaluation.lm_eval_answers import FILTER, INVALID, harness_answer, harness_match
from nopsd.evaluation.results import DomainResult, QuestionRow
from nopsd.files import write_json, write_jsonl
from nopsd.rollout.types import Rollout

VERSION = 1  # of our tasks' rows; "versions" in the results


@dataclass(frozen=True)
class Evaluated:
    """One domain: its result, and by uid its questions, rollouts (in order of samples) and prompts as text."""

    result: DomainResult
    questions: Mapping[str, Question]
    rollouts: Mapping[str, Sequence[Rollout]]
    prompts: Mapping[str, str]


def write_harness_logs(
    folder: Path, model: str, domains: Sequence[Evaluated], config: EvalConfig, seconds: float | None = None
) -> Path:
    """Write an evaluation in lm-eval's log format, in place of what was there.

    Args:
        folder: Where to.
        model: Path or hub id.
        domains: What was judged, a task each.
        config: The evaluation's settings.
        seconds: What it took.

    Returns:
        The results file.
    """
    date = datetime.now(UTC).replace(tzinfo=None).isoformat().replace(":", "-")
    for old in [*folder.glob("results_*.json"), *folder.glob("samples_*.jsonl")]:
        old.unlink()
    samples = {task_name(d.result.domain): list(sample_rows(d, config)) for d in domains}
    for task, rows in samples.items():
        write_jsonl(folder / f"samples_{task}_{date}.jsonl", rows)
    path = folder / f"results_{date}.json"
    write_json(path, {**results_tree(model, domains, samples, config), "total_evaluation_time_seconds": str(seconds)})
    return path


def task_name(domain: str) -> str:
    """What a file name, and the harness's readers of file names, can hold."""
    return "nopsd_" + re.sub(r"[\W]+", "-", domain).strip("-")


def sample_rows(domain: Evaluated, config: EvalConfig) -> Iterator[dict[str, Any]]:
    """The rows of one task, question by question, filter by filter."""
    for doc_id, row in enumerate(domain.result.rows):
        question = domain.questions[row.uid]
        responses = [r.text for r in domain.rollouts[row.uid]]
        doc = {**question.to_json(), "answer": row.gold}
        arguments = {"gen_args_0": {"arg_0": domain.prompts[row.uid], "arg_1": generation_kwargs(config)}}
        common = {
            "doc_id": doc_id,
            "doc": doc,
            "target": row.gold,
            "arguments": arguments,
            "resps": [responses],
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(domain.prompts[row.uid]),
            "target_hash": _hash(row.gold),
        }
        for name, (filtered, score) in _filtered(question, row, responses).items():
            yield {
                **common,
                "filtered_resps": filtered,
                "filter": name,
                "metrics": ["exact_match"],
                "exact_match": score,
            }


def _filtered(question: Question, row: QuestionRow, responses: Sequence[str]) -> dict[str, tuple[list[str], float]]:
    """filter -> (filtered responses, exact_match)."""
    shown = [INVALID if a is None else a for a in row.answers]
    majority = INVALID if row.majority is None else row.majority
    found = {
        "extract": (shown, float(np.mean(row.correct))),
        "majority": ([majority], float(row.majority == row.gold)),
    }
    if answer_kind(question) == "letter":
        answer = harness_answer(responses[0])
        found[FILTER] = ([answer], float(harness_match(answer, row.gold)))
    return found


def results_tree(
    model: str, domains: Sequence[Evaluated], samples: Mapping[str, Sequence[Mapping[str, Any]]], config: EvalConfig
) -> dict[str, Any]:
    """The aggregated results. `exact_match_stderr` is the standard error over questions, as the harness's."""
    tasks = {task_name(d.result.domain): d for d in domains}
    hashes = {
        task: _hash("".join(r["doc_hash"] + r["prompt_hash"] + r["target_hash"] for r in rows))
        for task, rows in samples.items()
    }
    counts = {task: len(d.result.rows) for task, d in tasks.items()}
    found = {task: {"alias": task, **_aggregated(samples[task]), **_ours(d.result)} for task, d in tasks.items()}
    return {
        "results": found,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: _task_config(task, config) for task in tasks},
        "versions": dict.fromkeys(tasks, VERSION),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: {"exact_match": True} for task in tasks},
        "n-samples": {task: {"original": n, "effective": n} for task, n in counts.items()},
        "config": {
            "model": "nopsd",
            "model_args": f"pretrained={model}",
            "batch_size": "auto",
            "limit": config.limit,
            "bootstrap_iters": config.bootstrap,
            "gen_kwargs": generation_kwargs(config),
            "random_seed": config.seed,
        },
        "git_hash": None,
        "date": datetime.now(UTC).timestamp(),
        "nopsd_version": __version__,
        "task_hashes": hashes,
        "model_source": "nopsd",
        "model_name": model,
        "model_name_sanitized": sanitized(model),
    }


def _aggregated(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_filter: dict[str, list[float]] = {}
    for row in rows:
        by_filter.setdefault(row["filter"], []).append(row["exact_match"])
    found: dict[str, Any] = {}
    for name, scores in by_filter.items():
        found[f"exact_match,{name}"] = float(np.mean(scores))
        error: Any = float(np.std(scores, ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else "N/A"
        found[f"exact_match_stderr,{name}"] = error
    return found


def _ours(result: DomainResult) -> dict[str, float]:
    """Metrics that the harness has no filter for."""
    names = ["ece", "unparsed", "truncated", "mean_length", *(m for m in result.metrics if m.startswith("pass@"))]
    return {f"{name},extract": result.metrics[name] for name in names}


def _task_config(task: str, config: EvalConfig) -> dict[str, Any]:
    return {
        "task": task,
        "output_type": "generate_until",
        "repeats": config.n,
        "num_fewshot": 0,
        "generation_kwargs": generation_kwargs(config),
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION, "extract": config.extract, "eval": asdict(config)},
    }


def generation_kwargs(config: EvalConfig) -> dict[str, Any]:
    """How it was sampled, by the harness's names."""
    return {
        "until": [],
        "max_gen_toks": config.max_new,
        "do_sample": config.temperature > 0,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
    }


def sanitized(model: str) -> str:
    """A model's name as the harness names its folder."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
