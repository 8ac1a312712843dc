"""Which capital letters of a text are meant as an answer: the last steps of answer extraction.

In: the visible text of a response, its question. Out: a letter A to J, or None. MMLU-Pro's own expressions
("answer is X", "Answer: X", the last lone capital) also take the C of "answer is Calcium", the pronoun "I", the
article "A", the B of "not B" and one of "A or B". Here a letter counts only where it can be read as the choice: what is
wrong or missing is not an answer. Every expression is linear in the text's length.
"""

from __future__ import annotations

import re

from nopsd.data.records import Question

# Scripts in which a neighbouring character makes a letter part of a word, a formula or a number. Chinese, Japanese and
# Korean write letters without a space beside them: 答案是B.
_WORD = "0-9A-Za-z_°\u00aa\u00b2\u00b3\u00b5\u00b9\u00ba\u00c0-\u024f\u0300-\u052f\u2070-\u209f"
_LONE = re.compile(rf"(?<![{_WORD}])(?<![{_WORD}]['’‑-])([A-J])(?![{_WORD}])(?!['’‑-][{_WORD}])")
_DRESS = r"[\s*_$:：\"'“(\[]{0,8}(?:\\(?:text|mathrm|mathbf|textbf)\{)?"
_ANSWER_IS = re.compile(rf"answer is{_DRESS}", re.IGNORECASE)
_ANSWER_COLON = re.compile(rf"answer[\s*_\"]{{0,4}}[:：]{_DRESS}", re.IGNORECASE)
_REACH = 60  # characters before and after a letter that are looked at
MOST = 200  # lone capitals that are looked at, from the end; (chosen): a bound for degenerate outputs


def _any(*words: str) -> str:
    return "(?:" + "|".join(words) + ")"


_NT = "n['’]t"
_DENIALS = _any(
    "not",
    "never",
    "nor",
    "neither",
    f"(?:is|was|are|ca|could){_NT}(?: be)?",
    "cannot be",
    "except",
    "without",
    "unlike",
    "rather than",
    "instead of",
    "rul(?:es?|ed|ing) out",
    "eliminat(?:e|es|ed|ing)",
    "exclud(?:e|es|ed|ing)",
    "discard(?:s|ed)?",
    "reject(?:s|ed|ing)?",
)
_BETWEEN = _any("be", "option", "choice", "answer", "letter", "necessarily", "the")
_NOT_BEFORE = re.compile(
    rf"(?:\b{_DENIALS}(?: {_BETWEEN})*[\s*(\"'“]*|{_any('不是', '并非', '不选', '而非', '排除', 'не')}[\s*(]*)$",
    re.IGNORECASE,
)
_WRONG = _any(
    r"not\b(?! only)(?!\s+[A-J]\b)",
    f"(?:is|was|does|ca|could){_NT}",
    "cannot",
    "does not",
    "wrong",
    "incorrect",
    "false",
    "impossible",
    "unlikely",
    r"out\b",
    "excluded",
    "eliminated",
    "ruled out",
    "fails",
    "不对",
    "不正确",
    "错",
)
_VERB = _any("is", "was", "are", "seems", "looks", "would be", "must be", "can be")
_NOT_AFTER = re.compile(
    rf"[\s*)\"'”.:,–—-]{{0,4}}(?:{_VERB}\s+)?(?:{_any('also', 'clearly', 'definitely', 'probably')}\s+)?{_WRONG}",
    re.IGNORECASE,
)
_DOUBT = re.compile(rf"(?:{_NT}|\b{_any('not', 'never', 'whether', 'if', 'unless', 'doubt')})\b[^.,;:!?\n]*$", re.I)
_LINK = _any(
    r"\bor\b", r"\band\b", "/", ",", "，", "、", "&", r"\bvs\b\.?", "或者?", "和", r"\boder\b", r"\bou\b", r"\bили\b"
)
_JOINT = rf"[\s*)(\"'”“\]\[}}{{$]{{0,6}}{_LINK}[\s*)(\"'”“\]\[}}{{$]{{0,4}}(?:option |choice |or |and )?[\s*(]{{0,3}}"
_JOINED_AFTER = re.compile(rf"{_JOINT}[A-J](?![{_WORD}'’])(?!\s+[a-z])")
_JOINED_BEFORE = re.compile(rf"(?<![{_WORD}])[A-J]{_JOINT}$")
# A letter that names a thing, not an option; or a number's unit.
_NAMES = _any(
    "vitamin",
    "hepatitis",
    "influenza",
    "photosystem",
    "type",
    "phase",
    "class",
    "grade",
    "group",
    "war",
    "part",
    r"fig(?:ure)?\.?",
    "table",
    "appendix",
    "chromosome",
    "section",
    "equation",
    "theorem",
    "lemma",
    "factor",
    "complement",
    "blood",
    "plan",
    "point",
)
_NAMED = re.compile(rf"(?:\b{_NAMES}|\d)\s+$", re.IGNORECASE)
_KEY_OR_SYMBOL = re.compile(r"[\"']\s*:|\s*[=^+≈]|\s+[<>]\s|\s*\\(?:text|times|cdot)|(?:\s?/\s?)(?:[a-z]|\d)")
_FORMULA = re.compile(r"(?<![A-Za-z])[A-Za-z0-9)]\s*[=+×·^/]\s*$")
_SPECIES = re.compile(r"\.\s+(?:coli|elegans|subtilis|melanogaster|cerevisiae|rerio|thaliana|faecalis|aureus)\b")
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


def stated_letter(text: str, question: Question, lone_from: int = 0) -> str | None:
    """The letter after "answer is" (the first, as MMLU-Pro searches), else after "Answer:" (the last), else the last
    lone capital that isn't a word, a symbol, a denial or one of several left open. It may be none of the options.

    `lone_from`: where lone capitals may begin."""
    roman = bool(_ROMAN.search(text))
    doubted: set[int] = set()
    for place in _ANSWER_IS.finditer(text):
        found = _LONE.match(text, place.end())
        if found and _DOUBT.search(text[max(0, place.start() - _REACH) : place.start()]):
            doubted.add(found.start())
        elif found and _is_choice(text, found, question, roman) and not _joined(text, found):
            return found[1]
    after_colon = (_LONE.match(text, place.end()) for place in _ANSWER_COLON.finditer(text))
    stated = [m for m in after_colon if m and _is_choice(text, m, question, roman) and not _joined(text, m)]
    if stated:
        return stated[-1][1]
    passed = doubted | _listed(text, question)
    for found in reversed(list(_LONE.finditer(text, lone_from))[-MOST:]):
        if found.start() not in passed and _is_choice(text, found, question, roman):
            return None if _joined(text, found) else found[1]
    return None


def _listed(text: str, question: Question) -> set[int]:
    """Where lines repeat the question's options, two or more of them: what is quoted is not chosen."""
    texts = {option.label: _plain(option.text) for option in question.options}
    lines = re.finditer(r"^[\s*>-]{0,6}\(?([A-J])[).:]+[* ]+([^\n]*)", text, re.MULTILINE)
    places = {m.start(1): m[1] for m in lines if _plain(m[2]) == texts.get(m[1])}
    return set(places) if len(set(places.values())) > 1 else set()


def _is_choice(text: str, found: re.Match[str], question: Question, roman: bool) -> bool:
    before, after = text[max(0, found.start() - _REACH) : found.start()], text[found.end() : found.end() + _REACH]
    if _NAMED.search(before) or _FORMULA.search(before) or _NOT_BEFORE.search(before):
        return False
    if _repeats_option(found[1], after, question):
        return True
    if found[1] in "AI" and ((found[1] == "I" and roman) or _is_english(found[1], after)):
        return False
    return not (_KEY_OR_SYMBOL.match(after) or _SPECIES.match(after) or _NOT_AFTER.match(after))


def _is_english(letter: str, after: str) -> bool:
    """The article "A" or the pronoun "I": a word follows that can't follow an option's letter."""
    following = _NEXT_WORD.match(after)
    return following is not None and following[1].lower() not in (_AFTER_A if letter == "A" else _AFTER_I)


def _repeats_option(letter: str, after: str, question: Question) -> bool:
    """The option's own text stands behind its letter: "B. False" denies nothing."""
    own = next((_plain(option.text) for option in question.options if option.label == letter), "")
    return bool(own) and _plain(after.lstrip(" \t)].:*–—-")).startswith(own[: _REACH // 2])


def _joined(text: str, found: re.Match[str]) -> bool:
    """One of several: "A or B", "A, B and C", "A/B"."""
    before = text[max(0, found.start() - _REACH) : found.start()]
    return bool(_JOINED_AFTER.match(text, found.end()) or _JOINED_BEFORE.search(before))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().strip(" .*")
