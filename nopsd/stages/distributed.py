"""The distributed stages' glue, run by every rank: load artefacts, build engines, call the stage's package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nopsd.config import ContextConfig
from nopsd.data.demonstrations import demonstrations_for, display_order
from nopsd.data.prompts import TeacherPrompt
from nopsd.data.records import Question
from nopsd.data.wording import question_text
from nopsd.engine.device import device
from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import host_values, load_ds_config
from nopsd.engine.frozen import load_frozen
from nopsd.neurons.stage import load_rank_neurons, score_rollouts
from nopsd.neurons.store import NeuronSets
from nopsd.rollout.types import Rollout, read_rollouts
from nopsd.run.session import Session
from nopsd.selection.names import needs_neurons
from nopsd.selection.stage import Contexts, contexts_for, read_contexts, select_and_retrieve
from nopsd.selection.unscored import unscored
from nopsd.signals.agreement import Answers, agreement, answers_of
from nopsd.signals.belief import belief_shift, from_main_showing_signs, sample_demonstrated
from nopsd.signals.needs import FROM_FORWARD, FROM_TEXT, needed
from nopsd.signals.reference import read_reference
from nopsd.signals.stage import forward_columns, leave_signals
from nopsd.signals.store import Signals, read_signals

Progress = Callable[..., None] | None


def score_neurons(session: Session, folder: Path, progress: Progress) -> None:
    """Stage `neurons`: the pool's zero-shot rollouts through the frozen, sharded base model."""
    config, ranks = session.config, session.ranks
    assert ranks is not None
    rollouts = read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet")
    score_rollouts(
        base_engine(session),
        rollouts,
        config.neuron,
        ranks,
        folder,
        progress,
        model_hash=session.model.hash,
        think_ids=think_ids(session.tokenizer),
        shard=config.dist.shard,
        topk_search=config.dist.topk_search,
    )


def base_engine(session: Session) -> Any:
    """The frozen base model, sharded over the ranks."""
    config, dtype = session.config, session.config.model.dtype
    ds_config = load_ds_config(
        config.dist.teacher_config,
        "teacher",
        ds_device(),
        config.train.micro,
        1,
        config.train.clip,
        dtype,
        host=host_values(config.dist),
    )
    return load_frozen(str(session.model.path), dtype, ds_config, config.model.trust_remote_code, config.model.revision)


def ds_device() -> str:
    return "cpu" if device() == "cpu" else "gpu"


def think_ids(tokenizer: Any) -> tuple[int, int] | None:
    """Ids of the opening and closing thinking tags, if each is one token of the tokenizer."""
    vocabulary = tokenizer.get_vocab()
    opening, closing = vocabulary.get("<think>"), vocabulary.get("</think>")
    return None if opening is None or closing is None else (opening, closing)


def compute_signals(session: Session, folder: Path, progress: Progress) -> None:
    """Stage `signals`: the columns that the chosen selector, retriever and filter need, and no others."""
    config = session.config
    ranks = session.ranks or Ranks(0, 1, torch.device("cpu"))  # without ranks there is nothing here for a model
    columns = needed(config.select, config.context)
    rollouts = read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet")
    questions = {q.uid: q for q in session.pool}
    answers = answers_of(rollouts, questions, session.think_open) if columns - FROM_FORWARD else {}
    found = agreement(answers) if columns & FROM_TEXT else {}
    if columns & FROM_FORWARD:
        reference = reference_examples(session) if "nait" in columns else []
        found |= forward_columns(
            base_engine(session),
            rollouts,
            columns,
            config.signal,
            ranks,
            folder,
            progress,
            model_hash=session.model.hash,
            value=config.neuron.value,
            reference=reference,
        )
    uids = sorted({r.uid for r in rollouts}) if columns else []
    signals = Signals(uids, found, {"format": 1, "columns": sorted(columns)})
    if "belief_shift" in columns:
        found["belief_shift"] = belief_shift(answers, demonstrated_answers(session, signals, ranks, folder, progress))
    leave_signals(folder, signals, ranks)


def reference_examples(session: Session) -> list[Rollout]:
    """nait's examples, each asked as it stands: a chat of one message, without a system message of ours."""
    signal, renderer = session.config.signal, session.renderer

    def encode(prompt: str, response: str) -> tuple[list[int], list[int]]:
        return renderer.student(Question("", "", "instructions", prompt)), renderer.response(response)

    return read_reference(signal.reference or "", signal.reference_limit, encode, session.model.window)


def demonstrated_answers(session: Session, signals: Signals, ranks: Ranks, folder: Path, progress: Progress) -> Answers:
    """Every pool question's answers with the demonstrations that context.retriever finds for it, sampled by rank 0."""
    config, questions = session.config, {q.uid: q for q in session.pool}
    context = replace(config.context, seed=config.context.seed or config.seed)
    contexts = contexts_without_selection(session, ranks, signals.uids, context, signals)

    def sample(sign: Callable[[], None]) -> Answers:
        def tell(done: int, total: int, **info: Any) -> None:
            sign()
            if progress is not None:
                progress(done, total, **info)

        prompts = teacher_prompts(session, signals.uids, questions, contexts)
        rollouts = sample_demonstrated(
            [questions[uid] for uid in signals.uids],
            [prompts[uid].ids for uid in signals.uids],
            session.client_holding(session.model.path, version=0),
            config.rollout_zs,
            config.signal.belief_samples,
            config.seed,
            folder / "belief",
            tell,
        )
        return answers_of(rollouts, questions, session.think_open)

    return from_main_showing_signs(ranks, sample)


def contexts_without_selection(
    session: Session, ranks: Ranks, uids: Sequence[str], context: ContextConfig, signals: Signals
) -> Contexts:
    """Demonstrations of these pool questions by `context`, whatever was selected. Collective."""
    dist, pool = session.config.dist, session.pool
    return contexts_for(
        uids,
        rank_neurons(session, ranks),
        {q.uid: question_text(q) for q in pool},
        context,
        ranks,
        exchange=dist.context_exchange,
        domains={q.uid: q.domain for q in pool},
        signals=signals if signals.columns else None,
        block_mib=dist.block_mib,
    )


def rank_neurons(session: Session, ranks: Ranks) -> NeuronSets:
    """This rank's share of the pool: the neurons artefact, or, where selection needs none, the lengths alone."""
    if needs_neurons(session.config):
        return load_rank_neurons(session.run.stage_dir("neurons"), ranks)
    return unscored(read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet"), ranks)


def select_contexts(session: Session, folder: Path, progress: Progress) -> None:
    """Stage `select`: the questions to train on and their demonstrations, from the all-gathered counts and sets."""
    config, pool = session.config, session.pool
    ranks = session.ranks or Ranks(0, 1, torch.device("cpu"))  # alone where there is too little to share out
    neurons = rank_neurons(session, ranks)
    signals = read_signals(session.run.stage_dir("signals"))
    select_and_retrieve(
        neurons,
        {q.uid: question_text(q) for q in pool},
        replace(config.select, seed=config.select.seed or config.seed),
        replace(config.context, seed=config.context.seed or config.seed),
        ranks,
        folder,
        folder,
        exchange=config.dist.context_exchange,
        domains={q.uid: q.domain for q in pool},
        signals=signals if signals.columns else None,
        block_mib=config.dist.block_mib,
    )


def teacher_prompts(
    session: Session,
    selected: list[str],
    questions: dict[str, Question],
    contexts: Contexts | None = None,
    ask: bool = True,
) -> dict[str, TeacherPrompt]:
    """Each selected question's prompt with its neighbours' own answers as demonstrations (SPEC §5); `contexts`: else
    those of the select stage; `ask=False`: the demonstrations without the question."""
    config = session.config.context
    contexts = read_contexts(session.run.stage_dir("select")) if contexts is None else contexts
    rollouts = read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet")
    responses = {(r.uid, r.sample): r.text for r in rollouts}
    prompts = {}
    for uid in selected:
        shown = demonstrations_for(
            [(n.uid, n.sample) for n in contexts[uid]], questions, responses, config.solution, session.think_open
        )
        order = display_order(len(shown), config.order, f"{config.seed or session.config.seed} {uid}")
        prompts[uid] = session.renderer.teacher(questions[uid], shown, config.max_prompt, order, ask)
    return prompts
