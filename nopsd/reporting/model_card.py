"""The card of an exported model: README.md with the hub's metadata, from this run's own numbers. Pure.

In: `CardInputs`, plain data; what is missing is said to be missing. Out: the file's text. Nothing of it names a folder
of the machine that trained: a card is passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from markupsafe import Markup

from nopsd import __version__
from nopsd.config import METHODS, Config
from nopsd.data.sources import hub_id
from nopsd.evaluation.bootstrap import Interval, paired_differences
from nopsd.evaluation.results import DomainResult, fix_break
from nopsd.reporting.page import escape, markdown_of
from nopsd.reporting.summary import summary_table
from nopsd.reporting.table import markdown_table

PAPER = "2607.02460"
TAGS = ["nopsd", "self-distillation", "on-policy-distillation", f"arxiv:{PAPER}"]
SETTINGS = (
    "zero_shot.n",
    "zero_shot.temperature",
    "zero_shot.max_new",
    "neuron.per_layer",
    "neuron.k",
    "select.selector",
    "select.fraction",
    "context.retriever",
    "context.m",
    "train.steps",
    "train.batch",
    "train.lr",
    "train.max_response",
    "distill.divergence",
    "distill.support",
    "teacher.kind",
    "train.lora.r",
    "model.dtype",
    "seed",
)
Results = Mapping[str, DomainResult]


@dataclass(frozen=True)
class CardInputs:
    """One run. `pool`: its questions; `shown_right`: share of demonstrations whose answer was right, if known."""

    config: Config
    pool: int
    plan: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    before: Results = field(default_factory=dict)
    after: Results = field(default_factory=dict)
    shown_right: float | None = None
    notes: Sequence[str] = ()


def model_card(inputs: CardInputs) -> str:
    """The card's text: metadata as YAML between lines of ---, then markdown."""
    config = inputs.config
    body = markdown_of(
        "model_card.md.jinja",
        base=base_name(config),
        data=data_name(config),
        domain=config.data.domain,
        method=f"{config.method} ({METHODS[config.method].does})",
        distilled=METHODS[config.method].trainer == "distill",
        selector=config.select.selector,
        retriever=config.context.retriever,
        inputs=inputs,
        steps=inputs.record.get("steps", config.train.steps),
        questions=inputs.plan.get("questions"),
        results=Markup(summary_table(inputs.before, inputs.after, config.data.domain, style="markdown")),
        settings=Markup(settings_table(config)),
        selection=Markup(selection_table(inputs.selection)) if inputs.selection else None,
        risks=amplified_errors(inputs),
        version=__version__,
        paper=PAPER,
    )
    card = ModelCard(f"---\n{metadata(inputs).to_yaml()}\n---\n\n{body}\n")
    return str(card)


def base_name(config: Config) -> str:
    """The base model's hub id, or its folder's name."""
    return config.model.path if is_hub_id(config.model.path) else Path(config.model.path).name or config.model.path


def is_hub_id(path: str) -> bool:
    """Whether it is owner/name and no folder here."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).is_dir()


def data_name(config: Config) -> str:
    """The data set's hub id, a file's name, or the source's."""
    if (found := hub_id(config.data)) is not None:
        return found
    return Path(config.data.path).name if config.data.path else config.data.name


def metadata(inputs: CardInputs) -> ModelCardData:
    """What the hub indexes; a base model or a data set that is on no hub is left to the text."""
    config = inputs.config
    dataset = hub_id(config.data)
    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset or config.data.name,
            dataset_name=domain,
            metric_type="accuracy" if key != "ece" else "ece",
            metric_name=name,
            metric_value=round(result.metrics[key], 4),
        )
        for domain, result in inputs.after.items()
        for key, name in (("avg", f"Avg@{result.samples}"), ("maj", f"maj@{result.samples}"), ("ece", "ECE"))
    ]
    return ModelCardData(
        base_model=config.model.path if is_hub_id(config.model.path) else None,
        datasets=[dataset] if dataset else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=TAGS,
        model_name=f"{base_name(config)}-nopsd-{config.data.domain}",
        eval_results=found or None,
    )


def settings_table(config: Config) -> str:
    """The settings that say most; null ones are left out."""
    rows = []
    for key in SETTINGS:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None:
            rows.append([f"`{key}`", escape(value)])
    return markdown_table(["setting", "value"], rows)


def selection_table(stats: Mapping[str, Any]) -> str:
    """Of selected.json: how many, by what threshold, and what the counts go with."""
    quantiles = stats.get("count_quantiles") or {}
    rows = [
        ["questions in the pool", _shown(stats.get("pool"))],
        ["selected", _shown(stats.get("selected"))],
        *(["threshold", _shown(value)] for value in (stats.get("thresholds") or {}).values()),
        ["neuron count: mean", _shown(stats.get("count_mean"))],
        *([f"neuron count: {percent} %", _shown(quantiles.get(percent))] for percent in ("5", "50", "95")),
        ["correlation of count and length", _shown(stats.get("count_length_correlation"))],
        ["mean Jaccard distance of pairs", _shown(stats.get("mean_pairwise_jaccard"))],
        ["selected questions with no demonstration", _shown(stats.get("empty_contexts"))],
    ]
    return markdown_table(["selection", ""], [row for row in rows if row[1]])


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) and abs(value) < 10 else f"{value:,.6g}"


def amplified_errors(inputs: CardInputs) -> list[str]:
    """Sentences of this run's own figures on what self-distillation made worse or surer; none if nothing is known."""
    lines = []
    if inputs.shown_right is not None:
        lines.append(
            f"Of the answers shown to the teacher as demonstrations, {1 - inputs.shown_right:.0%} were wrong by the "
            "pool's answers, which training never saw."
        )
    for domain in inputs.after:
        if domain in inputs.before:
            lines += _of_domain(domain, inputs.before[domain], inputs.after[domain])
    return lines


def _of_domain(domain: str, before: DomainResult, after: DomainResult) -> list[str]:
    moved = fix_break(before, after)
    change = paired_differences([before.outcomes], [after.outcomes], before.ece_bins, before.bootstrap, before.seed)
    sure = [_wrong_share(side) for side in (before, after)]
    line = (
        f"{domain}: of {len(after.rows)} questions, {moved.broken} that the majority answer had right went wrong, and "
        f"{moved.fixed} that it had wrong went right; Avg changed by {_per_cent(change['avg'])} points"
    )
    if None not in sure:
        line += f"; where the majority is wrong, its share of the votes went from {sure[0]:.0%} to {sure[1]:.0%}"
    return [f"{line}; ECE from {before.metrics['ece']:.3f} to {after.metrics['ece']:.3f}."]


def _wrong_share(result: DomainResult) -> float | None:
    """How sure a model is where it is wrong: the mean share of a wrong majority answer."""
    outcomes = result.outcomes
    wrong = ~outcomes.vote_N
    return float(np.mean(outcomes.share_N[wrong])) if wrong.any() else None


def _per_cent(change: Interval) -> str:
    ends = "" if change.low is None or change.high is None else f" [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return f"{100 * change.value:+.1f}{ends}"
