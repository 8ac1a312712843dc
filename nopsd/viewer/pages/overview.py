"""Overview: each run's stages, cost and time left, headline numbers, and what to do something about."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from nopsd.evaluation.conclusion import conclude, room_to_gain, teacher_gain
from nopsd.reporting.unlabelled import ROWS, change_text
from nopsd.run.progress import duration
from nopsd.run.stage import Stages
from nopsd.run.status import DONE, RUNNING, RunStatus, StageStatus, status_of
from nopsd.viewer.advice import Advice, advice
from nopsd.viewer.charts import bar, number
from nopsd.viewer.source import Source

MEMORY = ("memory/peak_gib", "memory/peak_mib")
HEADLINES = (("avg", "Avg@k", 100.0), ("maj", "maj@k", 100.0), ("ece", "ECE", 1.0))


@dataclass(frozen=True)
class Headline:
    """A number of an evaluation before and after: values with their intervals, and how it moved: up, down or even."""

    domain: str
    name: str
    before: str
    after: str
    change: str
    moved: str


@dataclass(frozen=True)
class Card:
    """A run on the page."""

    source: Source
    status: RunStatus
    stages: list[tuple[StageStatus, str]]  # with its cost and progress in words
    tiles: list[tuple[str, str, str]]  # name, value, unit or note
    parts: Markup | None  # who waits for whom in a training step
    legend: list[tuple[int, str, str]]
    headlines: list[Headline]
    held: list[Headline]  # without labels, of questions held out
    advice: list[Advice]
    conclusion: list[str]


def cards(sources: Sequence[Source], stages: Stages) -> list[Card]:
    """A card for each run."""
    return [card(source, status_of(stages, source.config)) for source in sources]


def card(source: Source, status: RunStatus) -> Card:
    """One run's."""
    rows, before, after = source.training, source.metrics("base"), source.metrics("final")
    times = time_shares(rows)
    shown = [(stage, stage_text(stage)) for stage in status.stages if stage.state != "not needed"]
    return Card(
        source,
        status,
        shown,
        tiles(source, status),
        bar(times) if times else None,
        [(place, name, f"{share:.0%}, {seconds}") for place, (name, share, seconds) in enumerate(times)],
        headlines(before, after),
        held_headlines(source),
        advice(status, rows, before, after),
        sentences(source, no_answers=not before and status.state == DONE),
    )


def sentences(source: Source, no_answers: bool) -> list[str]:
    """What the figures without labels say, and before there are any what could be gained."""
    found = ["The questions have no answers: nothing here says whether answers are right."] if no_answers else []
    if (compared := source.comparison) is not None:
        return [*found, *conclude(compared).sentences]
    base = source.held("base")
    return [*found, *(room_to_gain(base) if base else []), *teacher_gain(source.run.training_gain())]


def held_headlines(source: Source) -> list[Headline]:
    """The figures without labels before and after; which way is better is for the conclusion to say."""
    compared, found = source.comparison, []
    if compared is None:
        return []
    for name, (label, scale, places) in ROWS.items():
        if figure := compared.figures.get(name):
            before, after = (f"{side.value * scale:.{places}f}" for side in (figure.before, figure.after))
            found.append(Headline("held out", label, before, after, change_text(figure.change, scale, places), "even"))
    return found


def stage_text(stage: StageStatus) -> str:
    """Cost and progress of a stage, in words."""
    parts = []
    if stage.seconds is not None:
        parts.append(duration(stage.seconds))
    if stage.done is not None and stage.total:
        parts.append(f"{stage.done:,} of {stage.total:,}")
    if stage.left_s is not None:
        parts.append(f"{duration(stage.left_s)} left")
    if stage.attempts > 1:
        parts.append(f"{stage.attempts} attempts")
    return ", ".join(parts)


def tiles(source: Source, status: RunStatus) -> list[tuple[str, str, str]]:
    """The numbers that are looked for first."""
    rows = source.training
    found = [("spent", duration(status.seconds), f"{status.rank_hours:.2f} rank-hours")]
    if status.state == RUNNING and status.left_s is not None:
        at = time.strftime("%H:%M", time.localtime(status.ends_at)) if status.ends_at else ""
        found.append(("left", duration(status.left_s), f"until about {at}" if at else "of work"))
    if rows:
        plan = source.run.training_plan().get("steps", source.config.train.steps)
        found.append(("training step", f"{len(rows):,}", f"of {plan:,}"))
        found.append(
            (
                "KL to the teacher",
                number(_recent(rows, "reverse_kl")),
                f"nats, was {number(_first(rows, 'reverse_kl'))}",
            )
        )
        found.append(
            (
                "response",
                number(_recent(rows, "response_length_mean")),
                f"tokens, was {number(_first(rows, 'response_length_mean'))}",
            )
        )
        speed = tokens_per_second(rows)
        if speed is not None:
            found.append(("speed", number(speed), "trained tokens/s"))
        for name in MEMORY:
            if (peak := rows[-1].get(name)) is not None:
                found.append(("memory", number(peak), "GiB at most" if name.endswith("gib") else "MiB at most"))
    return found


def tokens_per_second(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Response tokens with loss over the wall time of the last steps."""
    recent = [row for row in rows[-20:] if row.get("loss_tokens") is not None]
    spent = sum(value for row in recent for name, value in row.items() if name.startswith("time/") and value)
    return sum(row["loss_tokens"] for row in recent) / spent if spent else None


def time_shares(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Who waits for whom: a training step's phases, their share and mean seconds."""
    spent: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("time/") and value:
                spent[name.removeprefix("time/")] = spent.get(name.removeprefix("time/"), 0.0) + value
    whole = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return [(name, value / whole, f"{value / len(rows):.2f} s a step") for name, value in ordered] if whole else []


def headlines(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Headline]:
    """Before and after of each domain; empty without an evaluation."""
    found = []
    for domain in before:
        for key, name, scale in HEADLINES:
            was, now = before[domain], after.get(domain)
            decimals = 1 if scale > 1 else 3
            change, moved = "", "even"
            if now is not None:
                difference = (now["metrics"][key] - was["metrics"][key]) * scale
                change = f"{difference:+.{decimals}f}"
                moved = "even" if float(change) == 0 else "up" if (difference > 0) != (key == "ece") else "down"
            shown = name.replace("@k", f"@{was['metrics']['samples']}")
            texts = [_with_interval(side, key, scale, decimals) for side in (was, now)]
            found.append(Headline(domain, shown, texts[0], texts[1], change, moved))
    return found


def _with_interval(side: Mapping[str, Any] | None, key: str, scale: float, decimals: int) -> str:
    if side is None:
        return ""
    text = f"{side['metrics'][key] * scale:.{decimals}f}"
    low, high = side["intervals"].get(key) or (None, None)
    return text if low is None or high is None else f"{text} [{low * scale:.{decimals}f}, {high * scale:.{decimals}f}]"


def _recent(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows[-10:] if row.get(name) is not None]
    return fmean(values) if values else None


def _first(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return _recent(rows[:10], name)
