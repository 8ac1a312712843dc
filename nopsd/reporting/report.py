"""The report of a run: report.md (with figures/ beside it) and report.html, one self-contained file.

In: `nopsd.reporting.views.ReportInputs`, plain data; whatever is missing leaves a stated gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from nopsd.evaluation.results import DomainResult
from nopsd.keys import redacted
from nopsd.reporting.examples import KINDS
from nopsd.reporting.figures import pool as pool_figures
from nopsd.reporting.figures import training
from nopsd.reporting.figures.evaluation import accuracy_figure, calibration_figure
from nopsd.reporting.observations import observations
from nopsd.reporting.page import Page, code_block, escape
from nopsd.reporting.summary import summary_table
from nopsd.reporting.table import MISSING, markdown_table
from nopsd.reporting.unlabelled import figures_table, flips_table, levels_table
from nopsd.reporting.views import PoolView, ReportInputs


def write_report(folder: Path, inputs: ReportInputs) -> tuple[Path, Path]:
    """Write report.md, report.html and figures/*.png; returns the paths of the first two."""
    before, after, pool = inputs.before, inputs.after, inputs.pool
    page = Page(inputs.title)
    page.render(
        "report.md.jinja",
        inputs=inputs,
        before=before,
        after=after,
        domain=inputs.pool_domain,
        rows=inputs.training,
        pool=pool,
        counted=pool is not None and len(pool.counts) > 0,
        answers_known=pool is not None and len(pool_figures.known_correct(pool)[0]) > 0,
        kinds=KINDS,
        block=lambda text: code_block(text, "text"),
        **held_tables(inputs),
        summary=Markup(summary_table(before, after, inputs.pool_domain, style="markdown")),
        observations=observations(inputs),
        metrics_table=metrics_table(before, after),
        selection_table=selection_table(pool),
        environment=yaml_block(inputs.provenance),
        configuration=yaml_block(inputs.config),
        accuracy_figure=accuracy_figure,
        calibration_figure=calibration_figure,
        training=training,
        pool_figures=pool_figures,
    )
    return page.write(folder, "report")


def held_tables(inputs: ReportInputs) -> dict[str, Markup | None]:
    """Tables of the held-out questions, by the template's names; None where there is nothing to show."""
    found = inputs.held.comparison if inputs.held is not None else None
    if inputs.held is None or found is None:
        return dict.fromkeys(("figures_table", "levels_table", "flips_table"))
    return {
        "figures_table": figures_table(found),
        "levels_table": levels_table(found, inputs.held.judged),
        "flips_table": flips_table(found.flips, inputs.held.questions) if found.flips else None,
    }


def metrics_table(before: Mapping[str, DomainResult], after: Mapping[str, DomainResult]) -> Markup:
    """All metrics, a row a model and domain."""
    sides = [
        (domain, name, side[domain])
        for domain in {**before, **after}
        for name, side in (("before", before), ("after", after))
        if domain in side
    ]
    passes = sorted({m for _, _, r in sides for m in r.metrics if m.startswith("pass@")}, key=lambda m: int(m[5:]))
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("questions", "questions", "{:.0f}".format),
        ("avg", "Avg %", _percent),
        ("maj", "maj %", _percent),
        ("maj_minus_avg", "maj−Avg", _percent),
        *((p, f"{p} %", _percent) for p in passes),
        ("ece", "ECE", "{:.3f}".format),
        ("confidence", "confidence", "{:.3f}".format),
        ("distinct_answers", "distinct", "{:.2f}".format),
        ("mean_length", "length", "{:.1f}".format),
        ("unparsed", "unparsed %", _percent),
        ("truncated", "cut %", _percent),
    ]
    rows = [
        [escape(d), name, *(show(r.metrics[key]) if key in r.metrics else MISSING for key, _, show in columns)]
        for d, name, r in sides
    ]
    return Markup(markdown_table(["domain", "", *(label for _, label, _ in columns)], rows))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def selection_table(pool: PoolView | None) -> Markup | None:
    """Means of the pool's columns over the selected questions, the others and all; None without a pool."""
    import pandas as pd

    if pool is None or not len(pool.lengths):
        return None
    columns = {
        "neuron count": (pool.counts if len(pool.counts) else None, ".1f"),
        "length (tokens)": (pool.lengths, ".1f"),
        "cut (share)": (pool.truncated, ".3f"),
        "right (share)": (pool.correct, ".3f"),
        "majority share": (pool.agreement, ".3f"),
    }
    shown = {label: values for label, (values, _) in columns.items() if values is not None}
    frame = pd.DataFrame({label: [float("nan") if v is None else float(v) for v in shown[label]] for label in shown})
    selected = pd.Series([bool(s) for s in pool.selected])
    rows = []
    for name, part in (("selected", frame[selected]), ("not selected", frame[~selected]), ("pool", frame)):
        means = [MISSING if pd.isna(m) else format(m, columns[label][1]) for label, m in part.mean().items()]
        rows.append([name, str(len(part)), *means])
    return Markup(markdown_table(["mean of", "questions", *shown], rows))


def yaml_block(tree: Mapping[str, Any]) -> Markup | None:
    """Plain data as a block of YAML without credentials; None if there are none."""
    if not tree:
        return None
    text: str = yaml.safe_dump(redacted(tree), sort_keys=False, allow_unicode=True, width=110)
    return code_block(text.rstrip("\n"), "yaml")
