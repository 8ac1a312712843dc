"""The report of a run: report.md (with figures/ beside it) and report.html, one self-contained file.

In:  `nopsd.reporting.views.ReportInputs`, plain data; whatever is missing leaves a stated gap.
Out: FOLDER/report.md, FOLDER/report.html, FOLDER/figures/*.png, each written atomically.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markdown import markdown
from matplotlib.figure import Figure

from nopsd.evaluation.closing import closing_table
from nopsd.evaluation.evaluate import DomainResult
from nopsd.evaluation.tables import markdown_table
from nopsd.files import write_atomic
from nopsd.reporting import figures, figures_pool
from nopsd.reporting.checks import observations
from nopsd.reporting.views import PoolView, ReportInputs

SECRETS = ("key", "token", "password", "secret")
STYLE = """body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif }
img { max-width: 100%; height: auto } pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 13px }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
td { font-variant-numeric: tabular-nums } h2 { margin-top: 2.5rem; border-bottom: 2px solid #eee } em { color: #555 }"""


@dataclass
class Draft:
    """A report as it grows: markdown parts, and PNGs by name, which lie in `place` beside it."""

    parts: list[str] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    place: str = "figures/"

    def text(self, *parts: str) -> None:
        self.parts += parts

    def figure(self, name: str, caption: str, drawn: Figure | None, gap: str) -> None:
        """A figure with its caption, or the sentence that says why there is none."""
        if drawn is None:
            self.text(f"*{gap}*")
            return
        self.images[name] = figures.png(drawn)
        self.text(f"![{caption}]({self.place}{name}.png)", f"*{caption}*")


def write_report(folder: Path, inputs: ReportInputs) -> tuple[Path, Path]:
    """Write the report; returns the paths of report.md and report.html."""
    draft = Draft()
    for section in (_result, _training, _neurons, _selection, _demonstrations, _provenance):
        section(draft, inputs)
    return write_draft(draft, folder, "report", inputs.title)


def write_draft(draft: Draft, folder: Path, name: str, title: str) -> tuple[Path, Path]:
    """FOLDER/NAME.md with its figures beside it, and FOLDER/NAME.html, which holds them."""
    text = "\n\n".join(draft.parts) + "\n"
    for image, data in draft.images.items():
        write_atomic(folder / draft.place / f"{image}.png", data)
    paths = folder / f"{name}.md", folder / f"{name}.html"
    write_atomic(paths[0], text)
    write_atomic(paths[1], _html(title, text, draft))
    return paths


def _html(title: str, text: str, draft: Draft) -> str:
    body = markdown(text, extensions=["tables", "fenced_code"])
    for name, data in draft.images.items():
        inline = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        body = body.replace(f'src="{draft.place}{name}.png"', f'src="{inline}"')
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>\n{body}\n</body></html>\n"


def _result(draft: Draft, inputs: ReportInputs) -> None:
    draft.text(f"# {escape(inputs.title)}", *(escape(note) for note in inputs.notes), "## Result")
    before, after = inputs.before, inputs.after
    if not before or not after:
        missing = "both models" if not before and not after else "the base model" if not before else "the trained model"
        draft.text(
            f"*No before/after table: the evaluation of {missing} is not there. "
            "Questions without answers can't be evaluated.*"
        )
    else:
        draft.text(closing_table(before, after, inputs.pool_domain, style="markdown"))
    noted = observations(inputs)
    if noted:
        draft.text("\n".join(f"- {escape(line)}" for line in noted))
    if before or after:
        draft.figure(
            "accuracy",
            "Accuracy and calibration error by domain, with 95 % intervals.",
            figures.accuracy_figure(before, after, inputs.pool_domain),
            "",
        )
        pool = inputs.pool_domain
        draft.figure(
            "calibration",
            "Accuracy of the majority answer by its share; areas show how many questions.",
            figures.calibration_figure(before.get(pool), after.get(pool)),
            f"No calibration figure: {escape(pool) or 'the pool domain'} was not evaluated.",
        )
        draft.text("### All metrics", _metrics_table(before, after))


def _metrics_table(before: Mapping[str, DomainResult], after: Mapping[str, DomainResult]) -> str:
    sides = [
        (d, name, side[d])
        for d in {**before, **after}
        for name, side in (("before", before), ("after", after))
        if d in side
    ]
    passes = sorted({m for _, _, r in sides for m in r.metrics if m.startswith("pass@")}, key=lambda m: int(m[5:]))
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("questions", "questions", lambda v: f"{v:.0f}"),
        ("avg", "Avg %", _percent),
        ("maj", "maj %", _percent),
        ("maj_minus_avg", "maj−Avg", _percent),
        *((p, f"{p} %", _percent) for p in passes),
        ("ece", "ECE", lambda v: f"{v:.3f}"),
        ("confidence", "confidence", lambda v: f"{v:.3f}"),
        ("distinct_answers", "distinct", lambda v: f"{v:.2f}"),
        ("mean_length", "length", lambda v: f"{v:.1f}"),
        ("unparsed", "unparsed %", _percent),
        ("truncated", "cut %", _percent),
    ]
    rows = [
        [escape(d), name, *(show(r.metrics[key]) if key in r.metrics else "–" for key, _, show in columns)]
        for d, name, r in sides
    ]
    return markdown_table(["domain", "", *(label for _, label, _ in columns)], rows)


def _training(draft: Draft, inputs: ReportInputs) -> None:
    draft.text("## Training")
    rows = inputs.training
    if not rows:
        draft.text("*No training log: the train stage has not run.*")
        return
    draft.text(
        f"{len(rows)} steps logged, {rows[0]['step']} to {rows[-1]['step']}. "
        "Thin lines are single steps, thick ones running means."
    )
    draft.figure("loss", "Loss and divergences on the student's own responses.", figures.loss_figure(rows), "")
    draft.figure("entropy", "Entropies on the student's own responses.", figures.entropy_figure(rows), "")
    draft.figure("length", "Length of the training responses.", figures.length_figure(rows), "")
    draft.figure("health", "Signs of health.", figures.health_figure(rows), "")


def _neurons(draft: Draft, inputs: ReportInputs) -> None:
    draft.text("## Neuron count")
    pool = inputs.pool
    if pool is not None and len(pool.counts) and not len(figures_pool.known_correct(pool)[0]):
        other = "the majority answer's share and length" if pool.agreement is not None else "length"
        draft.text(f"*The pool's answers are not known: the neuron count is shown against {other} only.*")
    draft.figure(
        "neuron_count",
        "Unique activated neurons of the zero-shot response, s(x).",
        figures_pool.neuron_count_figure(pool),
        "No neuron counts: the neurons stage has not run, or nothing in this run goes by them.",
    )


def _selection(draft: Draft, inputs: ReportInputs) -> None:
    draft.text("## Selection")
    pool = inputs.pool
    what = "Neuron counts and lengths" if pool is not None and len(pool.counts) else "Lengths"
    draft.figure(
        "selection",
        f"{what} of selected and other questions.",
        figures_pool.selection_figure(pool),
        "No selection: the select stage has not run.",
    )
    if pool is not None and len(pool.lengths):
        draft.text(_selection_table(pool))


def _selection_table(pool: PoolView) -> str:
    selected = np.asarray(pool.selected, dtype=bool)
    columns: list[tuple[str, Sequence[Any], str]] = [("length (tokens)", pool.lengths, ".1f")]
    if len(pool.counts):
        columns.insert(0, ("neuron count", pool.counts, ".1f"))
    optional = (("cut (share)", pool.truncated), ("right (share)", pool.correct), ("majority share", pool.agreement))
    columns += [(label, values, ".3f") for label, values in optional if values is not None]
    rows = []
    for name, mask in (("selected", selected), ("not selected", ~selected), ("pool", np.ones_like(selected))):
        rows.append([name, str(int(mask.sum())), *(_mean(values, mask, form) for _, values, form in columns)])
    return markdown_table(["mean of", "questions", *(label for label, _, _ in columns)], rows)


def _mean(values: Sequence[Any], mask: np.ndarray, form: str) -> str:
    chosen = np.array([np.nan if v is None else float(v) for v in values])[mask]
    chosen = chosen[~np.isnan(chosen)]
    return format(chosen.mean(), form) if len(chosen) else "–"


def _demonstrations(draft: Draft, inputs: ReportInputs) -> None:
    draft.text("## Demonstrations")
    draft.figure(
        "demonstrations",
        "Jaccard distance between a selected question's neuron set and its demonstrations'.",
        figures_pool.demo_figure(inputs.demos),
        "No distances: there is no selection yet, or its retriever measures none.",
    )


def _provenance(draft: Draft, inputs: ReportInputs) -> None:
    draft.text("## Provenance")
    for title, tree in (("Environment", inputs.provenance), ("Resolved configuration", inputs.config)):
        if tree:
            draft.text(f"### {title}", "```yaml\n" + _yaml(tree).replace("```", "'''") + "```")
        else:
            draft.text(f"*{title}: not given.*")


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_redacted(tree), sort_keys=False, allow_unicode=True, width=110)


def _redacted(value: Any, name: str = "") -> Any:
    """Plain data without credentials: a report is passed on."""
    if isinstance(value, Mapping):
        return {str(k): _redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(v) for v in value]
    secret = isinstance(value, str) and value and name.lower().rsplit("_", 1)[-1] in SECRETS
    plain = value is None or isinstance(value, (str, int, float, bool))
    return "(withheld)" if secret else value if plain else str(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def escape(text: str) -> str:
    """Names from data in markdown: no HTML, no table breaks."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")
