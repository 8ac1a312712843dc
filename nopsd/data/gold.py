"""Gold answers as data sets write them, as the labels that responses are judged by. Evaluation alone reads them.

An answer is its option's label, the option's text, the name of its column, or its index. All rows of a data set are
read alike where one of these fits them all, in this order: a blood group "A" among options A, B, AB and O is a text
there, and 1 among labels 1 to 4 a label. Indices count from 0 if one is 0, from 1 if one is the number of options;
where neither is seen, `data.first_index` has to say it.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nopsd.data.answer_marks import boxed
from nopsd.data.answers import normalize_text_answer
from nopsd.data.labels import core
from nopsd.data.records import AnswerKey, Question
from nopsd.data.rows import blank
from nopsd.errors import DataError

log = logging.getLogger(__name__)
GSM8K = "\n#### "  # what stands between a worked solution and its result
_LABELLED = re.compile(r"\s*[(\[]?(\w+)[)\].:]+\s+(\S.*)", re.DOTALL)  # "B) its text"


@dataclass(frozen=True)
class Given:
    """A row's answer. `names`: column -> label, where each option has a column; None for one that is empty there."""

    place: str
    question: Question
    value: Any
    names: Mapping[str, str | None]


def answer_key(given: Sequence[Given], first_index: int | None = None) -> AnswerKey:
    """uid -> gold answer: a label, or text. What fits no option stays as it is, and is refused where it is judged."""
    given = [_single(one) for one in given if not _empty(one.value)]
    with_options = [one for one in given if one.question.options]
    by_index = _by_index(with_options, first_index)
    readers: Sequence[Callable[[Given], str | None]] = (_by_label, _by_text, by_index)
    reads = next((read for read in readers if all(read(one) is not None for one in with_options)), _by_label_or_text)
    key: AnswerKey = {}
    for one in given:
        label = reads(one) if one.question.options else _open_answer(one)
        key[one.question.uid] = str(one.value) if label is None else label
    _report_contradictions(given, key)
    return key


def _empty(value: Any) -> bool:
    return blank(value) or value == [] or (isinstance(value, str) and not value.strip())


def _single(one: Given) -> Given:
    """A list of one answer is that answer. DataError for several, and for what is no answer."""
    value = one.value
    if isinstance(value, list):
        if len(value) > 1:
            raise DataError(f"{one.place}: {len(value)} answers to question {one.question.uid}: keep one")
        value = value[0]
    if isinstance(value, Mapping | list):
        raise DataError(
            f"{one.place}: the answer is a {type(value).__name__}: give a label, an option's text or an index"
        )
    return Given(one.place, one.question, value, one.names)


def _open_answer(one: Given) -> str:
    whole = isinstance(one.value, float) and one.value.is_integer()
    text = str(int(one.value) if whole else one.value)  # 51.0 is what parsers make of a 51
    if GSM8K in text:
        return text.rpartition(GSM8K)[2].strip()
    in_box = boxed(text)  # worked solutions as MATH has them
    return text if in_box is None else in_box


def _by_label(one: Given) -> str | None:
    text = str(one.value).strip()
    labels = {core(option.label).casefold(): option.label for option in one.question.options}
    label = one.names.get(text) or labels.get(core(text).casefold())
    found = _LABELLED.fullmatch(text) if label is None else None
    if found and (label := labels.get(found[1].casefold())):
        own = next(option.text for option in one.question.options if option.label == label)
        return label if normalize_text_answer(found[2]) == normalize_text_answer(own) else None
    return label


def _by_text(one: Given) -> str | None:
    text = normalize_text_answer(str(one.value))
    labels = [option.label for option in one.question.options if normalize_text_answer(option.text) == text]
    return labels[0] if len(labels) == 1 else None


def _by_label_or_text(one: Given) -> str | None:
    return _by_label(one) or _by_text(one)


def _index(one: Given) -> int | None:
    value = one.value
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    return int(value) if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() else None


def _by_index(given: Sequence[Given], first: int | None) -> Callable[[Given], str | None]:
    """Reads indices from `first`; found out where it is None."""
    indices = [_index(one) for one in given]
    from_0 = any(index == 0 for index in indices)
    from_1 = any(index == len(_places(one)) for index, one in zip(indices, given, strict=True))
    start = first if first is not None else 0 if from_0 else 1 if from_1 else None

    def read(one: Given) -> str | None:
        index = _index(one)
        if index is None:
            return None
        if start is None:
            raise DataError(
                f"{one.place}: the answer {one.value} is the index of an option, from 0 or from 1? No row says it: set "
                "data.first_index=0 or 1"
            )
        places = _places(one)
        return places[index - start] if 0 <= index - start < len(places) else None

    return read


def _places(one: Given) -> Sequence[str | None]:
    """The labels in the order in which an index counts them: columns that are empty in this row count too."""
    return list(one.names.values()) or [option.label for option in one.question.options]


def _report_contradictions(given: Sequence[Given], key: AnswerKey) -> None:
    """One question asked twice, with different answers: a line names the first of them."""
    seen: dict[tuple[str, ...], tuple[str, Given]] = {}
    found = []
    for one in given:
        question = one.question
        texts = {option.label: normalize_text_answer(option.text) for option in question.options}
        answer = texts.get(key[question.uid], normalize_text_answer(key[question.uid]))
        same = (normalize_text_answer(question.question), *sorted(texts.values()))
        before, first = seen.setdefault(same, (answer, one))
        if before != answer:
            found.append(f"{first.place} and {one.place}")
    if found:
        log.warning("%d questions are asked twice with different answers, such as %s", len(found), found[0])
