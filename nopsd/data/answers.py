"""Answer extraction: one function for evaluation, voting and reports (the order of its steps matters).

Wrong or missing is never counted as an answer: what can't be read is None, and so is what is left open ("A or B").
Beside the tag's exact form the lenient mode reads what a tag or a box plainly states in another form (`b`, `**B**`,
`\\text{B}`, "B. its text", the option's text alone); a filled tag that can't be read is no answer, and
letters before a filled box are none.
"""

from __future__ import annotations

import re
from functools import lru_cache

from nopsd.data.answer_marks import boxed, boxes, tagged
from nopsd.data.labels import Labels, core, labels_of
from nopsd.data.lone_letters import stated_letter
from nopsd.data.readers import own_reader
from nopsd.data.records import Question
from nopsd.data.wording import answer_kind

_STYLE = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mathsf|rm|bf|displaystyle|,|;|!| )(?![A-Za-z])"
)
_FILLED = re.compile(r"\S")
LONGEST_BOX = 200  # characters, and twice the longest option: longer ones are no choice (chosen): boxes in boxes
_WIDE = {0xFF01 + i: 0x21 + i for i in range(94)}  # full-width forms, Ａ to A
_EDGES = " \t\r\n\f\v*_`$\"'“”‘’.。:,;​\u00a0\ufeff"
_MARKS = r"[\s*_\"'“”‘’«»‹›„`(:]+"
_OPEN = re.compile(
    rf"(?<!\w)(?:not|never|neither|nor|isn['’]t|rather than|instead of){_MARKS}"
    rf"(?:(?:a|an|the|case|of|label|option|answer|choice|phrase){_MARKS}){{0,4}}(?:\w+{_MARKS})?$",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"[\s*\"'”“.)(]*(?:or|and|/|,|vs\.?|或)[\s*\"'”“)(]*", re.IGNORECASE)


def leaves_think_open(suffix: str) -> bool:
    """Whether a generation suffix (decoded) opens a think block, so that the response begins inside it."""
    return suffix.rfind("<think>") > suffix.rfind("</think>")


def visible_text(response: str, think_open: bool = False) -> str | None:
    """What follows the last `</think>`.

    Never a paired-tag search: templates that open the block in the prompt leave only the closing tag, and a response
    cut inside the block shows no tag at all.

    Args:
        response: As sampled.
        think_open: The prompt ended inside a think block (`leaves_think_open`).

    Returns:
        None if generation stopped inside a think block.
    """
    _, closed, visible = response.rpartition("</think>")
    if "<think>" in visible or (think_open and not closed):
        return None
    return visible


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _bare(stated: str) -> str:
    """Without LaTeX's and Markdown's marks."""
    return " ".join(_STYLE.sub(" ", stated).translate({ord("{"): " ", ord("}"): " "}).split()).strip(_EDGES)


def _choice(stated: str, question: Question, labels: Labels, small: bool) -> str | None:
    """The label that a tag or a box states: alone, before its option's text, or by the text alone. `small`: b is B."""
    inside = boxes(stated)
    bare = _bare(stated[slice(*inside[-1])] if inside else stated)
    plain = normalize_text_answer(bare)
    named = {o.label for o in question.options if plain and normalize_text_answer(o.text) == plain}
    found = _choices(labels.source).fullmatch(bare)
    if found and (found[1].isupper() or small or not labels.capital):
        letter = labels.of(found[1]) or found[1].upper()
        texts = (
            named if labels.capital and found[1].islower() else set()
        )  # b: the letter, or the text of another option?
        texts = texts or {o.label for o in question.options if found[2] and _same(o.text, found[2])}
        return letter if not texts or letter in texts else None
    if len(named) == 1:
        return named.pop()
    first, _, rest = bare.partition(" ")  # "B blue"
    letter = labels.of(first) or ""
    return letter if any(o.label == letter and _same(o.text, rest) for o in question.options) else None


@lru_cache(maxsize=256)
def _choices(source: str) -> re.Pattern[str]:
    """A label in brackets or not, behind "option" or not, with a text behind it or not."""
    return re.compile(
        rf"(?:(?:option|choice|answer|letter|label|number)\s*:?\s*)?[(\[]?({source})"
        r"(?:(?:[)\].:：]+|(?=\s+[-–—]\s))\s*(?:[-–—]\s+)?(\S.*)?)?",
        re.DOTALL | re.IGNORECASE,
    )


@lru_cache(maxsize=256)
def _tag_letter(source: str) -> re.Pattern[str]:
    return re.compile(rf"(?i:<answer>)\s*\(?({source})\)?[.:)]?\s*(?i:</answer>)")


def _same(text: str, other: str) -> bool:
    return normalize_text_answer(text) == normalize_text_answer(_bare(other))


def _letter(text: str, question: Question, labels: Labels, lenient: bool) -> str | None:
    if not lenient:
        return labels.of(_last(_tag_letter(labels.source), text))
    return labels.of(_lenient_letter(text.translate(_WIDE), question, labels))


def _lenient_letter(text: str, question: Question, labels: Labels) -> str | None:
    answer = _last(_tag_letter(labels.source), text)
    if answer is not None:
        return answer
    stated = tagged(text)
    if stated is not None:
        return _choice(stated, question, labels, small=True)
    longest = LONGEST_BOX + 2 * max(len(option.text) for option in question.options)
    filled = [(start, end) for start, end in boxes(text) if _FILLED.search(text, start, end)]
    for start, end in reversed(filled):
        if end - start <= longest and (choice := _choice(text[start:end], question, labels, small=False)):
            return choice
    return stated_letter(text, question, labels, filled[-1][1] if filled else 0)


def _phrase(text: str, question: Question, lenient: bool) -> str | None:
    stated = tagged(text)
    if stated is None and not lenient:
        return None
    # Longest first, so that where one label begins with another the longer is seen.
    labels = {" ".join(core(o.label).split()).casefold(): o.label for o in question.options}
    named = {o.label for o in question.options if stated is not None and _same(o.text, stated)}
    if len(named) == 1:
        return named.pop()
    choices = "|".join(r"\s+".join(map(re.escape, label.split())) for label in sorted(labels, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)({choices})(?!\w)", re.IGNORECASE)
    return _last_phrase(pattern, text if stated is None else stated, labels)


def _last_phrase(pattern: re.Pattern[str], text: str, labels: dict[str, str]) -> str | None:
    """The last label named and not denied; None if it is one of several left open."""
    named = list(pattern.finditer(text))
    meant = [m for m in named if not _OPEN.search(text[max(0, m.start() - 40) : m.start()])]
    if not meant:
        return None
    before = [m for m in named if m.start() < meant[-1].start()][-1:]
    if before and before[0][1].casefold() != meant[-1][1].casefold():
        if _BETWEEN.fullmatch(text[before[0].end() : meant[-1].start()][:40]):
            return None
    return labels.get(" ".join(meant[-1][1].split()).casefold())


def _text(text: str, lenient: bool) -> str | None:
    answer = tagged(text)
    if answer is None and lenient:
        answer = boxed(text)
    return normalize_text_answer(answer) or None if answer is not None else None


def normalize_text_answer(answer: str) -> str:
    """Free-text answers are compared case-folded with single spaces and no closing full stop."""
    return " ".join(answer.split()).casefold().rstrip(". ")


def extract_answer(response: str, question: Question, mode: str = "lenient", think_open: bool = False) -> str | None:
    r"""The answer that a response gives to a question.

    Args:
        response: As sampled, with its thinking.
        question: Its options are what an answer may be.
        mode: `strict` (answer tags only), `lenient` (then `\boxed{}`, "answer is X", "Answer: X", the last lone
            capital), or the name of a user's own reader (`nopsd.data.readers`).
        think_open: The prompt ended inside a think block (`leaves_think_open`).

    Returns:
        A label, or normalised text where there are no options; None if no answer, or none of the options, can be read.
    """
    own = own_reader(mode)
    if own is None and mode not in ("strict", "lenient"):
        raise ValueError(f"extraction mode {mode!r}: use 'strict' or 'lenient'")
    text = visible_text(response, think_open)
    if text is None:
        return None
    if own is not None:
        return own(text, question)
    lenient = mode == "lenient"
    kind = answer_kind(question)
    if kind == "letter":
        return _letter(text, question, labels_of(tuple(o.label for o in question.options)), lenient)
    return _phrase(text, question, lenient) if kind == "phrase" else _text(text, lenient)
