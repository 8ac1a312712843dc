"""The README's table of all methods, from the CSVs that `nopsd compare --plan tools/lab_table/plan.yaml` leaves.

usage: python tools/lab_table/readme_table.py [FOLDER]        (runs/lab-table)
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

SOURCE = "biology"
OWN = "nopsd"


def cells(folder: Path, name: str, column: str) -> dict[tuple[str, str], str]:
    """(row's label, in|cross) -> one column of a table; the label stands on the first of its two lines alone."""
    found, label = {}, ""
    for row in rows(folder, name):
        label = row["Method"] or label
        found[label, row.get("", "")] = row[column]
    return found


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(folder: Path) -> None:
    avg, ece = cells(folder, "table3", SOURCE), cells(folder, "table4", SOURCE)
    over = cells(folder, f"against_{OWN}_avg_questions", SOURCE)
    material = [cells(folder, "material", what) for what in ("selected", "demonstrations", "contexts mostly wrong")]
    runs = rows(folder, "runs")
    column = next(name for name in runs[0] if name.startswith("Avg") and name.endswith(" in"))
    against = f"from `{OWN}`"
    header = (
        "",
        f"{SOURCE} (each seed)",
        against,
        "cross-domain",
        against,
        "ECE in, cross",
        "selected right, shown right, contexts mostly wrong",
    )
    print(f"| {' | '.join(header)} |")
    print("|---" * len(header) + "|")
    print(f"| base | {avg['Base', '']} | | | | {ece['Base', '']} | |")
    for label in [label for label, kind in avg if kind == "in"]:
        each = ", ".join(f"{float(run[column]):.1f}" for run in runs if run["Method"] == label)
        shown = ", ".join(found.get((label, "")) or "–" for found in material)
        print(
            f"| `{label}` | {avg[label, 'in']} ({each}) | {over.get((label, 'in'), '')} | {avg[label, 'cross']} | "
            f"{over.get((label, 'cross'), '')} | {ece[label, 'in']}, {ece[label, 'cross']} | {shown} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lab-table"))
