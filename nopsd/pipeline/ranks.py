"""The distributed stages' glue, run by every rank: load artefacts, build engines, call the stage's package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nopsd.data.demonstrations import demonstrations_for, display_order
from nopsd.data.prompts import TeacherPrompt
from nopsd.data.records import Question
from nopsd.data.wording import question_text
from nopsd.distill.probe import probe_metrics
from nopsd.engine.ds_config import load_ds_config
from nopsd.engine.frozen import load_frozen
from nopsd.monitor.metrics_log import MetricsLog
from nopsd.neurons.stage import load_rank_neurons, score_rollouts
from nopsd.pipeline.session import Session, device, eval_sampling
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.types import read_rollouts
from nopsd.selection.stage import read_contexts, read_selected, select_and_retrieve

Progress = Callable[..., None] | None


def score_neurons(session: Session, folder: Path, progress: Progress) -> None:
    """Stage `neurons`: the pool's zero-shot rollouts through the frozen, sharded base model."""
    config, ranks = session.config, session.ranks
    assert ranks is not None
    ds_config = load_ds_config(
        config.dist.teacher_config, "teacher", ds_device(), config.train.micro, 1, config.train.clip, config.model.dtype
    )
    engine = load_frozen(
        str(session.model.path), config.model.dtype, ds_config, config.model.trust_remote_code, config.model.revision
    )
    rollouts = read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet")
    score_rollouts(
        engine,
        rollouts,
        config.neuron,
        ranks,
        folder,
        progress,
        model_hash=session.model.hash,
        think_ids=think_ids(session.tokenizer),
    )


def ds_device() -> str:
    return "cpu" if device() == "cpu" else "gpu"


def think_ids(tokenizer: Any) -> tuple[int, int] | None:
    """Ids of the opening and closing thinking tags, if each is one token of the tokenizer."""
    vocabulary = tokenizer.get_vocab()
    opening, closing = vocabulary.get("<think>"), vocabulary.get("</think>")
    return None if opening is None or closing is None else (opening, closing)


def select_contexts(session: Session, folder: Path, progress: Progress) -> None:
    """Stage `select`: the questions to train on and their demonstrations, from the all-gathered counts and sets."""
    assert session.ranks is not None
    config, pool = session.config, session.pool
    neurons = load_rank_neurons(session.run.stage_dir("neurons"), session.ranks)
    select_and_retrieve(
        neurons,
        {q.uid: question_text(q) for q in pool},
        replace(config.select, seed=config.select.seed or config.seed),
        replace(config.context, seed=config.context.seed or config.seed),
        session.ranks,
        folder,
        folder,
        exchange=config.dist.context_exchange,
        domains={q.uid: q.domain for q in pool},
    )


def distill(session: Session, folder: Path, progress: Progress) -> None:
    """Stage `train`: prompts of both roles for the selected questions, then Algorithm 1, then the export."""
    from nopsd.distill.stage import train

    assert session.ranks is not None
    selected = read_selected(session.run.stage_dir("select")).uids
    questions = {q.uid: q for q in session.pool}
    students = {uid: session.renderer.student(questions[uid]) for uid in selected}
    # Rank 0 alone talks to the server, and may have to start it.
    client: Any = session.client() if session.ranks.is_main else None
    train(
        session.config,
        selected,
        students,
        teacher_prompts(session, selected, questions),
        session.model.path,
        client,
        session.ranks,
        folder,
        lambda step: MetricsLog(folder, step),
        progress,
        label_free_probe(session, client) if client else None,
        single_token_ids(session.tokenizer, session.config.train.style_words),
    )


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


def teacher_prompts(session: Session, selected: list[str], questions: dict[str, Question]) -> dict[str, TeacherPrompt]:
    """Each selected question's prompt with its neighbours' own answers as demonstrations (SPEC §5)."""
    config = session.config.context
    contexts = read_contexts(session.run.stage_dir("select"))
    first_sample = {
        r.uid: r.text for r in reversed(read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet"))
    }
    prompts = {}
    for uid in selected:
        shown = demonstrations_for(
            [n.uid for n in contexts[uid]], questions, first_sample, config.solution, session.think_open
        )
        order = display_order(len(shown), config.order, f"{config.seed or session.config.seed} {uid}")
        prompts[uid] = session.renderer.teacher(questions[uid], shown, config.max_prompt, order)
    return prompts
