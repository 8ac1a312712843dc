"""What a model will be asked, and what would be judged right: shown before anything runs.

In: questions and the judge of the proposed configuration, its renderer where the tokenizer is here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from nopsd.config import Config
from nopsd.data.prompts import PromptRenderer
from nopsd.data.reading import answer_reader
from nopsd.data.records import Question
from nopsd.data.wording import ANSWERS, chat_messages
from nopsd.errors import DataError
from nopsd.evaluation.judge import Judge

SHOWN = 3
LONGEST = 1200  # characters of a prompt that are shown


def preview(
    config: Config, questions: Sequence[Question], judge: Judge, renderer: PromptRenderer | None, count: int = SHOWN
) -> str:
    """The first and the last question and some between, each with its prompt and its right answer."""
    places = sorted({round(i * (len(questions) - 1) / max(1, count - 1)) for i in range(min(count, len(questions)))})
    blocks = []
    for place in places:
        question = questions[place]
        text = _prompt(question, renderer, config)
        text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}\n[...]\n{text[-LONGEST // 2 :]}"
        shown = textwrap.indent(text.strip(), "  | ", lambda line: True)
        blocks.append(f"question {question.uid}\n{shown}\n  {right(question, judge, config)}")
    return "\n\n".join(blocks)


def _prompt(question: Question, renderer: PromptRenderer | None, config: Config) -> str:
    """As the tokenizer renders it; without one its messages."""
    if renderer is not None:
        return str(renderer.tokenizer.decode(renderer.student(question)))
    messages = chat_messages(question, prompt=config.prompt)
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def right(question: Question, judge: Judge, config: Config) -> str:
    """What a response must say to count as right, tried on the judge's own reading of answers."""
    gold = judge.key.get(question.uid)
    if gold is None:
        return "judged right: nothing, it has no answer"
    response, reader = ANSWERS[config.prompt.answer_format].format(gold), answer_reader(config, config.eval.extract)
    read, wanted = reader.read_text(response, question), reader.gold(gold, question)
    if read is None or wanted is None or not reader.same(question)(read, wanted):
        return f"judged right: NOTHING: {gold!r} is no answer that can be read from a response"
    text = next((o.text for o in question.options if o.label == gold and o.text != gold), "")
    return f"judged right: {response}{f' ({text})' if text else ''}"


def problems(questions: Sequence[Question], judge: Judge, config: Config) -> list[str]:
    """Why answers can't be judged, a line; empty where all can or there are none."""
    known = judge.known(questions)
    wrong = [question for question in known if "NOTHING" in right(question, judge, config)]
    found = [f"{len(wrong)} of {len(known)} answers can't be read, {wrong[0].uid}'s for one"] if wrong else []
    try:
        judge.check({"": known})
    except DataError as error:
        found.append(str(error))
    return found
