"""Stage `train`, run by every rank: the call of the training loop, with what its engines need.

In: the selection, the pool and its rollouts. Out: train/plan.json (how many questions and steps), metrics, checkpoints
and the export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nopsd.config import ENTRY_POINTS, METHODS, Config, is_foreign, shaping_keys
from nopsd.data.prompts import TeacherPrompt
from nopsd.data.records import questions_hash
from nopsd.engine.stopping import StopRequest
from nopsd.errors import ArtefactError, DataError
from nopsd.evaluation.conclusion import teacher_gain
from nopsd.evaluation.oracle import label_warning, pool_key
from nopsd.files import sha256_json, write_json
from nopsd.neurons.rank_share import load_rank_neurons
from nopsd.plugins import is_own, source_hashes
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.run.stage import Counts, Progress, Stage
from nopsd.stages.algorithms import prepared, retained_prompts
from nopsd.stages.workload import chosen, responses, tokens
from nopsd.traces.schema import FOLDER as TRACE
from nopsd.traces.schema import Prompts
from nopsd.traces.writer import TraceWriter
from nopsd.train.artefacts import PLAN, stop_note
from nopsd.train.metrics_log import MetricsLog
from nopsd.train.planning import settled, watched
from nopsd.train.replay import Replay
from nopsd.train.tracing import trace_every
from nopsd.train.tracking.base import check_places, open_sinks

if TYPE_CHECKING:
    from nopsd.train.run import Algorithm, TrainingInputs


class Train(Stage):
    """Training by the method's algorithm: on-policy distillation (the paper's Algorithm 1), fine-tuning or GRPO."""

    name = names.TRAIN
    does = "distil the demonstrations on-policy"
    inputs = (names.DATA, names.ROLLOUT, names.SELECT)
    config_keys = (
        "method",
        *shaping_keys("train"),
        *shaping_keys("distill"),
        *shaping_keys("teacher"),
        *shaping_keys("sft"),
        *shaping_keys("grpo"),
        *shaping_keys("opsa"),
        *shaping_keys("uopsd"),
        *shaping_keys("ttpo"),
        "context",
        "prompt",
        "answer",
        "model.dtype",
    )
    distributed = True
    finishes_step = True

    def title(self, config: Config) -> str:
        """What the method trains by."""
        trainer = METHODS[config.method].trainer
        voted = "fine-tune on the voted answers"
        learnt = "fine-tune on the given outputs (LABELS)" if config.sft.train_on_labels else voted
        others = {"sft": learnt, "grpo": "reinforce by label-free rewards", "opsa": "push unlikely tokens down"}
        return others.get(trainer or "", self.does)

    def keys(self, config: Config) -> tuple[str, ...]:
        """Those that mean something to the method."""
        unread = {"context"} if METHODS[config.method].trainer != "distill" else set()
        keys = (*self.config_keys, *(["rollout.partial"] if config.rollout.partial is not None else []))
        return tuple(key for key in keys if key not in unread and not is_foreign(config.method, key))

    def made_from(self, session: Session) -> dict[str, Any]:
        """The user's own code, and the labels, of the one method that reads them."""
        config = session.config
        own = {
            "method": config.method,
            "distill.divergence": config.distill.divergence,
            "answer.judge": config.answer.judge,
        }
        code: dict[str, Any] = dict(source_hashes(own, ENTRY_POINTS))
        if config.train.retain.share:
            code["retained"] = questions_hash(session.retained)
        if not METHODS[config.method].shows_answers:
            return code
        return {**code, "labels": sha256_json(pool_key(session.judge, session.pool))}

    def reads(self, config: Config) -> tuple[str, ...]:
        """The neuron sets too, where they say what is learned."""
        by_sets = config.train.neurons.learn in ("selected", "score", "random")
        return (*self.inputs, names.NEURONS) if by_sets else self.inputs

    def asks_server(self, config: Config) -> bool:
        """Always, but for recorded responses, and for fine-tuning, which samples for the probe alone."""
        return config.train.replay is None and (METHODS[config.method].trainer != "sft" or watched(config))

    def check(self, session: Session) -> None:
        """The model's family can be trained as asked; a divergence of the user's own can be loaded. A method that reads
        labels has them, and the user is warned."""
        from nopsd.engine.family_check import check_training
        from nopsd.train.losses.head import check_family_head
        from nopsd.train.losses.support import find_divergence

        replay_of(session.config)
        retained_prompts(session)
        check_training(session.model.path, session.config)
        check_places(session.config)
        check_family_head(session.model.path, session.config.model.trust_remote_code)
        if is_own(session.config.distill.divergence, ENTRY_POINTS["distill.divergence"]):
            find_divergence(session.config.distill.divergence)
        if METHODS[session.config.method].shows_answers:
            pool_key(session.judge, session.splits.pool)
        if session.config.sft.train_on_labels and session.splits.responses is None:
            raise DataError(
                f"data.name={session.config.data.name} brings no outputs that sft.train_on_labels could use"
            )
        if warning := label_warning(session.config.method):
            print(f"WARNING: {warning}", flush=True)

    def workload(self, config: Config, counts: Counts | None) -> str:
        """Steps, responses and tokens."""
        pool, train, trainer = counts.pool if counts else None, config.train, METHODS[config.method].trainer
        if train.epochs is not None and pool is None:
            return f"{train.epochs:g} epochs of the questions selected, {train.batch} a step"
        steps = settled(train, chosen(config, pool)).steps if pool is not None else train.steps
        if trainer == "sft":
            kept, longest = config.sft.per_question or config.zero_shot.n, config.zero_shot.max_new
            return (
                f"at most {steps:,} steps of {train.batch} responses ({kept} a question) of at most {longest:,} tokens"
            )
        each = responses(train.batch, train.n, train.max_response)
        total = tokens(steps * train.batch * train.n * train.max_response)
        prompts = f"; the teacher's prompts have at most {config.context.max_prompt:,}" if trainer == "distill" else ""
        return f"{steps:,} steps of {each}, {total} in all{prompts}"

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Train by the method's own algorithm. ConfigError for a method that trains nothing."""
        from nopsd.stages.watching import watch
        from nopsd.train.trainer import run_training

        selected, algorithm, facts = prepared(session)
        config = plan(session, folder, len(selected), facts)
        assert session.ranks is not None
        asks = self.asks_server(config) and session.ranks.is_main  # rank 0 may have to start the server
        client = session.client() if asks else None
        every = trace_every(config.train.trace) if algorithm.on_policy else 0
        run_training(
            replace(
                training_inputs(session, config, selected, algorithm, folder),
                client=client,
                open_log=lambda step: MetricsLog(folder, step, open_sinks(config, folder, step)),
                open_trace=trace_opener(session, folder, selected, algorithm) if every else None,
                trace_every=every,
                replay=replay_of(config),
                progress=progress,
                probe=watch(session, client, config) if client else None,
                queue=client.queue_times if client else None,
                stop=StopRequest.of_this_process(),
            )
        )

    def finish(self, session: Session) -> str | None:
        """The export's model card; that a guard stopped the training, or that there was nothing to distil."""
        from nopsd.stages.card import write_card  # which reads what the report does

        plan, record = session.run.training_plan(), session.run.export_record()
        write_card(session, plan, record)
        lines = [line for line in teacher_gain(session.run.training_gain()) if line.startswith("WARNING")]
        if note := stop_note(record, plan.get("steps", session.config.train.steps)):
            lines.append(f"WARNING: {note} `--redo train`, with guard.stop=false, trains on regardless.")
        return "\n      ".join(lines) or None


def training_inputs(
    session: Session, config: Config, selected: list[str], algorithm: Algorithm, folder: Path
) -> TrainingInputs:
    """What any use of a training's engines needs; `config`: with its steps settled."""
    from nopsd.train.run import TrainingInputs

    assert session.ranks is not None
    retained = getattr(algorithm, "retained", {})
    return TrainingInputs(
        config=config,
        algorithm=algorithm,
        selected=selected,
        retained=list(retained),
        neurons=learned_neurons(session, selected),
        student_prompts={**{uid: session.student_prompts[uid] for uid in selected}, **retained},
        model_path=session.model.path,
        client=None,
        ranks=session.ranks,
        folder=folder,
    )


def learned_neurons(session: Session, selected: list[str]) -> np.ndarray | None:
    """The mask of `train.neurons`; None: all are learned. Collective. ArtefactError for another model's sets."""
    from nopsd.train.neuron_mask import neuron_mask

    config, ranks = session.config.train.neurons, session.ranks
    if config.learn is None:
        return None
    assert ranks is not None
    protect = config.run is not None
    folder = Path(config.run or "") / names.NEURONS if protect else session.run.stage_dir(names.NEURONS)
    sets = load_rank_neurons(folder, ranks)
    if sets.header["model"] != session.model.hash:
        raise ArtefactError(f"{folder} is of another model than this run's: name a run of {session.model.path}")
    return neuron_mask(sets, None if protect else selected, config, ranks)


def export_kept(session: Session, step: int, folder: Path) -> None:
    """Export a step's kept checkpoint into `folder`, on all ranks. UserError if there is none, or another run's."""
    from nopsd.train.trainer import export_checkpoint

    selected, algorithm, _ = prepared(session)
    config = replace(session.config, train=settled(session.config.train, len(selected)))
    inputs = training_inputs(session, config, selected, algorithm, session.run.stage_dir(names.TRAIN))
    export_checkpoint(inputs, step, folder)


def replay_of(config: Config) -> Replay | None:
    """The recorded responses to train on, if any. ArtefactError if there are none of that run."""
    replay = config.train.replay
    return None if replay is None else Replay(Path(replay), names.TRAIN)


def trace_opener(
    session: Session, folder: Path, selected: list[str], algorithm: Algorithm
) -> Callable[[int], TraceWriter]:
    """What opens the trace, with the prompts in it."""
    train = session.config.train

    def opened(step: int) -> TraceWriter:
        writer = TraceWriter(folder / TRACE, trace_every(train.trace), train.trace_mib << 20, step)
        writer.write_prompts(traced_prompts(session, selected, algorithm))
        return writer

    return opened


def traced_prompts(session: Session, selected: list[str], algorithm: Algorithm) -> dict[str, Prompts]:
    """What both roles read, by uid, and whose responses the teacher is shown: the nearest ones that fitted."""
    taught: Mapping[str, TeacherPrompt] = getattr(algorithm, "teacher_prompts", {})
    found = {uid: Prompts(ids, ids) for uid, ids in getattr(algorithm, "retained", {}).items()}
    for uid in selected:
        prompt, near = taught.get(uid), session.contexts.get(uid, [])
        shown = tuple(n.uid for n in near[: prompt.kept]) if prompt and prompt.offered == len(near) else ()
        found[uid] = Prompts(session.student_prompts[uid], prompt.ids if prompt else None, shown)
    return found


def plan(session: Session, folder: Path, questions: int, facts: dict[str, int] | None = None) -> Config:
    """The configuration with its steps settled, which rank 0 records beside the model."""
    config, ranks = session.config, session.ranks
    train = settled(config.train, questions)
    if ranks is None or ranks.is_main:
        planned = {"method": config.method, "questions": questions, "steps": train.steps, "warmup": train.warmup}
        write_json(folder / PLAN, {**planned, **(facts or {})})
    return replace(config, train=train)
