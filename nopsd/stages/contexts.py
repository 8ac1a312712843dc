"""Demonstrations for pool questions, and the teacher's prompts that show them."""

from __future__ import annotations

from collections.abc import Sequence

from nopsd.config import ContextConfig
from nopsd.data.demonstrations import demonstrations_for, display_order
from nopsd.data.prompts import TeacherPrompt
from nopsd.data.wording import question_text
from nopsd.engine.distributed import Ranks
from nopsd.neurons.stage import load_rank_neurons
from nopsd.neurons.store import NeuronSets
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.selection.artefacts import Contexts
from nopsd.selection.names import needs_neurons
from nopsd.selection.stage import contexts_for
from nopsd.selection.unscored import unscored
from nopsd.signals.store import Signals


def texts_of(session: Session) -> dict[str, str]:
    """Each pool question's text by uid, by which equal questions are known."""
    return {q.uid: question_text(q) for q in session.pool}


def domains_of(session: Session) -> dict[str, str]:
    """Each pool question's domain by uid."""
    return {q.uid: q.domain for q in session.pool}


def rank_neurons(session: Session, ranks: Ranks) -> NeuronSets:
    """This rank's share of the pool: the neurons artefact, or, where selection needs none, the lengths alone."""
    if needs_neurons(session.config):
        return load_rank_neurons(session.run.stage_dir(names.NEURONS), ranks)
    return unscored(session.rollouts, ranks)


def contexts_without_selection(
    session: Session, ranks: Ranks, uids: Sequence[str], context: ContextConfig, signals: Signals
) -> Contexts:
    """Demonstrations of these pool questions by `context`, whatever was selected. Collective."""
    dist = session.config.dist
    return contexts_for(
        uids,
        rank_neurons(session, ranks),
        texts_of(session),
        context,
        ranks,
        exchange=dist.context_exchange,
        domains=domains_of(session),
        signals=signals if signals.columns else None,
        block_mib=dist.block_mib,
    )


def teacher_prompts(
    session: Session,
    selected: list[str],
    contexts: Contexts | None = None,
    ask: bool = True,
) -> dict[str, TeacherPrompt]:
    """Each selected question's prompt with its neighbours' own answers as demonstrations; `contexts`: else those of
    the select stage; `ask=False`: the demonstrations without the question."""
    config = session.config.context
    contexts = session.run.contexts() if contexts is None else contexts
    questions, responses = session.questions, {(r.uid, r.sample): r.text for r in session.rollouts}
    prompts = {}
    for uid in selected:
        shown = demonstrations_for(
            [(n.uid, n.sample) for n in contexts[uid]], questions, responses, config.solution, session.think_open
        )
        order = display_order(len(shown), config.order, f"{config.seed or session.config.seed} {uid}")
        prompts[uid] = session.renderer.teacher(questions[uid], shown, config.max_prompt, order, ask)
    return prompts
