"""Stage `signals`: what selectors and retrievers other than the paper's go by; nothing is computed unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nopsd.config import ENTRY_POINTS, Config
from nopsd.data.records import Question
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError
from nopsd.files import sha256_file
from nopsd.plugins import source_hashes
from nopsd.rollout.types import Rollout
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.run.stage import Counts, Progress, Stage
from nopsd.selection.names import check_names
from nopsd.signals.agreement import Answers, agreement, answers_of, together
from nopsd.signals.belief import belief_shift, broadcast_with_heartbeat, sample_demonstrated
from nopsd.signals.forward_columns import MeasuredModel, forward_columns, write_shared_signals
from nopsd.signals.needs import DEMONSTRATED, FROM_FORWARD, FROM_TEXT, needed, shaping_keys
from nopsd.signals.reference import read_reference
from nopsd.signals.store import Signals as Columns
from nopsd.signals.store import by_sample, write_signals
from nopsd.signals.teacher_shift import teacher_shift
from nopsd.stages.base_model import base_engine
from nopsd.stages.contexts import contexts_without_selection, teacher_prompts
from nopsd.stages.workload import number

BELIEF, TEACHER = "belief_shift", "teacher_shift"  # need demonstrations; the first also the server


class Signals(Stage):
    """The columns that the chosen selector, retriever and filter need."""

    name = names.SIGNALS
    does = "compute what else selection goes by"
    inputs = (names.DATA, names.ROLLOUT, names.NEURONS)
    distributed = True

    def reads(self, config: Config) -> tuple[str, ...]:
        """Neuron sets only where they are needed to find demonstrations."""
        return self.inputs if DEMONSTRATED & columns_of(config) else (names.DATA, names.ROLLOUT)

    def keys(self, config: Config) -> tuple[str, ...]:
        """The keys that the columns depend on."""
        return shaping_keys(columns_of(config))

    def made_from(self, session: Session) -> dict[str, Any]:
        """The columns and nait's reference; not selector and retriever, which may change while the columns stay."""
        columns = sorted(columns_of(session.config))
        made: dict[str, Any] = {"columns": columns}
        if not FROM_FORWARD.issuperset(columns):  # answers are read
            made |= source_hashes({"answer.judge": session.config.answer.judge}, ENTRY_POINTS)
        if "nait" not in columns:
            return made
        reference = session.config.signal.reference
        try:
            return {**made, "signal.reference": sha256_file(Path(reference or ""))}
        except OSError as error:
            raise ConfigError(f"signal.reference={reference} can't be read ({error.strerror})") from error

    def runs_here(self, config: Config) -> bool:
        """Without ranks, where texts tell all that is asked for."""
        return columns_of(config) <= FROM_TEXT

    def asks_server(self, config: Config) -> bool:
        """For answers with demonstrations alone."""
        return BELIEF in columns_of(config)

    def check(self, session: Session) -> None:
        """Selector and retriever can be loaded."""
        check_names(session.config)

    def workload(self, config: Config, counts: Counts | None) -> str:
        """Columns and questions."""
        columns = sorted(columns_of(config))
        pool = number(counts.pool if counts else None)
        return f"columns {', '.join(columns)} of {pool} questions" if columns else "nothing is asked for"

    def outdated_with(self, redone: str) -> bool:
        """Signals that another selector asked for go with the selection."""
        return redone == names.SELECT

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Compute the columns; an empty artefact where there are none."""
        columns = columns_of(session.config)
        if session.ranks is None and not columns:
            write_signals(folder, Columns([]))
            return
        compute_signals(session, columns, folder, progress)


def columns_of(config: Config) -> frozenset[str]:
    """What has to be computed for this configuration."""
    return needed(config.select, config.context)


def compute_signals(session: Session, columns: frozenset[str], folder: Path, progress: Progress) -> None:
    """From texts, from a forward pass, and from answers with demonstrations, each where a column needs it."""
    config, rollouts = session.config, session.rollouts
    ranks = session.ranks or Ranks(0, 1, torch.device("cpu"))  # without ranks there is nothing here for a model
    answers = answers_of(rollouts, session.questions, session.reader) if columns - FROM_FORWARD else {}
    found = agreement(answers) if columns & FROM_TEXT else {}
    if "response_length" in columns:
        found["response_length"] = by_sample(rollouts, np.array([len(r.response_ids) for r in rollouts]))
    model = None
    if columns & (FROM_FORWARD | {TEACHER}):
        model = MeasuredModel(base_engine(session), session.model.hash, config.neuron.value, config.model.mlp_adapter)
    if model is not None and columns & FROM_FORWARD:
        reference = reference_examples(session) if "nait" in columns else []
        found |= forward_columns(model, rollouts, columns, config.signal, ranks, folder, progress, reference)
    uids = sorted({r.uid for r in rollouts}) if columns else []
    signals = Columns(uids, found, {"format": 1, "columns": sorted(columns)})
    if model is not None and TEACHER in columns:
        contexts = contexts_without_selection(session, ranks, uids, config.context, signals)
        prompts = {uid: prompt.ids for uid, prompt in teacher_prompts(session, uids, contexts).items()}
        found[TEACHER] = teacher_shift(model, rollouts, prompts, config.signal, ranks, folder, progress)
    if BELIEF in columns:
        demonstrated = demonstrated_answers(session, signals, ranks, folder, progress)
        found[BELIEF] = belief_shift(*together(answers, demonstrated, session.questions, session.reader))
    write_shared_signals(folder, signals, ranks)


def reference_examples(session: Session) -> list[Rollout]:
    """nait's examples, each asked as it stands: a chat of one message, without our system message."""
    signal, renderer = session.config.signal, session.renderer

    def encode(prompt: str, response: str) -> tuple[list[int], list[int]]:
        return renderer.student(Question("", "", "instructions", prompt)), renderer.response(response)

    return read_reference(signal.reference or "", signal.reference_limit, encode, session.model.window)


def demonstrated_answers(session: Session, signals: Columns, ranks: Ranks, folder: Path, progress: Progress) -> Answers:
    """Every pool question's answers with the demonstrations that context.retriever finds for it, sampled by rank 0."""
    config, questions = session.config, session.questions
    contexts = contexts_without_selection(session, ranks, signals.uids, config.context, signals)

    def sample(sign: Callable[[], None]) -> Answers:
        def report(done: int, total: int, **info: Any) -> None:
            sign()
            if progress is not None:
                progress(done, total, **info)

        prompts = teacher_prompts(session, signals.uids, contexts)
        rollouts = sample_demonstrated(
            [questions[uid] for uid in signals.uids],
            [prompts[uid].ids for uid in signals.uids],
            session.client_holding(session.model.path, version=0),
            config.zero_shot,
            config.signal.belief_samples,
            config.seed,
            folder / "belief",
            report,
        )
        return answers_of(rollouts, questions, session.reader)

    return broadcast_with_heartbeat(ranks, sample)
