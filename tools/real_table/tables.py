"""The tables of real models in docs/results.md, from the files that are committed alone.

    python tools/real_table/tables.py        docs/results/real/*, which keep.py has written, and the studies beside them

Of each folder NAME the tables stand between `<!-- real:NAME -->` and `<!-- end:NAME -->`. Differences from the base are
over the same questions, seeds averaged, with 95 % intervals over questions (paired bootstrap).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from nopsd.errors import ArtefactError, UserError
from nopsd.evaluation.bootstrap import Interval, Outcomes, headline, interval, resample_counts
from nopsd.files import read_json, write_atomic
from nopsd.reporting.correlations import correlation
from nopsd.reporting.table import markdown_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
KEPT, PAGE = DOCS / "results" / "real", DOCS / "results.md"
RESAMPLES = 1000
LABELS = {"svamp": "SVAMP", "gsm8k": "GSM8K", "Biology": "SciKnowEval Biology"}
ROWS = ("nopsd", "opsd_random", "opsd_null", "lmsi", "ttrl")  # in this order, others behind them
Kept = dict[str, Any]


def outcomes(judged: Kept) -> Outcomes:
    """As the evaluation has them."""
    return Outcomes(
        np.array([[c == "1" for c in row] for row in judged["correct"]]),
        np.array([v == "1" for v in judged["vote"]]),
        np.array(judged["share"]),
    )


def differences(base: Kept, after: Sequence[Kept]) -> dict[str, Interval]:
    """Metrics of trained models less the base's, seeds averaged; the same questions are drawn for all. ArtefactError if
    they answered different ones."""
    if any(one["uids"] != base["uids"] for one in after):
        raise ArtefactError("the runs answered other questions than the base: keep them in folders of their own")
    counts = resample_counts(len(base["uids"]), RESAMPLES, 0)

    def of(kept: Kept, drawn: np.ndarray | None) -> dict[str, np.ndarray]:
        return headline(outcomes(kept), kept["ece_bins"], drawn)

    found = {}
    for name in ("avg", "maj", "ece"):
        point, spread = (
            np.mean([of(one, drawn)[name] for one in after], axis=0) - of(base, drawn)[name] for drawn in (None, counts)
        )
        found[name] = interval(float(point[0]), spread)
    return found


def _value(kept: Sequence[Kept], name: str) -> float:
    return float(np.mean([headline(outcomes(one), one["ece_bins"])[name][0] for one in kept]))


def _signed(found: Interval, scale: float = 100.0, decimals: int = 1) -> str:
    low, high = found.low or 0.0, found.high or 0.0
    return f"{scale * found.value:+.{decimals}f} [{scale * low:+.{decimals}f}, {scale * high:+.{decimals}f}]"


def rows_of(folder: Path) -> dict[str, list[Kept]]:
    """Label -> its runs by seed, in the order of the plan's rows."""
    found: dict[str, list[Kept]] = {}
    for path in sorted(folder.glob("*-[0-9]*.json")):
        kept = read_json(path)
        found.setdefault(kept["label"], []).append(kept)
    return dict(sorted(found.items(), key=lambda row: ROWS.index(row[0]) if row[0] in ROWS else len(ROWS)))


def target_table(base: Kept, rows: Mapping[str, Sequence[Kept]], target: str) -> str:
    """One target: the base's numbers and each row's, with differences."""
    own = base["targets"][target]
    samples = len(own["correct"][0])
    title = f"{LABELS.get(target, target)}, {len(own['uids'])} questions × {samples}"
    header = [title, "seeds", f"Avg@{samples}", "from base", f"maj@{samples}", "from base", "ECE", "unparsed", "tokens"]
    lines = [_target_line("base", [own], None)]
    for label, runs in rows.items():
        after = [run["targets"][target] for run in runs if target in run["targets"]]
        if after:
            lines.append(_target_line(f"`{label}`", after, differences(own, after)))
    return markdown_table(header, lines)


def _target_line(name: str, kept: Sequence[Kept], found: Mapping[str, Interval] | None) -> list[str]:
    avg, maj = ("", "") if found is None else (_signed(found["avg"]), _signed(found["maj"]))
    unparsed, length = (float(np.mean([one[key] for one in kept])) for key in ("unparsed", "mean_length"))
    seeds = "" if found is None else str(len(kept))
    right, voted = (f"{100 * _value(kept, metric):.1f}" for metric in ("avg", "maj"))
    return [name, seeds, right, avg, voted, maj, f"{_value(kept, 'ece'):.3f}", f"{unparsed:.3f}", f"{length:.0f}"]


def count_table(pool: Kept) -> str:
    """Neuron count against right answers, length and vote: Spearman's, and with the length's rank held fixed."""
    columns = {name: np.array(pool[name], dtype=float) for name in ("count", "length", "correct", "vote")}
    known = {name: column for name, column in columns.items() if np.isfinite(column).any()}
    ranks = {name: rankdata(column, nan_policy="omit") for name, column in known.items()}
    pairs = [("count", "correct"), ("count", "vote"), ("count", "length"), ("length", "correct"), ("vote", "correct")]
    lines = []
    for x, y in (pair for pair in pairs if set(pair) <= set(known)):
        found = correlation(ranks[x], ranks[y], ranks["length"] if "length" not in (x, y) else None)
        fixed = "–" if found.partial is None else _signed(found.partial, 1, 2)
        lines.append([f"{x} – {y}", str(found.questions), _signed(found.pearson, 1, 2), fixed])
    return markdown_table(["", "questions", "Spearman", "with the length held fixed"], lines)


def chain_table(rows: Mapping[str, Sequence[Kept]]) -> str:
    """What each row learned from, and how far its loss came."""
    lines = []
    for label, runs in rows.items():
        trained, material = [run["train"] for run in runs], runs[0]["material"] or {}
        shares = [material.get(key) for key in ("pool", "selected", "shown")]
        losses = [[one[key] for one in trained if one[key] is not None] for key in ("loss_first", "loss_last")]
        lines.append(
            [
                f"`{label}`",
                str(trained[0]["steps"]),
                *("–" if share is None else f"{100 * share:.1f}" for share in shares),
                *(f"{np.mean(values):.4f}" if values else "–" for values in losses),
                f"{np.mean([one['seconds'] for one in trained]) / 60:.0f}",
            ]
        )
    header = ["", "steps", "right in the pool", "selected", "shown", "loss, first 10", "last 10", "minutes"]
    return markdown_table(header, lines)


def prompts_table(found: Sequence[Kept]) -> str:
    """Of tools/prompt_study.py."""
    header = ["", "demonstrations", "answers", "finished", "readable", "where asked", "at once", "vote", "tokens"]
    lines = []
    for r in found:
        right = f"{r['right'][0]:.2f} [{r['right'][1]:.2f}, {r['right'][2]:.2f}]" if "right" in r else "–"
        shares = [f"{r[key]:.2f}" for key in ("finished", "readable", "where_asked", "at_once", "vote")]
        answers = f"{r['questions']} × {r['samples']}"
        lines.append([f"`{r['row']}`", str(r["shown"]), answers, *shares, f"{r['tokens']:.0f}", right])
    return markdown_table([*header, "right"], lines)


def neighbors_table(found: Sequence[Kept]) -> str:
    """Of tools/neighbor_subtasks.py."""
    lines = [
        [
            r["domain"],
            r["neighbors"],
            str(r["questions"]),
            str(r["m"]),
            f"{r['rate']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
        ]
        for r in found
    ]
    return markdown_table(["SciKnowEval", "neighbors", "questions", "of each", "same subtask"], lines)


def texts(base: Kept, rows: Mapping[str, Sequence[Kept]]) -> str:
    """The same questions before and after."""
    parts = []
    for number, (question, before) in enumerate(base.get("examples", [])):
        parts.append(f"> {_line(question)}\n>\n> base: {_line(before)}")
        for label, runs in rows.items():
            if number < len(runs[0].get("examples", [])):
                parts[-1] += f"\n>\n> `{label}`: {_line(runs[0]['examples'][number][1])}"
    return "\n\n".join(parts)


def _line(text: str) -> str:
    return re.sub(r"([<>|*_`$#])", r"\\\1", " ".join(text.split()))


def tables_of(folder: Path) -> str:
    """Everything of one model's folder."""
    parts = []
    for name, table in (("prompts.json", prompts_table), ("neighbors.json", neighbors_table)):
        if (folder / name).exists():
            parts.append(table(read_json(folder / name)))
    if (folder / "base.json").exists():
        base, rows = read_json(folder / "base.json"), rows_of(folder)
        parts += [target_table(base, rows, target) for target in base["targets"]]
        parts += [chain_table(rows)] if rows else []
        parts += [found] if (found := texts(base, rows)) else []
    if (folder / "pool.json").exists():
        parts.append(count_table(read_json(folder / "pool.json")))
    return "\n\n".join(part.strip() for part in parts)


def page_with_tables(page: str, root: Path) -> str:
    """The page with every model's tables between its marks. ArtefactError if a folder has no marks."""
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        begin, end = f"<!-- real:{folder.name} -->", f"<!-- end:{folder.name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ArtefactError(f"{PAGE} has no place for {folder}: write {begin} and {end} into it")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{tables_of(folder)}\n{end}{rest.split(end)[1]}"
    return page


def main() -> int:
    """Write the page."""
    try:
        write_atomic(PAGE, page_with_tables(PAGE.read_text(encoding="utf-8"), KEPT))
    except UserError as error:
        print(f"tables: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
