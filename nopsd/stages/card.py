"""The export's model card, from what a run has so far: after training without results, with the report with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.evaluation.results import DomainResult
from nopsd.files import write_atomic
from nopsd.reporting.model_card import CardInputs, model_card
from nopsd.run.session import Session
from nopsd.selection.artefacts import Contexts
from nopsd.selection.selectors import Selection
from nopsd.stages.report import training_notes
from nopsd.train.artefacts import CARD


@dataclass(frozen=True)
class Evaluated:
    """What the report has read already. `correct`: uid -> share of the pool question's right answers."""

    selection: Selection
    before: Mapping[str, DomainResult]
    after: Mapping[str, DomainResult]
    contexts: Contexts
    correct: Mapping[str, float]
    notes: Sequence[str]

    @property
    def shown_right(self) -> float | None:
        """Share of right answers among those shown as demonstrations, each as often as it is shown."""
        near = [near.uid for found in self.contexts.values() for near in found]
        known = [self.correct[uid] for uid in near if uid in self.correct]
        return sum(known) / len(known) if known else None


def write_card(
    session: Session,
    plan: dict[str, Any],
    record: dict[str, Any],
    evaluated: Evaluated | None = None,
    folder: Path | None = None,
) -> None:
    """README.md of an export, if there is one (`record`); without `evaluated` only where there is none yet.

    It is outside the stage's manifest, for it is rewritten. `folder`: None: RUN/train/export.
    """
    run, path = session.run, (folder or session.run.export) / CARD
    if not record or (evaluated is None and path.exists()):
        return
    results: dict[str, Any] = {}
    if evaluated is None:
        notes = [note for note in (*run.data_notes(), *training_notes(session, plan, record)) if note]
    else:
        notes = [note for note in evaluated.notes if not note.startswith("Method ")]
        results = {"before": evaluated.before, "after": evaluated.after, "shown_right": evaluated.shown_right}
    inputs = CardInputs(
        config=session.config,
        pool=len(session.pool),
        plan=plan,
        record=record,
        selection=(evaluated.selection if evaluated is not None else run.selection()).stats,
        notes=notes,
        **results,
    )
    write_atomic(path, model_card(inputs))
