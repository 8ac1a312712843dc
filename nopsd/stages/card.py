"""The export's model card, from what a run has so far: after training without results, after the report with them."""

from __future__ import annotations

from nopsd.files import write_atomic
from nopsd.reporting.model_card import CardInputs, model_card
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.stages.report import results, training_notes
from nopsd.train.artefacts import CARD


def write_card(session: Session) -> None:
    """RUN/train/export/README.md, if there is an export. It lies outside the stage's manifest, for it is rewritten."""
    run = session.run
    if not run.export_record():
        return
    evaluated = all(run.manifest(name) is not None for name in (names.EVALUATE_BASE, names.EVALUATE))
    inputs = CardInputs(
        config=session.config,
        pool=len(session.pool),
        plan=run.training_plan(),
        record=run.export_record(),
        selection=run.selection().stats,
        before=results(session, "base") if evaluated else {},
        after=results(session, "final") if evaluated else {},
        shown_right=shown_right(session) if evaluated else None,
        notes=[note for note in (*run.data_notes(), *training_notes(session)) if note],
    )
    write_atomic(run.export / CARD, model_card(inputs))


def shown_right(session: Session) -> float | None:
    """Share of right answers among those shown as demonstrations, each as often as it is shown; None if unknown."""
    correct = session.run.pool_correct()
    known = [correct[near.uid] for found in session.run.contexts().values() for near in found if near.uid in correct]
    return sum(known) / len(known) if known else None
