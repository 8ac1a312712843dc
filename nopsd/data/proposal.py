"""What the columns of a user's file mean: the `data` settings that fit it, each with the reason. Pure.

In: rows as dictionaries (answers included: a person is shown the proposal, nothing trains on it). Out: a `Proposal`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nopsd.data.answer_marks import boxed
from nopsd.data.columns import ONE_OPTION, is_one_turn
from nopsd.data.gold import GSM8K
from nopsd.data.options import parsed
from nopsd.data.sources.edu_feedback import PHRASES
from nopsd.errors import DataError

Rows = Sequence[Mapping[str, Any]]
# Data sets with a module of their own, by the columns that give them away.
BUILT_IN = {
    "mmlu_pro": {"question_id", "question", "options", "answer", "answer_index", "category"},
    "sciknoweval": {"question", "choices", "answerKey", "type", "domain", "details"},
    "edu_feedback": {"id", "input", "label"},
    "svamp": {"ID", "Body", "Question", "Equation", "Answer", "Type"},
}
# Names of columns, the likeliest first; of some other languages too.
QUESTION = (
    "question query problem prompt input instruction text sentence comment review title claim "
    "frage aufgabe fragestellung pregunta pergunta questão domanda enunciado vraag pytanie soru вопрос "
    "问题 题目 質問 問題 질문"
).split()
BEFORE = (
    "instruction context passage body article paragraph story premise background kontext".split()
)  # what is asked about
OPTIONS = (
    "options choices candidates alternatives answers optionen antworten auswahl choix opciones opções opzioni варианты "
    "选项 選択肢 선택지"
).split()
ANSWER = (
    "answer answerkey answerindex answeridx correctanswer rightanswer goldanswer groundtruth referenceanswer "
    "expectedanswer finalanswer bestanswer correctoption cop correct gold reference target label solution key "
    "antwort lösung réponse respuesta resposta risposta ответ 答案 正解 答え 정답"
).split()
ID = "id uid questionid qid guid uuid idx index no nr number".split()
MOST_CLASSES, ROWS_A_CLASS = 10, 5  # labels are taken for classes, and shown as choices, up to here
NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")
LONG_ANSWER = 60  # characters, on average: no model gives such a text word for word


@dataclass
class Proposal:
    """Keys of `data` to set, why by key, and what the user should know first. `numbers`: every answer is one."""

    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    numbers: bool = False

    def set(self, key: str, value: Any, reason: str) -> None:
        self.settings[key], self.reasons[key] = value, reason


def propose(rows: Rows, name: str) -> Proposal:
    """Settings for such rows; `name`: what the domain is called. DataError if no column can be the question."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    found = Proposal()
    if (built_in := _built_in(rows, columns)) is not None:
        _propose_built_in(found, rows, built_in)
        return found
    found.set("name", "file", f"columns: {', '.join(columns)}")
    found.set("domain", name, "what these questions are called in tables")
    used = _question(found, rows, columns)
    used |= _id(found, rows, columns) | _options(found, rows, columns)
    _topic(found, rows, columns)
    _answer(found, rows, [column for column in columns if column not in {*used, "domain"}])
    return found


def _built_in(rows: Rows, columns: Sequence[str]) -> str | None:
    for name, needed in BUILT_IN.items():
        if needed <= set(columns) and (name != "edu_feedback" or {row.get("label") for row in rows} <= set(PHRASES)):
            return name
    return None


def _propose_built_in(found: Proposal, rows: Rows, name: str) -> None:
    found.set("name", name, "recognised by its columns")
    domain = _commonest(row.get("domain") for row in rows) if name == "sciknoweval" else name
    found.set("domain", domain, "of the file" if name == "sciknoweval" else "the data set's only one")
    if name == "sciknoweval":
        found.set("types", [_commonest(row.get("type") for row in rows)], "the file's commonest type")
    found.numbers = name == "svamp"


def _commonest(values: Any) -> str:
    return str(Counter(map(str, values)).most_common(1)[0][0])


def _by_name(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns of these names, in the names' order; case, spaces and underscores make no difference."""
    known = {"".join(filter(str.isalnum, column.casefold())): column for column in reversed(columns)}
    return [known[name] for name in names if name in known]


def _question(found: Proposal, rows: Rows, columns: Sequence[str]) -> set[str]:
    texts = [c for c in columns if sum(_is_question(row.get(c)) for row in rows) > len(rows) / 2]
    if not texts:
        raise DataError(
            f"no column holds text, or a chat of one user turn (columns: {', '.join(columns) or 'none'}): a question "
            "column is needed, without the answer"
        )
    named = _by_name(texts, QUESTION)
    if "instruction" in map(str.casefold, named[:-1]):  # what to do, and with what
        named = [c for c in named if c.casefold() != "instruction"]
    other = {*_by_name(texts, ANSWER), *_by_name(texts, OPTIONS), *(c for c in texts if _holds_options(rows, c))}
    free = [c for c in texts if c not in other] or texts
    chats = [c for c in free if any(isinstance(row.get(c), list) for row in rows)]
    longest = max(chats or free, key=lambda c: sum(len(str(r.get(c) or "")) for r in rows))
    asked = named[0] if named else longest
    before = [c for c in _by_name(texts, BEFORE) if c != asked][:1]
    found.set("question_column", asked, "by its name" if named else "the column with the longest texts")
    if before:
        found.set("context_column", before[0], "by its name: stands before the question")
    return {asked, *before}


def _is_question(value: Any) -> bool:
    if isinstance(value, list):  # a chat, as trainers by reinforcement learning have them
        return is_one_turn(value)
    return isinstance(value, str) and bool(value.strip())


def _id(found: Proposal, rows: Rows, columns: Sequence[str]) -> set[str]:
    for column in _by_name(columns, ID):
        values = [str(row.get(column, "")) for row in rows]
        if all(values) and len(set(values)) == len(values):
            found.set("id_column", column, "unique in every row")
            return {column}
    return set()


def _options(found: Proposal, rows: Rows, columns: Sequence[str]) -> set[str]:
    for column in [*_by_name(columns, OPTIONS), *(c for c in columns if _holds_options(rows, c))]:
        if column != found.settings["question_column"] and any(_is_collection(row.get(column)) for row in rows):
            found.set("options_column", column, "a list or mapping in every row")
            return {column}
    several = [column for column in columns if ONE_OPTION.fullmatch(column)]
    if len(several) > 1:
        found.set("option_columns", several, "a column each")
        return set(several)
    found.set("options_column", None, "no column holds options: open questions")
    return set()


def _holds_options(rows: Rows, column: str) -> bool:
    """Whether a column of any name holds options: lists of texts, of which the answers name one by text or place."""
    answers = [c for c in _by_name(list(rows[0]), ANSWER) if c != column] if rows else []
    return bool(answers) and all(_is_one_of(row.get(answers[0]), row.get(column)) for row in rows)


def _is_one_of(answer: Any, options: Any) -> bool:
    texts = _value(options)
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        return False
    places = {*map(str, range(len(texts) + 1)), *string.ascii_uppercase[: len(texts)]}
    return answer in (None, "") or str(answer) in texts or str(answer).strip().upper() in places


def _value(cell: Any) -> Any:
    """A list or mapping that a CSV's cell writes, as the reader of options takes it; anything else as it is."""
    return parsed(cell) if isinstance(cell, str) and cell[:1] in ("[", "{") else cell


def _is_collection(value: Any) -> bool:
    """A list or mapping of several texts or numbers; labels and texts may be two lists."""
    value = _value(value)
    if isinstance(value, dict) and {"text", "label"} <= set(value):
        return True
    members = list(value.values()) if isinstance(value, dict) else value
    return isinstance(members, list) and len(members) > 1 and not any(isinstance(m, list) for m in members)


def _topic(found: Proposal, rows: Rows, columns: Sequence[str]) -> None:
    """A column `domain` is read whatever else is said: its commonest value is the pool's domain."""
    values = Counter(str(row["domain"]) for row in rows if row.get("domain") not in (None, ""))
    if values:
        found.set("domain", values.most_common(1)[0][0], f"the commonest of: {_listed(values)}")


def _listed(values: Counter[str]) -> str:
    named = [value for value, _ in values.most_common(6)]
    return ", ".join(named) + (", ..." if len(values) > len(named) else "")


def _answer(found: Proposal, rows: Rows, columns: Sequence[str]) -> None:
    filled = [c for c in _by_name(columns, ANSWER) if any(row.get(c) not in (None, "") for row in rows)]
    named = [c for c in filled if not any(isinstance(row.get(c), Mapping) for row in rows)]
    inside = [c for c in columns if any(isinstance(row.get(c), Mapping) for row in rows)]
    if not named and inside:
        found.warnings.append(
            f"an answer inside a mapping isn't read (column {', '.join(inside)}): write it into a column of its own"
        )
    if not named:
        found.warnings.append(
            "no column is named as answers are (answer, label, correct answer, ...), so every question goes into the "
            "pool and there is no before/after table; if one holds them, set data.answer_column"
        )
        return
    column = named[0]
    values = [row[column] for row in rows if row.get(column) not in (None, "")]
    found.set("answer_column", column, f"filled in {len(values)} of {len(rows)} rows; read by the evaluation alone")
    if len(values) < len(rows):
        found.warnings.append(
            f"{len(rows) - len(values)} rows have no answer in column {column}: questions that fall into the test "
            "need one; put the others into a file of their own"
        )
    if found.settings.get("options_column") or found.settings.get("option_columns"):
        _numbered(found, values)
    else:
        _free(found, values)


def _numbered(found: Proposal, values: Sequence[Any]) -> None:
    """Answers that are options' numbers, where the numbers themselves don't say from where they count."""
    numbers = [int(v) for v in values if not isinstance(v, bool) and str(v).strip().isdigit()]
    if len(numbers) == len(values) and min(numbers) > 0:
        found.set("first_index", 1, "answers are options' numbers, and none is 0")


def _free(found: Proposal, values: Sequence[Any]) -> None:
    """Answers without options: behind a mark, of a few classes, or text."""
    texts = [str(value) for value in values]
    if all(GSM8K in text for text in texts):
        found.reasons["answer_column"] += "; worked solutions: the answer is what follows ####"
        found.numbers = all(_is_number(text.rpartition(GSM8K)[2]) for text in texts)
        return
    if all(boxed(text) is not None for text in texts):
        found.reasons["answer_column"] += "; worked solutions: the answer is what stands in the last \\boxed{}"
        return
    classes = Counter(texts)
    worded = all(len(name) > 1 and not name.replace(".", "").isdigit() for name in classes)
    if 1 < len(classes) <= MOST_CLASSES and len(texts) >= ROWS_A_CLASS * len(classes) and worded:
        found.set("choices", sorted(classes), f"the {len(classes)} answers there are, shown with every question")
        found.set("instruction", "Which of the phrases below fits this text?", "say here what is asked")
    elif 1 < len(classes) <= MOST_CLASSES and len(texts) >= 2 * ROWS_A_CLASS * len(classes):
        found.warnings.append(
            f"the answers are only {', '.join(sorted(classes))}: if these are the numbers of classes, write the names "
            "of the classes into the file, or say what each number means in data.instruction"
        )
    elif all(map(_is_number, texts)):
        found.numbers = True
    elif sum(map(len, texts)) > LONG_ANSWER * len(texts):
        found.warnings.append(
            "the answers are long texts: a response counts as right only if it gives one word by word"
        )


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None
