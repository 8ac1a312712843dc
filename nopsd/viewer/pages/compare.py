"""Compare: runs side by side, the settings that differ, and answers that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nopsd.config import to_plain
from nopsd.errors import UserError
from nopsd.files import flatten
from nopsd.keys import redacted
from nopsd.viewer.charts import number
from nopsd.viewer.pages.overview import headlines
from nopsd.viewer.query import Query, Window
from nopsd.viewer.source import Source

LOGGED = ("loss", "reverse_kl", "student_entropy", "response_length_mean", "truncated_share", "grad_norm")
PLACES = ("run_dir",)  # differ between any two runs


@dataclass(frozen=True)
class Side:
    """One side of changed answers: a run, and its base or trained model."""

    source: Source
    model: str

    @property
    def name(self) -> str:
        """As the form's choice."""
        return f"{self.source.number}:{self.model}"

    @property
    def title(self) -> str:
        """As the reader knows it."""
        return f"{self.source.title}, {'base' if self.model == 'base' else 'trained'}"


def page(sources: Sequence[Source], query: Query) -> dict[str, Any]:
    """Settings, numbers and answers of all runs."""
    sides = [Side(source, model) for source in sources for model in ("base", "final") if source.metrics(model)]
    settings = [flatten(redacted(to_plain(source.config))) for source in sources]
    keys = sorted({key for found in settings for key in found} - set(PLACES))
    differing = [(key, [_shown(found.get(key)) for found in settings]) for key in keys]
    return {
        "differing": [(key, values) for key, values in differing if len(set(values)) > 1],
        "same": sum(len(set(values)) == 1 for _, values in differing),
        "logged": [(name, [_last(source, name) for source in sources]) for name in LOGGED],
        "steps": [len(source.training) for source in sources],
        "headlines": [headlines(source.metrics("base"), source.metrics("final")) for source in sources],
        "sides": sides,
        **(changed(sides, query) if len(sides) > 1 else {"left": None}),
    }


def changed(sides: Sequence[Side], query: Query) -> dict[str, Any]:
    """Questions whose majority answer differs between two sides."""
    by_name = {side.name: side for side in sides}
    trained = [side for side in sides if side.model == "final"]
    chosen = (trained[:2] if len(trained) > 1 else list(sides)[:2]) + list(sides)[:2]
    left, right = by_name.get(query.text("left"), chosen[0]), by_name.get(query.text("right"), chosen[1])
    domains = [d for d in left.source.metrics(left.model) if d in right.source.metrics(right.model)]
    domain = query.text("domain") or (domains[0] if domains else "")
    if domain and domain not in domains:
        raise UserError(f"domain {domain} was not evaluated on both sides: {', '.join(domains)}")
    before, after = (side.source.judged(side.model, domain) if domain else {} for side in (left, right))
    wanted, rows = query.text("which"), []
    for uid in before:
        if uid in after and (kind := kind_of(before[uid], after[uid])) and wanted in ("", kind):
            rows.append((kind, uid, left.source.tests.get(uid), before[uid], after[uid]))
    window = Window.of(query, len(rows))
    return {
        "left": left,
        "right": right,
        "domain": domain,
        "domains": domains,
        "window": window,
        "rows": rows[window.first : window.last],
        "kinds": KINDS,
    }


KINDS = {"": "all", "fixed": "fixed", "broken": "broken", "other": "wrong both times"}


def kind_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How a majority answer changed: fixed, broken, other (wrong both times); empty if it did not."""
    if before["majority"] == after["majority"]:
        return ""
    was, now = is_right(before), is_right(after)
    return "fixed" if now and not was else "broken" if was and not now else "other"


def is_right(row: Mapping[str, Any]) -> bool:
    """Whether a judged row's majority answer was right."""
    return any(right for answer, right in zip(row["answers"], row["correct"]) if answer == row["majority"])


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "(empty)"
    return "null" if value is None else str(value)


def _last(source: Source, name: str) -> str:
    values = [row[name] for row in source.training[-10:] if row.get(name) is not None]
    return number(sum(values) / len(values)) if values else "–"
