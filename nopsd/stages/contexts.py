"""Demonstrations for pool questions, and the teacher's prompts that show them."""

from __future__ import annotations

from collections.abc import Sequence

from nopsd.config import ContextConfig
from nopsd.data.demonstrations import demonstrations_for, display_order
from nopsd.data.overlap import identity
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks
from nopsd.neurons.rank_share import load_rank_neurons
from nopsd.neurons.store import NeuronSets
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.selection.artefacts import Contexts
from nopsd.selection.gathering import PoolData
from nopsd.selection.names import needs_neurons
from nopsd.selection.select_pool import Sharing, find_contexts
from nopsd.selection.without_neurons import without_neurons
from nopsd.signals.store import Signals


def texts_of(session: Session) -> dict[str, str]:
    """Each pool question's text and options by uid, by which equal questions are known, whatever the options' order."""
    return {q.uid: identity(q) for q in session.pool}


def domains_of(session: Session) -> dict[str, str]:
    """Each pool question's domain by uid."""
    return {q.uid: q.domain for q in session.pool}


def rank_neurons(session: Session, ranks: Ranks) -> NeuronSets:
    """This rank's share of the pool: the neuron artefact, or lengths alone where no neurons are needed. Collective."""
    if needs_neurons(session.config):
        return load_rank_neurons(session.run.stage_dir(names.NEURONS), ranks)
    return without_neurons(session.rollouts, ranks)


def pool_data(session: Session, ranks: Ranks, signals: Signals) -> PoolData:
    """What selection goes by. Collective."""
    used = signals if signals.columns else None
    return PoolData(rank_neurons(session, ranks), texts_of(session), domains_of(session), used)


def sharing(session: Session, ranks: Ranks) -> Sharing:
    """How the ranks work together, by `dist`."""
    dist = session.config.dist
    return Sharing(ranks, dist.context_exchange, dist.block_mib)


def contexts_without_selection(
    session: Session, ranks: Ranks, uids: Sequence[str], context: ContextConfig, signals: Signals
) -> Contexts:
    """Demonstrations of these pool questions by `context`, whatever was selected. Collective."""
    return find_contexts(uids, pool_data(session, ranks, signals), context, sharing(session, ranks))


def teacher_prompts(
    session: Session,
    selected: list[str],
    contexts: Contexts | None = None,
    ask: bool = True,
) -> dict[str, TeacherPrompt]:
    """Each selected question's prompt with its neighbours' own answers as demonstrations; `contexts`: else those of
    the select stage; `ask=False`: the demonstrations without the question."""
    config = session.config.context
    contexts = session.contexts if contexts is None else contexts
    questions, responses = session.questions, {(r.uid, r.sample): r.text for r in session.rollouts}
    prompts = {}
    for uid in selected:
        shown = demonstrations_for(
            [(n.uid, n.sample) for n in contexts[uid]], questions, responses, config.solution, session.reader
        )
        order = display_order(len(shown), config.order, f"{config.seed or session.config.seed} {uid}")
        prompts[uid] = session.renderer.teacher(questions[uid], shown, config.max_prompt, order, ask)
    return prompts
