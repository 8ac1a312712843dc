"""What each method of training reads from the run folder: the questions it learns from, and its algorithm.

In: a session. Out: uids, the algorithm with its prompts or responses, and facts for the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nopsd.config import METHODS
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError
from nopsd.run.session import Session
from nopsd.signals.agreement import answers_of
from nopsd.stages.contexts import control_prompts, teacher_prompts
from nopsd.stages.data import check_prompts
from nopsd.train.losses.tile import auxiliaries

if TYPE_CHECKING:
    from nopsd.train.run import Algorithm

    Prepared = tuple[list[str], Algorithm, dict[str, int]]  # what is trained on, how, and facts for the plan


def prepared(session: Session) -> Prepared:
    """What the method trains on, and how, on all ranks. ConfigError for a method that trains nothing."""
    method = METHODS[session.config.method]
    if method.trainer is None:
        raise ConfigError(f"method={session.config.method} trains nothing: name another method")
    return (method.prepare or PREPARE.get(session.config.method) or PREPARE[method.trainer])(session)


def distillation(session: Session) -> Prepared:
    """Prompts of the teacher for the selected questions, and of the objective's other distributions."""
    from nopsd.train.algorithms.distill import Distillation
    from nopsd.train.gain import sample_of

    assert session.ranks is not None
    selected = session.run.selection().uids
    algorithm = Distillation(
        teacher_prompts=demonstrated(session, selected),
        aux_prompts=auxiliary_prompts(session, session.ranks, selected),
        stored=sample_of(selected, session.rollouts),
        style_ids=tuple(single_token_ids(session.tokenizer, session.config.train.style_words)),
        retained=retained_prompts(session),
    )
    return selected, algorithm, {"retained": len(algorithm.retained)} if algorithm.retained else {}


def retained_prompts(session: Session) -> dict[str, list[int]]:
    """What student and teacher read of the questions from elsewhere, by uid. DataError if one is too long."""
    check_prompts(
        session.config, session.renderer, session.retained, session.config.train.max_response, "train.max_response"
    )
    return {question.uid: session.renderer.student(question) for question in session.retained}


def finetuning(session: Session) -> Prepared:
    """The selected questions' voted responses, or with sft.train_on_labels the outputs given for them."""
    from nopsd.train.algorithms.sft import Finetuning
    from nopsd.train.given import given_outputs
    from nopsd.train.voting import keep_voted

    selected = session.run.selection().uids
    if session.config.sft.train_on_labels:
        outputs, dropped = given_outputs(selected, session.rollouts)
        return list(outputs), Finetuning(responses=outputs), {"given_outputs": len(outputs), "dropped_given": dropped}
    answers = answers_of(session.rollouts, session.questions, session.reader)
    voted = keep_voted(selected, session.rollouts, answers, session.config.sft, session.config.train.seed).checked()
    responses = {uid: [r.response_ids for r in rows] for uid, rows in voted.responses.items()}
    return list(responses), Finetuning(responses=responses), voted.counts()


def grpo(session: Session) -> Prepared:
    """The selected questions, for the reward to read answers by."""
    from nopsd.train.algorithms.grpo import Grpo

    return session.run.selection().uids, Grpo(questions=session.questions, reader=session.reader), {}


def opsa(session: Session) -> Prepared:
    """The selected questions alone."""
    from nopsd.train.algorithms.opsa import Opsa

    return session.run.selection().uids, Opsa(), {}


def u_opsd(session: Session) -> Prepared:
    """The selected questions, whose rollouts teach each other."""
    from nopsd.train.algorithms.voted import Uopsd

    return session.run.selection().uids, Uopsd(**voting(session)), {}


def ttpo(session: Session) -> Prepared:
    """The selected questions, whose agreeing rollouts are distilled and others penalised."""
    from nopsd.train.algorithms.voted import Ttpo

    return session.run.selection().uids, Ttpo(**voting(session)), {}


def voting(session: Session) -> dict[str, Any]:
    """What votes over a step's rollouts need."""
    style_ids = tuple(single_token_ids(session.tokenizer, session.config.train.style_words))
    return {
        "questions": session.questions,
        "renderer": session.renderer,
        "reader": session.reader,
        "style_ids": style_ids,
    }


# By trainer; those of a method of its own come before.
PREPARE = {"distill": distillation, "sft": finetuning, "grpo": grpo, "opsa": opsa, "u_opsd": u_opsd, "ttpo": ttpo}


def demonstrated(session: Session, selected: list[str], ask: bool = True) -> dict[str, TeacherPrompt]:
    """The teacher's prompts: of method opsd_oracle with a right solution, else with the select stage's contexts."""
    if not METHODS[session.config.method].shows_answers:
        return teacher_prompts(session, selected, ask=ask)
    from nopsd.evaluation.oracle import right_solutions

    asked = [session.questions[uid] for uid in selected]
    shown = right_solutions(session.judge, asked, session.rollouts, session.reader)
    longest = session.config.context.max_prompt
    return {q.uid: session.renderer.teacher(q, [shown[q.uid]], longest, ask=ask) for q in asked}


def auxiliary_prompts(session: Session, ranks: Ranks, selected: list[str]) -> dict[str, dict[str, list[int]]]:
    """Further prompts that distill.target and distill.contrast read the teacher at. Collective."""
    wanted, prompts = auxiliaries(session.config.distill), {}
    if "ctx_only" in wanted:
        prompts["ctx_only"] = demonstrated(session, selected, ask=False)
    if "random_ctx" in wanted:
        prompts["random_ctx"] = control_prompts(session, ranks, selected)
    return {name: {uid: prompt.ids for uid, prompt in found.items()} for name, found in prompts.items()}


def single_token_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Ids of the words, with and without a space before, capital and small, that are one token each."""
    forms = {f"{space}{form}" for word in words for form in (word, word.lower()) for space in ("", " ")}
    encoded = [tokenizer.encode(form, add_special_tokens=False) for form in sorted(forms)]
    return sorted({ids[0] for ids in encoded if len(ids) == 1})
