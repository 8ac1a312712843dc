"""Demonstrations for pool questions, and the teacher's prompts that show them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from nopsd.config import ContextConfig
from nopsd.data.demonstrations import demonstrations_for, display_order
from nopsd.data.majority import majority
from nopsd.data.overlap import identity
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.neurons.rank_share import load_rank_neurons
from nopsd.neurons.store import NeuronSets
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder
from nopsd.run.session import Session
from nopsd.selection.artefacts import Contexts, Neighbor
from nopsd.selection.gathering import PoolData
from nopsd.selection.names import needs_neurons
from nopsd.selection.select_pool import Sharing, find_contexts
from nopsd.selection.without_neurons import without_neurons
from nopsd.signals.agreement import Answers, answers_of
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


def control_prompts(session: Session, ranks: Ranks, selected: list[str]) -> dict[str, TeacherPrompt]:
    """The teacher's prompts with the demonstrations that `distill.contrast` compares with. Collective."""
    config = session.config
    seed = config.context.seed + 1  # other draws than context.retriever=random's own
    if config.distill.contrast == "other_domain":
        return foreign_prompts(session, selected, RunFolder(str(config.distill.contrast_run)), seed)
    if config.distill.contrast == "at_odds":
        answers = answers_of(session.rollouts, session.questions, session.reader)
        return teacher_prompts(session, selected, contexts_at_odds(answers, selected, config.context.m, seed))
    context = replace(config.context, retriever="random", pool="all", seed=seed)
    contexts = contexts_without_selection(session, ranks, selected, context, session.run.signals())
    return teacher_prompts(session, selected, contexts)


def contexts_at_odds(answers: Answers, selected: Sequence[str], m: int, seed: int) -> Contexts:
    """For each question m others, drawn, each with a response whose answer is another than its question's vote.

    Args:
        answers: Of the pool's questions, by sample.
        selected: The questions.
        m: Demonstrations; fewer where no more have such a response.
        seed: Of the draws.

    Raises:
        DataError: No other question has one.
    """
    odd = {}
    for uid, given in answers.items():
        vote, _ = majority(given)
        if samples := [i for i, answer in enumerate(given) if answer not in (None, vote)]:
            odd[uid] = samples
    found: Contexts = {}
    for uid in selected:
        others, draw = sorted(odd.keys() - {uid}), random.Random(f"{seed} {uid}")
        if not others:
            raise DataError(
                "distill.contrast=at_odds: no response is at odds with its question's vote: raise zero_shot.n, or set "
                "distill.contrast=random_ctx"
            )
        drawn = draw.sample(others, min(m, len(others)))
        found[uid] = [Neighbor(other, None, draw.choice(odd[other])) for other in drawn]
    return found


def foreign_prompts(session: Session, selected: list[str], other: RunFolder, seed: int) -> dict[str, TeacherPrompt]:
    """Each question's prompt with drawn questions of another run's pool and that run's own answers to them."""
    context, questions = session.config.context, {q.uid: q for q in other.pool()}
    responses = {(r.uid, r.sample): r.text for r in other.rollouts() if r.sample == 0}
    answered = sorted({uid for uid, _ in responses} & questions.keys())
    prompts = {}
    for uid in selected:
        drawn = random.Random(f"{seed} {uid}").sample(answered, min(context.m, len(answered)))
        pairs = [(other_uid, 0) for other_uid in drawn]
        shown = demonstrations_for(pairs, questions, responses, context.solution, session.reader)
        prompts[uid] = session.renderer.teacher(session.questions[uid], shown, context.max_prompt)
    return prompts


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
