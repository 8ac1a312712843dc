"""Files of an evaluation.

| file | what |
|---|---|
| eval_MODEL_DOMAIN.jsonl | a judged question a row (`QuestionRow`) |
| metrics.json | {model: {domain: metrics and intervals}} |
| holdout_MODEL.jsonl | a held-out question a row, unjudged (`AnswerRow`); none where none are held out |
| pool_correct.json | {uid: share of the pool question's own zero-shot responses that are right}; base model alone |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nopsd.config import EvalConfig
from nopsd.errors import ArtefactError
from nopsd.evaluation.results import DomainResult, QuestionRow, result_from_rows
from nopsd.evaluation.unlabelled import AnswerRow
from nopsd.files import file_name, read_json, read_jsonl, write_json, write_jsonl

METRICS, POOL_CORRECT = "metrics.json", "pool_correct.json"


def write_results(folder: Path, model: str, results: Mapping[str, DomainResult]) -> None:
    """One model's rows by domain, and metrics.json; without results an empty metrics.json."""
    for result in results.values():
        write_rows(folder, model, result)
    write_metrics(folder, {model: results})


def rows_path(folder: Path, model: str, target: str) -> Path:
    """FOLDER/eval_{model}_{target}.jsonl; characters a file name can't hold are percent-encoded."""
    return folder / f"{file_name('eval', model, target)}.jsonl"


def write_rows(folder: Path, model: str, result: DomainResult) -> Path:
    """The result's judged questions; returns the file."""
    path = rows_path(folder, model, result.domain)
    write_jsonl(path, [asdict(row) for row in result.rows])
    return path


def read_result(folder: Path, model: str, target: str, config: EvalConfig) -> DomainResult:
    """A DomainResult again, from its rows.

    Args:
        folder: The evaluation's.
        model: `base` or `final`.
        target: The domain.
        config: For the metrics.

    Raises:
        ArtefactError: The file is missing, damaged or of another form.
    """
    path = rows_path(folder, model, target)
    try:
        rows = [QuestionRow(**row) for row in read_jsonl(path)]
    except TypeError as error:
        raise ArtefactError(f"{path} doesn't hold evaluation rows: delete it and evaluate again") from error
    return result_from_rows(target, rows, config)


def write_holdout(folder: Path, model: str, rows: Sequence[AnswerRow]) -> None:
    """One model's answers to the held-out questions."""
    write_jsonl(holdout_path(folder, model), [asdict(row) for row in rows])


def holdout_path(folder: Path, model: str) -> Path:
    """The file of a model's answers to the questions held out."""
    return folder / f"holdout_{model}.jsonl"


def read_holdout(folder: Path, model: str) -> list[AnswerRow]:
    """What `write_holdout` wrote; none where nothing was. ArtefactError if it is damaged."""
    path = holdout_path(folder, model)
    if not path.exists():
        return []
    try:
        return [AnswerRow(**row) for row in read_jsonl(path)]
    except TypeError as error:
        raise ArtefactError(f"{path} doesn't hold answers: delete it and evaluate again") from error


def metrics_tree(results: Mapping[str, Mapping[str, DomainResult]]) -> dict[str, Any]:
    """{model: {target: {metrics, intervals}}} as plain data, JSON-ready."""
    return {
        model: {
            target: {
                "metrics": result.metrics,
                "intervals": {k: [v.low, v.high] for k, v in result.intervals.items()},
                "ece_bins": result.ece_bins,
                "bootstrap": result.bootstrap,
                "seed": result.seed,
            }
            for target, result in by_target.items()
        }
        for model, by_target in results.items()
    }


def write_metrics(folder: Path, results: Mapping[str, Mapping[str, DomainResult]]) -> Path:
    """FOLDER/metrics.json from {model: {target: result}}."""
    path = folder / METRICS
    write_json(path, metrics_tree(results))
    return path


def read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """{domain: metrics} of the one model that a stage's metrics.json holds; empty without tests."""
    found = read_json(folder / METRICS)
    return {domain: result["metrics"] for by_domain in found.values() for domain, result in by_domain.items()}


def evaluated_domains(folder: Path, model: str) -> list[str]:
    """The domains that metrics.json holds of a model."""
    return list(read_json(folder / METRICS).get(model, {}))


def write_pool_correct(folder: Path, shares: Mapping[str, float]) -> None:
    """What `Judge.pool_correctness` found."""
    write_json(folder / POOL_CORRECT, dict(shares))


def read_pool_correct(folder: Path) -> dict[str, float]:
    """What `write_pool_correct` wrote; empty if it has not run."""
    path = folder / POOL_CORRECT
    found: dict[str, float] = read_json(path) if path.exists() else {}
    return found
