"""Files of a selection. Out: equal on every rank, written by rank 0.

selected.json   {uids (best first), threshold, selector, stats}
contexts.json   {uid: [{uid, sample, distance}, ...] nearest first}; distance null where the retriever has none
scores.jsonl    {uid, score, selected} a question, by uid; score null for those that were not scored
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError
from nopsd.files import read_json, read_jsonl, sha256_json, write_json, write_jsonl
from nopsd.selection.selectors import Selection

SELECTED, CONTEXTS, SCORES = "selected.json", "contexts.json", "scores.jsonl"


@dataclass(frozen=True)
class Neighbor:
    """A demonstration: its question, its distance (None: chosen without one) and which of the responses is shown."""

    uid: str
    distance: float | None
    sample: int = 0


Contexts = dict[str, list[Neighbor]]


def write_selection(
    selection: Selection,
    selector: str,
    contexts: Contexts,
    pool: Sequence[str],
    ranks: Ranks,
    folder: Path,
) -> None:
    """Write the select stage's files, once all ranks hold the same content. Collective.

    Args:
        selection: The questions and all scores.
        selector: `select.selector`.
        contexts: The demonstrations of each question.
        pool: All uids, ascending.
        ranks: All that selected.
        folder: The stage's.

    Raises:
        RuntimeError: The ranks' contents differ.
    """
    selected = {
        "uids": selection.uids,
        "threshold": selection.threshold,
        "selector": selector,
        "stats": selection.stats,
    }
    found = {
        uid: [{"uid": n.uid, "sample": n.sample, "distance": n.distance} for n in near]
        for uid, near in contexts.items()
    }
    kept = set(selection.uids)
    scores = [{"uid": uid, "score": selection.scores.get(uid), "selected": uid in kept} for uid in pool]
    ranks.check_equal(sha256_json([selected, found, scores]), "the selection and contexts")
    if ranks.is_main:
        write_json(folder / SELECTED, selected)
        write_jsonl(folder / SCORES, scores)
        write_json(folder / CONTEXTS, found)
    ranks.barrier()


def read_selected(folder: str | Path) -> Selection:
    """The selection in `folder`; ArtefactError if it is missing or damaged."""
    path = Path(folder) / SELECTED
    stored = read_json(path)
    try:
        return Selection(stored["uids"], stored["threshold"], stored["stats"])
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is not a selection ({error!r}): run the select stage again") from error


def read_contexts(folder: str | Path) -> Contexts:
    """The contexts in `folder`, also those of before samples were named; ArtefactError if missing or damaged."""
    path = Path(folder) / CONTEXTS
    try:
        return {
            uid: [Neighbor(n["uid"], n["distance"], n.get("sample", 0)) for n in found]
            for uid, found in read_json(path).items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path} does not hold contexts ({error!r}): run the select stage again") from error


def read_scores(folder: str | Path) -> dict[str, float | None]:
    """Every pool question's score by uid, None where it was not scored; ArtefactError if missing or damaged."""
    path = Path(folder) / SCORES
    rows: list[dict[str, Any]] = read_jsonl(path)
    try:
        return {row["uid"]: row["score"] for row in rows}
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{path} does not hold scores ({error!r}): run the select stage again") from error
