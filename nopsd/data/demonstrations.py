"""Turn a pool question's own zero-shot response into the solution shown in a demonstration."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from nopsd.data.answers import visible_text
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.data.wording import ANSWERS, Demonstration
from nopsd.errors import ArtefactError

READER = AnswerReader()


def solution_text(response: str, question: Question, mode: str, reader: AnswerReader = READER) -> str | None:
    """What is shown of a response.

    Args:
        response: As sampled.
        question: For the answer of `answer_only`.
        mode: `context.solution`: `final` cuts the thinking off, `full` shows everything, `answer_only` the answer
            in the form that is asked for.
        reader: Of answers.

    Returns:
        None if nothing is left.
    """
    if mode == "full":
        return response.replace("<think>", "").replace("</think>", "").strip() or None
    if mode == "answer_only":
        answer = reader.read_text(response, question)
        return None if answer is None else ANSWERS[reader.format].format(answer)
    visible = visible_text(response, reader.think_open)
    return (visible or "").strip() or None


def demonstrations_for(
    neighbours: Sequence[tuple[str, int]],
    questions: Mapping[str, Question],
    responses: Mapping[tuple[str, int], str],
    mode: str,
    reader: AnswerReader = READER,
) -> list[Demonstration]:
    """Demonstrations in the neighbours' order; those whose response holds no solution are left out.

    Args:
        neighbours: Responses by (uid, sample), nearest first.
        questions: By uid.
        responses: Texts by (uid, sample).
        mode: `context.solution`.
        reader: Of answers.

    Raises:
        ArtefactError: A neighbour's response is not there.
    """
    shown = []
    for uid, sample in neighbours:
        if (uid, sample) not in responses:
            raise ArtefactError(
                f"the contexts show response {sample} of question {uid}, which the rollouts lack: run the select stage "
                "again (--redo select)"
            )
        text = solution_text(responses[uid, sample], questions[uid], mode, reader)
        if text is not None:
            shown.append(Demonstration(questions[uid], text))
    return shown


def display_order(count: int, order: str, seed: str) -> list[int]:
    """Positions (0 = nearest) in the order in which demonstrations are shown."""
    positions = list(range(count))
    if order == "nearest_first":
        return positions
    if order == "random":
        random.Random(seed).shuffle(positions)
        return positions
    return positions[::-1]
