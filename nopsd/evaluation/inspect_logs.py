"""An evaluation as logs of UK AISI's Inspect, one a domain, which `inspect view` and `read_eval_log` open.

In: judged questions, their rollouts and prompts. Out: FOLDER/DATE_TASK.eval, written by inspect_ai itself, which must
be installed (pip install nopsd[inspect]). A sample of ours is an epoch of theirs; scorers, each with a standard error:

    extract     whether the sample's answer, as we read it, is right (C or I); the mean over epochs is Avg@k
    majority    whether the question's most frequent answer is right, the same at every epoch; the mean is maj@k
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nopsd import __version__
from nopsd.config import EvalConfig
from nopsd.evaluation.lm_eval_logs import Evaluated, task_name
from nopsd.rollout.types import Rollout

PACKAGE = "inspect_ai"
RIGHT, WRONG = "C", "I"  # Inspect's values of a right and a wrong answer
STOPS = {"stop": "stop", "length": "max_tokens"}  # our finish reasons in Inspect's words


def can_write() -> bool:
    """Whether inspect_ai is installed here."""
    return find_spec(PACKAGE) is not None


def write_inspect_logs(folder: Path, model: str, domains: Sequence[Evaluated], config: EvalConfig) -> list[Path]:
    """Write a log a domain, in place of what was there.

    Args:
        folder: Where to.
        model: Path or hub id.
        domains: What was judged, a task each.
        config: The evaluation's settings.

    Returns:
        The files.

    Raises:
        ImportError: inspect_ai is not installed (`can_write`).
    """
    from inspect_ai.log import write_eval_log

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.eval"):
        old.unlink()
    now, written = datetime.now(UTC), []
    for domain in domains:
        path = folder / f"{now.strftime('%Y-%m-%dT%H-%M-%S')}_{task_name(domain.result.domain)}.eval"
        write_eval_log(log_of(model, domain, config, now.isoformat()), str(path))
        written.append(path)
    return written


def log_of(model: str, domain: Evaluated, config: EvalConfig, at: str) -> Any:
    """One domain's log, an `inspect_ai.log.EvalLog`."""
    from inspect_ai.log import EvalConfig as Settings
    from inspect_ai.log import EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats
    from inspect_ai.model import GenerateConfig

    result, name = domain.result, task_name(domain.result.domain)
    count = len(result.rows) * result.samples
    generate = GenerateConfig(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k if config.top_k > 0 else None,
        max_tokens=config.max_new,
        seed=config.seed,
    )
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=at,
            task=name,
            task_id=name,
            dataset=EvalDataset(name=result.domain, samples=len(result.rows), sample_ids=[r.uid for r in result.rows]),
            model=f"nopsd/{model}",
            model_generate_config=generate,
            config=Settings(limit=config.limit, epochs=result.samples),
            packages={"nopsd": __version__},
            metadata={**result.metrics, "extract": config.extract},
        ),
        results=EvalResults(total_samples=count, completed_samples=count, scores=scores_of(domain)),
        stats=EvalStats(started_at=at, completed_at=at),
        samples=list(samples_of(domain)),
    )


def scores_of(domain: Evaluated) -> list[Any]:
    """Both scorers' means over questions, with the standard error over these."""
    from inspect_ai.log import EvalMetric, EvalScore

    rows = domain.result.rows
    by_name = {
        "extract": np.array([float(np.mean(row.correct)) for row in rows]),
        "majority": np.array([float(row.majority == row.gold) for row in rows]),
    }
    found = []
    for name, values_N in by_name.items():
        error = float(values_N.std(ddof=1) / np.sqrt(len(values_N))) if len(values_N) > 1 else 0.0
        metrics = {
            "accuracy": EvalMetric(name="accuracy", value=float(values_N.mean())),
            "stderr": EvalMetric(name="stderr", value=error),
        }
        found.append(EvalScore(name=name, scorer=name, scored_samples=len(values_N), metrics=metrics))
    return found


def samples_of(domain: Evaluated) -> Iterator[Any]:
    """Each question's responses, an epoch each."""
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser
    from inspect_ai.scorer import Score

    for row in domain.result.rows:
        question, prompt = domain.questions[row.uid], domain.prompts[row.uid]
        majority = Score(value=RIGHT if row.majority == row.gold else WRONG, answer=row.majority)
        for epoch, rollout in enumerate(domain.rollouts[row.uid], start=1):
            right, answer = row.correct[epoch - 1], row.answers[epoch - 1]
            yield EvalSample(
                id=row.uid,
                epoch=epoch,
                input=question.question,
                choices=[option.text for option in question.options] or None,
                target=row.gold,
                messages=[ChatMessageUser(content=prompt), ChatMessageAssistant(content=rollout.text)],
                output=output_of(rollout, domain.result.domain),
                scores={"extract": Score(value=RIGHT if right else WRONG, answer=answer), "majority": majority},
                metadata={"prompt_as_sent": prompt},
            )


def output_of(rollout: Rollout, model: str) -> Any:
    """A response with its token counts."""
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage

    asked, given = len(rollout.prompt_ids), len(rollout.response_ids)
    choice = ChatCompletionChoice(
        message=ChatMessageAssistant(content=rollout.text), stop_reason=STOPS.get(rollout.finish_reason, "unknown")
    )
    usage = ModelUsage(input_tokens=asked, output_tokens=given, total_tokens=asked + given)
    return ModelOutput(model=model, choices=[choice], usage=usage)
