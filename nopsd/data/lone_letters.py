"""Which labels that stand alone in a text are meant as an answer: the last steps of answer extraction.

In: the visible text of a response, its question. Out: what is written for a label, or None. MMLU-Pro's own expressions
("answer is X", "Answer: X", the last lone capital) also take the C of "answer is Calcium", the pronoun "I", the
article "A", the B of "not B" and one of "A or B". Here a letter counts only where it can be read as the choice: what is
wrong or missing is not an answer. Every expression is linear in the text's length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from nopsd.data.labels import Labels, core
from nopsd.data.records import Question

# Scripts in which a neighbouring character makes a letter part of a word, a formula or a number. Chinese, Japanese and
# Korean write letters without a space beside them: 答案是B.
_WORD = "0-9A-Za-z_°\u00aa\u00b2\u00b3\u00b5\u00b9\u00ba\u00c0-\u024f\u0300-\u052f\u2070-\u209f"
_DRESS = r"[\s*_$:：\"'“(\[]{0,8}(?:\\(?:text|mathrm|mathbf|textbf)\{)?"
_ANSWER_IS = re.compile(rf"answer is{_DRESS}", re.IGNORECASE)
_OPTION_IS = re.compile(rf"\b(?:correct|right|best) (?:option|choice|letter|label|one) is{_DRESS}", re.IGNORECASE)
_ANSWER_COLON = re.compile(rf"(?:answer|ответ|答案)[\s*_\"]{{0,4}}[:：]{_DRESS}", re.IGNORECASE)
_REACH = 60  # characters before and after a letter that are looked at
MOST = 200  # lone capitals that are looked at, from the end; (chosen): a bound for degenerate outputs


def _any(words: str, *more: str) -> str:
    """Words between blanks, and expressions that hold some, as alternatives."""
    return "(?:" + "|".join([*words.split(), *more]) + ")"


_NT = "n['’]t"
_DENIALS = _any(
    "not never nor neither except without unlike",
    f"(?:is|was|are|ca|could){_NT}(?: be)?",
    "cannot be",
    "rather than",
    "instead of",
    "rul(?:es?|ed|ing) out",
    "(?:eliminat|exclud)(?:e|es|ed|ing)",
    "discard(?:s|ed)?",
    "reject(?:s|ed|ing)?",
)
_BETWEEN = _any("be option choice answer letter necessarily the")
_NOT_BEFORE = re.compile(
    rf"(?:\b{_DENIALS}(?: {_BETWEEN})*[\s*(\"'“]*|{_any('不是 并非 不选 而非 排除 не')}[\s*(]*)$",
    re.IGNORECASE,
)
_WRONG = _any(
    r"wrong incorrect false impossible unlikely out\b excluded eliminated fails cannot 不对 不正确 错",
    r"not\b(?! only)(?!\s+[A-Z]\b)",
    f"(?:is|was|does|ca|could){_NT}",
    "does not",
    "ruled out",
)
_VERB = _any("is was are seems looks", "(?:would|must|can) be")
_NOT_AFTER = re.compile(
    rf"[\s*)\"'”.:,–—-]{{0,4}}(?:{_VERB}\s+)?(?:{_any('also clearly definitely probably')}\s+)?{_WRONG}",
    re.IGNORECASE,
)
_DOUBT = re.compile(rf"(?:{_NT}|\b{_any('not never whether if unless doubt')})\b[^.,;:!?\n]*$", re.I)
_LINK = _any(r"\bor\b \band\b / , ， 、 & \bvs\b\.? 或者? 和 \boder\b \bou\b \bили\b")
_JOINT = rf"[\s*)(\"'”“\]\[}}{{$]{{0,6}}{_LINK}[\s*)(\"'”“\]\[}}{{$]{{0,4}}(?:option |choice |or |and )?[\s*(]{{0,3}}"
_DIGIT = re.compile(r"\d")
_DRESSED_BEFORE = re.compile(r"(?:[(\[]|\*\*|(?:^|\n)[\s*>]*)$")
_DRESSED_AFTER = re.compile(r"[)\]]|\*\*|[.*\s]*(?:\n|$)")
_NAMED_LABEL = re.compile(r"\b(?:option|choice|answer|label|letter|number)[\s*(:]+$", re.IGNORECASE)
# A letter that names a thing, not an option; or a number's unit. No form tells "plan B" from "pick B": without
# this list and _SPECIES 95 more of 61,004 texts without an answer (questions of MMLU-Pro and SciKnowEval) give one.
_NAMES = _any(
    r"vitamin hepatitis influenza photosystem type phase class grade group war part fig(?:ure)?\.? table appendix "
    "chromosome section equation theorem lemma factor complement blood plan point"
)
_NAMED = re.compile(rf"(?:\b{_NAMES}|\d)\s+$", re.IGNORECASE)
_KEY_OR_SYMBOL = re.compile(r"[\"']\s*:|\s*[=^+≈]|\s+[<>]\s|\s*\\(?:text|times|cdot)|(?:\s?/\s?)(?:[a-z]|\d)")
_FORMULA = re.compile(r"(?<![A-Za-z])[A-Za-z0-9)]\s*[=+×·^/]\s*$")
_SPECIES = re.compile(rf"\.\s+{_any('coli elegans subtilis melanogaster cerevisiae rerio thaliana faecalis aureus')}\b")
_NEXT_WORD = re.compile(r"[ \t]+([^\W\d_]+)")
_ROMAN = re.compile(r"\b(?:I{2,3}|IV|VI{0,3})\b")
# What can follow the letter A, or I, and not the article, or the pronoun.
_AFTER_I = frozenset(
    "is because since as seems appears fits matches has does rather instead over due for follows".split()
)
_AFTER_A = _AFTER_I | frozenset(
    "was seemed would could can will must should did and or but which based given with than from by in on at to when "
    "while so then holds states says describes gives".split()
)


@dataclass(frozen=True)
class _Marks:
    """Expressions of a question's labels in prose."""

    lone: re.Pattern[str]
    joined_after: re.Pattern[str]
    joined_before: re.Pattern[str]
    listed: re.Pattern[str]


@lru_cache(maxsize=256)
def _marks(source: str) -> _Marks:
    before, after = rf"(?<![{_WORD}])(?<![{_WORD}]['’‑-])", rf"(?![{_WORD}])(?!['’‑-][{_WORD}])"
    if _DIGIT.search(source):  # 2 of 2.5 is no label
        before, after = rf"{before}(?<!\d[.,])", rf"{after}(?![.,]\d)"
    return _Marks(
        re.compile(rf"{before}({source}){after}"),
        re.compile(rf"{_JOINT}{source}(?![{_WORD}'’])(?!\s+[a-z])"),
        re.compile(rf"(?<![{_WORD}]){source}{_JOINT}$"),
        re.compile(rf"^[\s*>-]{{0,6}}\(?({source})[).:]+[* ]+([^\n]*)", re.MULTILINE),
    )


def stated_letter(text: str, question: Question, labels: Labels, lone_from: int = 0) -> str | None:
    """The label after "answer is" (the first, as MMLU-Pro searches), else after "Answer:" (the last), else after "the
    correct option is", else the last that stands alone and isn't a word, a symbol, a denial or one of several left
    open. It may be none of the options.

    `lone_from`: where those that stand alone may begin."""
    marks = _marks(labels.source)
    roman = not labels.roman and bool(_ROMAN.search(text))
    doubted: set[int] = set()
    for place in _ANSWER_IS.finditer(text):
        found = marks.lone.match(text, place.end())
        if found and _doubted(text, place.start()):
            doubted.add(found.start())
        elif found and _stated(text, found, question, roman, marks):
            return found[1]
    for phrase in (_ANSWER_COLON, _OPTION_IS):
        places = (p for p in phrase.finditer(text) if phrase is _ANSWER_COLON or not _doubted(text, p.start()))
        behind = (marks.lone.match(text, place.end()) for place in places)
        stated = [m for m in behind if m and _stated(text, m, question, roman, marks)]
        if stated:
            return stated[-1][1]
    passed = doubted | _listed(text, question, labels, marks)
    for found in reversed(list(marks.lone.finditer(text, lone_from))[-MOST:]):
        if found.start() in passed or not _is_choice(text, found, question, roman):
            continue
        if labels.capital or _dressed(text, found, question):
            return None if _joined(text, found, marks) else found[1]
    return None


def _doubted(text: str, at: int) -> bool:
    return bool(_DOUBT.search(text[max(0, at - _REACH) : at]))


def _stated(text: str, found: re.Match[str], question: Question, roman: bool, marks: _Marks) -> bool:
    """Behind "answer is": (I) in brackets is the label, whatever numerals stand elsewhere."""
    around = text[max(0, found.start() - 1) : found.start()] + text[found.end() : found.end() + 1]
    bracketed = around in ("()", "[]")
    return _is_choice(text, found, question, roman and not bracketed) and not _joined(text, found, marks)


def _dressed(text: str, found: re.Match[str], question: Question) -> bool:
    """A number or small letter is no word of the text: in brackets or bold, behind "option", before its option's text,
    or alone on its line."""
    before, after = text[max(0, found.start() - _REACH) : found.start()], text[found.end() : found.end() + _REACH]
    if after[:1] in (":", ".", ")") and _repeats_option(found[1], after, question):
        return True
    return bool(_NAMED_LABEL.search(before) or (_DRESSED_BEFORE.search(before) and _DRESSED_AFTER.match(after)))


def _listed(text: str, question: Question, labels: Labels, marks: _Marks) -> set[int]:
    """Where lines repeat the question's options, two or more of them: what is quoted is not chosen."""
    texts = {option.label: _plain(option.text) for option in question.options}
    places = {
        m.start(1): m[1] for m in marks.listed.finditer(text) if _plain(m[2]) == texts.get(labels.of(m[1]) or m[1])
    }
    return set(places) if len(set(places.values())) > 1 else set()


def _is_choice(text: str, found: re.Match[str], question: Question, roman: bool) -> bool:
    before, after = text[max(0, found.start() - _REACH) : found.start()], text[found.end() : found.end() + _REACH]
    if _NAMED.search(before) or _FORMULA.search(before) or _NOT_BEFORE.search(before):
        return False
    if _repeats_option(found[1], after, question):
        return True
    if found[1] in "AIa" and ((found[1] == "I" and roman) or _is_english(found[1].upper(), after)):
        return False
    return not (_KEY_OR_SYMBOL.match(after) or _SPECIES.match(after) or _NOT_AFTER.match(after))


def _is_english(letter: str, after: str) -> bool:
    """The article "A" or the pronoun "I": a word follows that can't follow an option's letter."""
    following = _NEXT_WORD.match(after)
    return following is not None and following[1].lower() not in (_AFTER_A if letter == "A" else _AFTER_I)


def _repeats_option(letter: str, after: str, question: Question) -> bool:
    """The option's own text stands behind its letter: "B. False" denies nothing."""
    own = next((_plain(option.text) for option in question.options if core(option.label) == letter), "")
    return bool(own) and _plain(after.lstrip(" \t)].:*–—-")).startswith(own[: _REACH // 2])


def _joined(text: str, found: re.Match[str], marks: _Marks) -> bool:
    """One of several: "A or B", "A, B and C", "A/B"."""
    before = text[max(0, found.start() - _REACH) : found.start()]
    return bool(marks.joined_after.match(text, found.end()) or marks.joined_before.search(before))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().strip(" .*")
