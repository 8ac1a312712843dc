"""Training: curves, the important ones first, runs laid over each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from nopsd.viewer.charts import Line, Link, line_chart
from nopsd.viewer.query import Query
from nopsd.viewer.source import Source


@dataclass(frozen=True)
class Chart:
    """Metrics that are drawn together, and what the reader should see in them."""

    title: str
    metrics: Mapping[str, str]  # name in the log -> label; the second and third are dashed when runs are compared
    says: str = ""


FIRST = (
    Chart("Loss", {"loss": "loss"}, "nats a token, as weighted; noisy: look at the mean"),
    Chart(
        "Student ‖ teacher",
        {"reverse_kl": "KL(student ‖ teacher)", "forward_kl": "KL(teacher ‖ student)"},
        "falls as the student takes over what the demonstrations show",
    ),
    Chart(
        "Entropy",
        {"student_entropy": "student", "teacher_entropy": "teacher"},
        "nats; towards 0: collapse, without end: noise",
    ),
    Chart("Response length", {"response_length_mean": "mean", "response_length_max": "longest"}, "tokens"),
    Chart(
        "Cut and repeated",
        {"truncated_share": "cut at the limit", "repeated_4grams": "repeated 4-grams"},
        "shares; rising: responses run away or loop",
    ),
    Chart(
        "Answers of the probe",
        {
            "probe/majority_share": "majority share",
            "probe/distinct_answer_rate": "distinct answers",
            "probe/unparsed_share": "unreadable",
        },
        "share near 1 with few answers: collapse to one answer",
    ),
    Chart(
        "Without labels, on questions held out",
        {
            "eval/held_out/base_vote": "answers equal to the base's majority",
            "eval/held_out/vote_share": "majority's share of the votes",
            "eval/held_out/same_majority": "majority answers that stayed",
        },
        "the first rising: towards what the base mostly says; the second alone: only surer",
    ),
    Chart("Gradient", {"grad_norm": "norm before clipping"}),
    Chart(
        "Agreement on the next token",
        {
            "top16_overlap": "common ids of the top 16",
            "top16_student_mass": "their mass, student",
            "top16_teacher_mass": "their mass, teacher",
        },
    ),
    Chart(
        "Served against trained",
        {"logprob_gap": "mean |Δ log p|", "logprob_gap_max": "largest"},
        "nats; more than rounding: the server holds other weights",
    ),
    Chart(
        "Seconds of a step",
        {"time/rollout": "rollout", "time/teacher": "teacher", "time/student": "student", "time/sync": "sync"},
    ),
)
GROUPS = {
    "loss": "Loss",
    "guard": "Guards",
    "eval": "Evaluation",
    "probe": "Probe",
    "time": "Time",
    "speed": "Time",
    "memory": "Memory",
    "context": "Teacher's cache",
}


def curves(sources: Sequence[Source], query: Query, link: Any) -> dict[str, Any]:
    """All charts; `link(page, **parameters)` makes addresses."""
    smooth = query.text("smooth") != "0"
    rows = [source.training for source in sources]
    known = {name for logged in rows for row in logged for name, value in row.items() if _is_number(value)} - {"step"}
    traced = [set(source.trace.steps) for source in sources]

    def open_step(step: int) -> str:
        run = next((i for i, steps in enumerate(traced) if step in steps), 0)
        return str(link("rollouts", run=sources[run].number, step=step))

    first = [chart for chart in FIRST if known & set(chart.metrics)]
    shown = {name for chart in first for name in chart.metrics}
    others: dict[str, list[Chart]] = {}
    for name in sorted(known - shown - {"policy_version"}):
        if not all(_constant(logged, name) for logged in rows):
            others.setdefault(GROUPS.get(name.split("/")[0], "Others"), []).append(Chart(name, {name: name}))
    return {
        "first": [(chart, drawn(chart, sources, smooth, open_step)) for chart in first],
        "others": {
            group: [(chart, drawn(chart, sources, smooth, open_step)) for chart in charts]
            for group, charts in sorted(others.items(), key=lambda item: item[0] == "Others")
        },
        "smooth": smooth,
        "constant": sorted(name for name in known - shown if all(_constant(logged, name) for logged in rows)),
    }


def drawn(
    chart: Chart, sources: Sequence[Source], smooth: bool, open_step: Link
) -> tuple[Markup, list[tuple[int, bool, str]]]:
    """The chart and its legend: colour, whether dashed, label."""
    lines = []
    names = [name for name in chart.metrics if any(row.get(name) is not None for s in sources for row in s.training)]
    for source in sources:
        for place, name in enumerate(names):
            points = [(float(row["step"]), float(row[name])) for row in source.training if _is_number(row.get(name))]
            if points:
                label = chart.metrics[name] if len(sources) == 1 else f"{source.title}: {chart.metrics[name]}"
                several = len(sources) > 1
                lines.append(Line(label, points, source.number if several else place, several and place > 0))
    return line_chart(chart.title, lines, smooth, open_step), [(line.colour, line.dashed, line.label) for line in lines]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _constant(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return len({row[name] for row in rows if row.get(name) is not None}) <= 1
