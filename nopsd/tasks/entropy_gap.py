"""Entropies of the base model zero-shot and with its demonstrations, each on its own samples.

In: a run's data, rollout and select stages; a rollout server with the base weights. Out, in RUN/entropy_gap: the
teacher's own rollouts and entropy_gap.json, {estimator: {questions, student, teacher, gap, low, high}}. Not a stage of
`nopsd run`: a diagnostic that reads no label. The forward passes are shared by the ranks as those of `signals` are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.cluster.stage_launcher import under_launcher
from nopsd.config import Config
from nopsd.evaluation.entropy import ESTIMATORS, EntropyGap, entropy_gap, question_means, token_entropies
from nopsd.files import read_json, sha256_json, write_json
from nopsd.neurons.batches import Batch, input_ids
from nopsd.neurons.finished_shards import ShardFolder
from nopsd.rollout.types import FILE as FILE_OF_ROLLOUTS
from nopsd.rollout.types import Rollout, read_rollouts, rollouts_hash
from nopsd.run import folder as names
from nopsd.run import runner
from nopsd.run.lock import run_lock
from nopsd.run.session import Session
from nopsd.run.stage import Progress, Stage, Stages
from nopsd.signals.belief import broadcast_with_heartbeat, sample_demonstrated
from nopsd.signals.observer import Columns, Observer, watch_outputs
from nopsd.signals.sharing import Measuring, share
from nopsd.stages.base_model import base_engine
from nopsd.stages.contexts import teacher_prompts
from nopsd.stages.registry import STAGES

FILE = "entropy_gap.json"
NAME = "entropy_gap"


def measure(config: Config) -> dict[str, EntropyGap]:
    """The gap by estimator, made unless it is there. As one of the ranks that a launcher started, a share of the work.

    ArtefactError if what it reads is not there.
    """
    with Session(config) as session:
        if under_launcher():
            runner.run_as_rank(GAP_STAGES, session, GAP)
        else:
            bring_up(session)
        return read_gap(session.run.root)


def bring_up(session: Session) -> None:
    """From the process that the user started: launch the ranks unless the result is there."""
    runner.check_writable(session)
    with run_lock(session.run.root):
        runner.run_stage(GAP_STAGES, session, GAP, place=(1, 1))


def read_gap(root: Path) -> dict[str, EntropyGap]:
    """What the stage left; ArtefactError if it is not there."""
    from nopsd.evaluation.bootstrap import Interval

    return {
        name: EntropyGap(
            row["questions"], row["student"], row["teacher"], Interval(row["gap"], row["low"], row["high"])
        )
        for name, row in read_json(root / NAME / FILE).items()
    }


def shown(gaps: Mapping[str, EntropyGap]) -> str:
    """A line an estimator, nats a token."""
    return "\n".join(
        f"{name:8} student {g.student:.4f}  teacher {g.teacher:.4f}  gap {g.gap.value:+.4f} "
        f"[{g.gap.low:+.4f}, {g.gap.high:+.4f}] over {g.questions} questions"
        for name, g in gaps.items()
    )


def work(session: Session, folder: Path, progress: Progress) -> None:
    """On every rank. Rank 0 samples the teacher, all share the forward passes, rank 0 writes."""
    ranks = session.ranks
    assert ranks is not None
    uids = session.run.selection().uids
    chosen = set(uids)
    broadcast_with_heartbeat(ranks, lambda sign: sample_teacher(session, uids, folder, sign, progress))
    sides = {
        "student": [r for r in session.rollouts if r.uid in chosen],
        "teacher": read_rollouts(folder / "teacher" / FILE_OF_ROLLOUTS),
    }
    observer = EntropyObserver(base_engine(session), ranks, session.config.signal.logit_chunk)
    found = {side: entropies(observer, rollouts, session, folder, progress) for side, rollouts in sides.items()}
    if ranks.is_main:
        config, rows = session.config, {}
        for name in ESTIMATORS:
            means = {s: question_means([r.uid for r in sides[s]], found[s][name].tolist()) for s in sides}
            rows[name] = as_row(entropy_gap(means["student"], means["teacher"], config.eval.bootstrap, config.seed))
        write_json(folder / FILE, rows)
    ranks.barrier()
    ShardFolder(folder, "").clear()


def sample_teacher(
    session: Session, uids: Sequence[str], folder: Path, sign: Callable[[], None], progress: Progress
) -> bool:
    """On rank 0: the teacher's own answers, from the served base model, sampled as the zero-shot ones were.

    Args:
        session: The run's.
        uids: The questions.
        folder: Where the answers lie.
        sign: Called on the way, so that the other ranks wait on.
        progress: Called with how far it is.
    """
    config, questions = session.config, session.questions

    def report(done: int, total: int, **info: Any) -> None:
        sign()
        if progress is not None:
            progress(done, total, **info)

    prompts = teacher_prompts(session, list(uids))
    sample_demonstrated(
        [questions[uid] for uid in uids],
        [prompts[uid].ids for uid in uids],
        session.client_holding(session.model.path, version=0),
        config.zero_shot,
        config.zero_shot.n,
        config.seed,
        folder / "teacher",
        report,
    )
    return True


def entropies(
    observer: EntropyObserver, rollouts: Sequence[Rollout], session: Session, folder: Path, progress: Progress
) -> Columns:
    """Mean entropy of every rollout, by estimator. Collective.

    Args:
        observer: What is measured at each token.
        rollouts: Prompts and responses, shared over the ranks.
        session: The run's.
        folder: Where finished parts lie.
        progress: Called with how far it is.

    Returns:
        On every rank, in nats, in the order of `rollouts`.
    """
    assert session.ranks is not None
    signal = session.config.signal
    made_from = {
        "model": session.model.hash,
        "rollouts": rollouts_hash(rollouts),
        "batch": signal.max_batch_tokens,
        "chunk": signal.logit_chunk,
    }
    shared = share(
        rollouts,
        signal.max_batch_tokens,
        ShardFolder(folder, sha256_json(made_from)),
        Measuring(
            lambda batch: observer.entropies(rollouts, batch),
            observer.idle,
            {name: np.zeros(0, dtype=np.float32) for name in ESTIMATORS},
        ),
        session.ranks,
        None if progress is None else lambda done: progress(done, len(rollouts)),
    )
    return {name: shared.take(name) for name in ESTIMATORS}


class EntropyObserver(Observer):
    """Reads all estimators off one forward pass."""

    def entropies(self, rollouts: Sequence[Rollout], batch: Batch) -> Columns:
        """By estimator [B] float32; NaN for an empty response."""
        found = {name: np.full(len(batch), np.nan, dtype=np.float32) for name in ESTIMATORS}
        members = [rollouts[i] for i in batch]

        def see(hidden_BTH: Any, head: Any) -> None:
            import torch

            self._check_form(hidden_BTH, head)
            for row, rollout in enumerate(members):
                size, first = len(rollout.response_ids), len(rollout.prompt_ids) - 1
                if not size:
                    continue
                states = hidden_BTH[row, first : first + size]  # the positions that predict the response's tokens
                targets = torch.tensor(rollout.response_ids, device=states.device)
                bias = getattr(head, "bias", None)
                per_token = token_entropies(states, targets, head.weight, bias, self.form, self.chunk)
                for name, value in zip(ESTIMATORS, per_token.double().mean(1).tolist()):
                    found[name][row] = value

        with watch_outputs(self.lm, see):
            self._forward(input_ids(rollouts, batch))
        return found


def as_row(gap: EntropyGap) -> dict[str, Any]:
    """As entropy_gap.json has it."""
    return {
        "questions": gap.questions,
        "student": gap.student,
        "teacher": gap.teacher,
        "gap": gap.gap.value,
        "low": gap.gap.low,
        "high": gap.gap.high,
    }


class EntropyGapStage(Stage):
    """Not a stage of `nopsd run`: made on request, sealed as they are."""

    name = NAME
    does = "entropies of student and teacher on their own samples"
    inputs = (names.DATA, names.ROLLOUT, names.SELECT)
    config_keys = (
        "zero_shot",
        "context",
        "prompt",
        "signal.max_batch_tokens",
        "signal.logit_chunk",
        "model.dtype",
        "server.dtype",
        "eval.bootstrap",
    )
    distributed = True

    def asks_server(self, config: Config) -> bool:
        """For the teacher's own samples."""
        return True

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Sample the teacher and measure both sides."""
        work(session, folder, progress)


GAP = EntropyGapStage()
GAP_STAGES = Stages((*STAGES, GAP))
