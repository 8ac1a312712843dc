"""The table a run closes with: before and after, in-domain and cross-domain, with 95 % intervals.

In:  the DomainResults of the base and of the trained model on the same questions.
Out: plain text for the console (80 columns) or markdown for the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nopsd.evaluation.bootstrap import Interval, mean_intervals, paired_differences
from nopsd.evaluation.results import DomainResult, check_same_questions, fix_break
from nopsd.reporting.escaping import escape
from nopsd.reporting.table import markdown_table, signed

Results = Mapping[str, DomainResult]
Row = tuple[str, ...]  # as HEADER
HEADER = ("", "before", "after", "change")


def summary_table(before: Results, after: Results, pool_domain: str, style: str = "text") -> str:
    """Avg@k, maj@k and ECE of the pool's domain, of the other domains' mean, and of each of them.

    Changes are paired by question. Domains evaluated on one side only are left out and named.

    Args:
        before: By domain, the base's results.
        after: By domain, the student's.
        pool_domain: That was trained on.
        style: `text` or `markdown`.

    Raises:
        DataError: A domain's two evaluations are of different questions.
    """
    shared = [d for d in before if d in after]
    for domain in shared:
        check_same_questions(before[domain], after[domain])
    blocks = [
        (title, _rows([before[d] for d in group], [after[d] for d in group]))
        for title, group in _groups(shared, pool_domain)
    ]
    notes = _notes(before, after, shared)
    return _markdown(blocks, notes) if style == "markdown" else _text(blocks, notes)


def _groups(shared: Sequence[str], pool_domain: str) -> list[tuple[str, list[str]]]:
    cross = [d for d in shared if d != pool_domain]
    groups = [(f"in-domain: {pool_domain}", [pool_domain])] if pool_domain in shared else []
    if len(cross) > 1:
        groups.append((f"cross-domain: mean of {len(cross)}", cross))
    return groups + [(f"cross-domain: {d}", [d]) for d in cross]


def _rows(before: Sequence[DomainResult], after: Sequence[DomainResult]) -> list[Row]:
    first = before[0]
    settings = (first.ece_bins, first.bootstrap, first.seed)
    was, now = [r.outcomes for r in before], [r.outcomes for r in after]
    sides = [mean_intervals(was, *settings), mean_intervals(now, *settings), paired_differences(was, now, *settings)]
    rows = []
    for key, name, scale, decimals in _metrics(first.samples):
        was_now = [_interval(side[key], scale, decimals, sign=False) for side in sides[:2]]
        rows.append((name, *was_now, _interval(sides[2][key], scale, decimals, sign=True)))
    if len(before) == 1:
        moved = fix_break(before[0], after[0])
        rows.append(("fix/break", "", "", f"{moved.fixed} / {moved.broken} of {len(first.rows)}"))
    return rows


def _metrics(k: int) -> list[tuple[str, str, float, int]]:
    return [("avg", f"Avg@{k}", 100, 1), ("maj", f"maj@{k}", 100, 1), ("ece", "ECE", 1, 3)]


def _interval(value: Interval, scale: float, decimals: int, sign: bool) -> str:
    def shown(number: float) -> str:
        return signed(number * scale, decimals) if sign else f"{number * scale:.{decimals}f}"

    if value.low is None or value.high is None:
        return shown(value.value)
    return f"{shown(value.value)} [{shown(value.low)}, {shown(value.high)}]"


def _notes(before: Results, after: Results, shared: Sequence[str]) -> list[str]:
    if not shared:
        return ["No domain was evaluated both before and after."]
    notes = [
        "Avg and maj in per cent; [95 % interval over questions]; changes are paired.",
        "fix/break: majority answers that went wrong → right / right → wrong.",
    ]
    single = [d for d in {**before, **after} if d not in shared]
    if single:
        notes.append(f"Evaluated on one side only, left out: {', '.join(single)}.")
    return notes


def _text(blocks: Sequence[tuple[str, list[Row]]], notes: Sequence[str]) -> str:
    if not blocks:
        return "\n".join(notes) + "\n"
    indent = (1, 0, 0, 0)
    shown = [row for _, rows in blocks for row in rows]
    widths = [max([len(HEADER[i])] + [len(row[i]) + indent[i] for row in shown]) for i in range(4)]
    rule = "─" * (sum(widths) + 6)

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [line(HEADER), rule]
    for title, rows in blocks:
        lines += [title, *(line((" " + row[0], *row[1:])) for row in rows)]
    return "\n".join([*lines, rule, *notes]) + "\n"


def _markdown(blocks: Sequence[tuple[str, list[Row]]], notes: Sequence[str]) -> str:
    notes = [note if note.startswith("Avg and maj") else escape(note) for note in notes]
    if not blocks:
        return "  \n".join(notes) + "\n"
    rows: list[Sequence[str]] = []
    for title, block in blocks:
        rows.append((f"**{escape(title)}**", "", "", ""))
        rows += block
    return markdown_table(HEADER, rows) + "\n" + "  \n".join(notes) + "\n"
