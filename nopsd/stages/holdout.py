"""The questions held out of the pool, as the evaluations and the report use them: no label is read for any of it.

Besides the sampled answers, the first one of each question is scored by the served model (one pass over the prompt):
its own, and where the base model's are there, those too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nopsd.config import EvalConfig
from nopsd.evaluation.artefacts import read_holdout, read_result
from nopsd.evaluation.conclusion import Conclusion, conclude, room_to_gain
from nopsd.evaluation.evaluate import group_by_question
from nopsd.evaluation.unlabelled import Answered, AnswerRow, Comparison, answer_rows, compare
from nopsd.rollout.service import RolloutService
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.rollout.types import Rollout, read_rollouts
from nopsd.run import folder as names
from nopsd.run.session import Session

BASE_ANSWERS = "base_answers"  # in the fingerprint of `evaluate`


def base_answers(session: Session) -> dict[str, Any]:
    """For the fingerprint: the base model's answers that the trained model's are compared with; empty without any."""
    if not session.holdout:
        return {}
    sealed = session.run.manifest(names.EVALUATE_BASE)
    return {BASE_ANSWERS: sealed["files"].get(ROLLOUTS) if sealed else None}


def held_rows(
    session: Session, name: str, rollouts: Sequence[Rollout], connect: Callable[[], RolloutService]
) -> list[AnswerRow]:
    """The held-out questions' answers, as one model gave them.

    Args:
        session: The run's.
        name: `base` or `final`.
        rollouts: The model's responses, those to held-out questions among them.
        connect: Gives a client of a server that holds the model's weights.
    """
    by_uid, reader, n = group_by_question(rollouts), session.eval_reader, session.config.eval.n
    own = nats_a_token(connect(), [by_uid[question.uid][0] for question in session.holdout])
    folder = session.run.stage_dir(names.EVALUATE_BASE)
    base = read_holdout(folder, "base") if name != "base" else []
    if not base:
        return answer_rows(session.holdout, by_uid, n, reader, own, base_nats=own if name == "base" else None)
    found = group_by_question(read_rollouts(folder / ROLLOUTS))
    base_nats = nats_a_token(connect(), [found[question.uid][0] for question in session.holdout])
    return answer_rows(session.holdout, by_uid, n, reader, own, base, base_nats)


def nats_a_token(client: RolloutService, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """uid -> mean -log p of a token of its response, under the served model; empty responses are left out."""
    room = client.max_model_len() - 1  # the server needs one position free
    first = [r for r in rollouts if r.response_ids and len(r.prompt_ids) < room]
    scored = [r.response_ids[: room - len(r.prompt_ids)] for r in first]
    found = client.score([r.prompt_ids for r in first], scored)
    return {r.uid: -sum(logprobs) / len(logprobs) for r, logprobs in zip(first, found, strict=True)}


@dataclass(frozen=True)
class Held:
    """The base's and the trained model's answers to the held-out questions; empty where there are none."""

    base: list[AnswerRow]
    trained: list[AnswerRow]

    def comparison(self, config: EvalConfig) -> Comparison | None:
        """None unless both have answered."""
        both = self.base and self.trained
        return compare(self.base, self.trained, config.bootstrap, config.seed) if both else None


def held_answers(session: Session) -> Held:
    """As the evaluations left them."""
    run = session.run
    base = read_holdout(run.stage_dir(names.EVALUATE_BASE), "base")
    return Held(base, read_holdout(run.stage_dir(names.EVALUATE), "final"))


def held_conclusion(session: Session) -> Conclusion | None:
    """Base and trained model compared, in words; None unless both have answered."""
    found = held_answers(session).comparison(session.config.eval)
    return conclude(found) if found else None


def gain(session: Session) -> list[str]:
    """What the base model could gain from its own votes, by its answers to held-out questions, else to the pool's
    domain's tests, whose labels play no part; nothing where there are neither."""
    folder, domain = session.run.stage_dir(names.EVALUATE_BASE), session.config.data.domain
    rows: Sequence[Answered] = read_holdout(folder, "base")
    if not rows and domain in session.tests:
        rows = read_result(folder, "base", domain, replace(session.config.eval, bootstrap=0)).rows
    return room_to_gain(rows) if rows and len(rows[0].answers) > 1 else []
