"""Stage `train`, run by every rank: what each way of training reads from the run folder, and the call of its package.

In: the selection, the pool and its rollouts. Out: train/plan.json (how many questions and steps), and what the package
leaves: metrics, checkpoints, export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nopsd.config import METHODS, Config
from nopsd.data.prompts import TeacherPrompt
from nopsd.data.records import Question
from nopsd.engine.distributed import Ranks
from nopsd.engine.stopping import StopRequest
from nopsd.errors import ConfigError
from nopsd.files import write_json
from nopsd.reporting.metrics_log import MetricsLog
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.types import read_rollouts
from nopsd.run.session import Session, eval_sampling
from nopsd.selection.stage import read_selected
from nopsd.signals.agreement import answers_of
from nopsd.signals.store import read_signals
from nopsd.stages.distributed import contexts_without_selection, teacher_prompts
from nopsd.train.epochs import PLAN, settled
from nopsd.train.losses.targets import auxiliaries
from nopsd.train.probe import probe_metrics

Progress = Callable[..., None] | None


def train(session: Session, folder: Path, progress: Progress) -> None:
    """Train by the method's own package. ConfigError for one that trains nothing."""
    trainer = METHODS[session.config.method].trainer
    if trainer is None:
        raise ConfigError(f"method={session.config.method} trains nothing: name another method")
    {"distill": distill, "sft": finetune, "grpo": reinforce}[trainer](session, folder, progress)


def distill(session: Session, folder: Path, progress: Progress) -> None:
    """Prompts of both roles for the selected questions, then Algorithm 1, then the export (SPEC §6)."""
    from nopsd.train.algorithms.distill_stage import train

    assert session.ranks is not None
    selected, questions = selection(session)
    config, client = plan(session, folder, len(selected)), client_of(session)
    train(
        config,
        selected,
        {uid: session.renderer.student(questions[uid]) for uid in selected},
        demonstrated(session, selected, questions),
        session.model.path,
        client,
        session.ranks,
        folder,
        lambda step: MetricsLog(folder, step),
        progress,
        label_free_probe(session, client) if client else None,
        single_token_ids(session.tokenizer, config.train.style_words),
        auxiliary_prompts(session, session.ranks, selected, questions),
        StopRequest.of_this_process(),
    )


def finetune(session: Session, folder: Path, progress: Progress) -> None:
    """The selected questions' voted responses, then next-token loss on them, then the export (SPEC §8.1)."""
    from nopsd.train.algorithms.sft_stage import train
    from nopsd.train.voting import keep_voted

    assert session.ranks is not None
    selected, questions = selection(session)
    rollouts = read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet")
    answers = answers_of(rollouts, questions, session.think_open)
    seed = session.config.train.seed or session.config.seed
    kept = keep_voted(selected, rollouts, answers, session.config.sft, seed).checked()
    config = plan(session, folder, len(kept.responses), kept.counts())
    client = client_of(session) if config.train.probe_every else None
    train(
        config,
        {uid: (rows[0].prompt_ids, [r.response_ids for r in rows]) for uid, rows in kept.responses.items()},
        session.model.path,
        client,
        session.ranks,
        folder,
        lambda step: MetricsLog(folder, step),
        progress,
        label_free_probe(session, client) if client else None,
        StopRequest.of_this_process(),
    )


def reinforce(session: Session, folder: Path, progress: Progress) -> None:
    """The selected questions' prompts, then GRPO by a label-free reward, then the export (SPEC §8.2, 8.3, 8.5)."""
    from nopsd.train.algorithms.grpo_stage import train

    assert session.ranks is not None
    selected, questions = selection(session)
    config, client = plan(session, folder, len(selected)), client_of(session)
    train(
        config,
        selected,
        {uid: session.renderer.student(questions[uid]) for uid in selected},
        questions,
        session.model.path,
        client,
        session.ranks,
        folder,
        lambda step: MetricsLog(folder, step),
        progress,
        label_free_probe(session, client) if client else None,
        session.think_open,
        StopRequest.of_this_process(),
    )


def selection(session: Session) -> tuple[list[str], dict[str, Question]]:
    """The selected uids, best first, and all pool questions by uid."""
    return read_selected(session.run.stage_dir("select")).uids, {q.uid: q for q in session.pool}


def client_of(session: Session) -> Any:
    """On rank 0, which alone talks to the server, and may have to start it; None elsewhere."""
    assert session.ranks is not None
    return session.client() if session.ranks.is_main else None


def plan(session: Session, folder: Path, questions: int, facts: dict[str, int] | None = None) -> Config:
    """The configuration with its steps settled, which rank 0 records beside the model."""
    config, ranks = session.config, session.ranks
    train = settled(config.train, questions)
    if ranks is None or ranks.is_main:
        planned = {"method": config.method, "questions": questions, "steps": train.steps, "warmup": train.warmup}
        write_json(folder / PLAN, {**planned, **(facts or {})})
    return replace(config, train=train)


def demonstrated(
    session: Session, selected: list[str], questions: dict[str, Question], ask: bool = True
) -> dict[str, TeacherPrompt]:
    """The teacher's prompts: of method opsd_oracle with a right solution, else with the select stage's contexts."""
    if not METHODS[session.config.method].reads_labels:
        return teacher_prompts(session, selected, questions, ask=ask)
    from nopsd.evaluation.oracle import right_solutions

    rollouts = read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet")
    asked = [questions[uid] for uid in selected]
    shown = right_solutions(session.config, asked, rollouts, session.think_open)
    longest = session.config.context.max_prompt
    return {q.uid: session.renderer.teacher(q, [shown[q.uid]], longest, ask=ask) for q in asked}


def auxiliary_prompts(
    session: Session, ranks: Ranks, selected: list[str], questions: dict[str, Question]
) -> dict[str, dict[str, list[int]]]:
    """Further prompts that distill.target and distill.contrast read the teacher at (SPEC §11 F1, F2). Collective."""
    config, prompts = session.config, {}
    wanted = auxiliaries(config.distill)
    if "ctx_only" in wanted:
        prompts["ctx_only"] = demonstrated(session, selected, questions, ask=False)
    if "random_ctx" in wanted:
        signals = read_signals(session.run.stage_dir("signals"))
        seed = (config.context.seed or config.seed) + 1  # other draws than context.retriever=random's own
        context = replace(config.context, retriever="random", pool="all", seed=seed)
        contexts = contexts_without_selection(session, ranks, selected, context, signals)
        prompts["random_ctx"] = teacher_prompts(session, selected, questions, contexts)
    return {name: {uid: prompt.ids for uid, prompt in found.items()} for name, found in prompts.items()}


def single_token_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Ids of the words, with and without a space before, capital and small, that are one token each."""
    forms = {f"{space}{form}" for word in words for form in (word, word.lower()) for space in ("", " ")}
    encoded = [tokenizer.encode(form, add_special_tokens=False) for form in sorted(forms)]
    return sorted({ids[0] for ids in encoded if len(ids) == 1})


def label_free_probe(session: Session, client: RolloutClient) -> Callable[[int], dict[str, float]]:
    """A probe of the served policy on the same pool questions every time, at evaluation's temperature."""
    config = session.config
    questions = session.pool[: config.train.probe_questions]
    prompts = [session.renderer.student(q) for q in questions]
    sampling = replace(eval_sampling(config.eval), n=config.train.probe_samples)

    def probe(version: int) -> dict[str, float]:
        uids = [q.uid for q in questions]
        samples = client.generate(prompts, uids, sampling, config.seed, expected_version=version)
        return probe_metrics(questions, samples, config.eval.extract, session.think_open)

    return probe
