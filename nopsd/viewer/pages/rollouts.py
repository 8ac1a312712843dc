"""Rollouts: the responses of a training step as a table, and one of them token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nopsd.errors import UserError
from nopsd.traces.schema import COUNTED, TOKEN_VALUES
from nopsd.viewer.charts import number
from nopsd.viewer.query import Query, Window
from nopsd.viewer.source import Said, Source

# Nats from which on a token is shaded a degree darker.
SHADES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SORTS = {"": "as sampled", "kl": "largest KL first", "length": "longest first", "short": "shortest first"}
SHOWN = (
    "loss",
    "reverse_kl",
    "student_entropy",
    "teacher_entropy",
    "response_length_mean",
    "truncated_share",
    "grad_norm",
)
UNREAD = "none"  # what the answer filter calls an answer that can't be read


@dataclass(frozen=True)
class Summary:
    """A response as the table shows it; `row`: its place in the step."""

    row: int
    uid: str
    sample: int
    text: str
    finish: str
    tokens: int
    kl: float | None
    answer: str | None


def table(source: Source, query: Query) -> dict[str, Any]:
    """The responses of one step that pass the filters."""
    steps = source.trace.steps
    wanted = query.whole("step")
    if wanted is None:
        wanted = steps[-1] if steps else None
    logged = next((row for row in source.training if row["step"] == wanted), {})
    page = {"steps": steps, "step": wanted, "logged": {n: logged[n] for n in SHOWN if logged.get(n) is not None}}
    if wanted is None or wanted not in steps:
        return {
            **page,
            "rows": [],
            "window": Window.of(query, 0),
            "finishes": [],
            "sorts": SORTS,
            "next": None,
            "previous": None,
        }
    place = steps.index(wanted)
    found = source.trace.table(
        wanted, ["uid", "sample", "text", "finish_reason", "response_ids", "reverse_kl", COUNTED]
    )
    kl, lengths = mean_kl(found), np.asarray(pc.list_value_length(found["response_ids"]))
    order = kept(source, found, kl, lengths, query)
    window = Window.of(query, len(order))
    rows = [summary(source, found, int(i), lengths, kl) for i in order[window.first : window.last]]
    return {
        **page,
        "rows": rows,
        "window": window,
        "finishes": sorted(set(found["finish_reason"].to_pylist())),
        "sorts": SORTS,
        "next": steps[place + 1] if place + 1 < len(steps) else None,
        "previous": steps[place - 1] if place else None,
    }


def kept(source: Source, found: pa.Table, kl: np.ndarray, lengths: np.ndarray, query: Query) -> np.ndarray:
    """Rows that pass the query's filters, in its order."""
    passes = np.ones(len(found), dtype=bool)
    if uid := query.text("uid"):
        passes &= np.asarray(pc.match_substring(found["uid"], uid))
    if finish := query.text("finish"):
        passes &= np.asarray(pc.equal(found["finish_reason"], finish))
    for name, values, low in (("min_length", lengths, True), ("max_length", lengths, False), ("min_kl", kl, True)):
        limit = query.number(name)
        if limit is not None:
            passes &= values >= limit if low else values <= limit
    if answer := query.text("answer"):
        for row in np.flatnonzero(passes):
            uid, text, finish = (found[name][row].as_py() for name in ("uid", "text", "finish_reason"))
            read = source.answer(uid, Said(text, finish))
            passes[row] = (read or UNREAD) == answer
    rows, sort = np.flatnonzero(passes), query.text("sort")
    if sort == "kl":
        return rows[np.argsort(-np.nan_to_num(kl[rows], nan=-math.inf), kind="stable")]
    if sort in ("length", "short"):
        return rows[np.argsort(lengths[rows] * (-1 if sort == "length" else 1), kind="stable")]
    return rows


def mean_kl(found: pa.Table) -> np.ndarray:
    """Each response's mean KL over the tokens that count; NaN where there is none."""
    column = found["reverse_kl"].combine_chunks()
    if column.null_count == len(column):
        return np.full(len(found), math.nan)
    counted = found[COUNTED].combine_chunks()
    values = np.asarray(column.flatten(), dtype=np.float64)
    counts = np.asarray(counted.flatten()) & np.isfinite(values)
    of_row = np.asarray(column.value_parent_indices())
    weight = np.bincount(of_row, counts, len(found))
    total = np.bincount(of_row, np.where(counts, values, 0.0), len(found))
    with np.errstate(invalid="ignore"):
        means: np.ndarray = total / weight
    return means


def summary(source: Source, found: pa.Table, row: int, lengths: np.ndarray, kl: np.ndarray) -> Summary:
    """One row of the table."""
    of = {name: found[name][row].as_py() for name in ("uid", "sample", "text", "finish_reason")}
    mean = float(kl[row])
    answer = source.answer(of["uid"], Said(of["text"], of["finish_reason"]))
    finish, tokens = of["finish_reason"], int(lengths[row])
    return Summary(
        row, of["uid"], of["sample"], of["text"], finish, tokens, mean if math.isfinite(mean) else None, answer
    )


@dataclass(frozen=True)
class Token:
    """A token of a response. `shade`: 0 (none) to len(SHADES); `hint`: what is known of it, a line a fact."""

    text: str
    shade: int
    counted: bool
    hint: str


def response(source: Source, query: Query) -> dict[str, Any]:
    """One response token by token, with both prompts."""
    step, row = query.whole("step"), query.whole("row")
    if step is None or row is None:
        raise UserError("give a step and a row: choose a response in the table")
    found = source.trace.table(step)
    if row >= len(found):
        raise UserError(f"step {step} has {len(found)} responses: there is no row {row}")
    of = {name: values[0] for name, values in found.slice(row, 1).to_pydict().items()}
    kl = mean_kl(found.slice(row, 1))[0]
    pieces, prompts = source.pieces.split(of["response_ids"]), source.trace.prompts.get(of["uid"])
    return {
        "step": step,
        "row": row,
        "rows": len(found),
        "found": of,
        "tokens": tokens(of, pieces),
        "shades": [f"{low:g}" for low in SHADES],
        "kl": None if math.isnan(kl) else float(kl),
        "worst": worst(of, pieces),
        "answer": source.answer(of["uid"], Said(of["text"], of["finish_reason"])),
        "question": source.pool.get(of["uid"]),
        "student_prompt": source.pieces.text(prompts.student_ids) if prompts else None,
        "teacher_prompt": source.pieces.text(prompts.teacher_ids) if prompts and prompts.teacher_ids else None,
        "demonstrations": prompts.demonstrations if prompts else (),
    }


def tokens(of: Mapping[str, Any], pieces: Sequence[str]) -> list[Token]:
    """The response's tokens, of these texts, with what the trace knows of each."""
    counted = of[COUNTED] or [True] * len(pieces)
    columns = {name: of[name] for name in (*TOKEN_VALUES, "served_logprob") if of[name] is not None}
    made = []
    for place, (i, text) in enumerate(zip(of["response_ids"], pieces)):
        values = {name: column[place] for name, column in columns.items() if math.isfinite(column[place])}
        shown = hint(place, i, values, counted[place])
        made.append(Token(text, shade(values.get("reverse_kl")), counted[place], shown))
    return made


def shade(kl: float | None) -> int:
    """How dark a token of this KL is."""
    return 0 if kl is None else sum(kl >= low for low in SHADES)


def hint(place: int, token_id: int, values: Mapping[str, float], counted: bool) -> str:
    """What is known of a token, a line a fact."""
    lines = [f"token {place + 1}, id {token_id}" + ("" if counted else ", carries no loss")]
    for role in ("student", "teacher"):
        logprob, entropy = values.get(f"{role}_logprob"), values.get(f"{role}_entropy")
        if logprob is not None:
            spread = "" if entropy is None else f", entropy {number(entropy)}"
            lines.append(f"{role}: p = {number(math.exp(logprob))}{spread}")
    if "reverse_kl" in values:
        lines.append(f"KL(student ‖ teacher) = {number(values['reverse_kl'])} nats")
    if "served_logprob" in values and "student_logprob" in values:
        lines.append(f"served p = {number(math.exp(values['served_logprob']))}")
    return "\n".join(lines)


def worst(of: Mapping[str, Any], pieces: Sequence[str], most: int = 5) -> list[tuple[int, str, float]]:
    """The tokens of the largest KL: place, text, KL."""
    if of["reverse_kl"] is None:
        return []
    kl = np.nan_to_num(np.asarray(of["reverse_kl"], dtype=np.float64), nan=-1.0)
    return [(int(i) + 1, pieces[i], float(kl[i])) for i in np.argsort(-kl, kind="stable")[:most] if kl[i] > 0]
