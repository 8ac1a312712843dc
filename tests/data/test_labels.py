"""Every label that a prompt can show is read back in every form in which models give one."""

import time

import pytest

from nopsd.data.answers import extract_answer
from nopsd.data.records import Option, Question
from nopsd.data.wording import question_text, student_message, system_message

WORDS = ["blue", "dark red", "green", "black", "white", "yellow", "grey", "pink", "brown", "cyan", "gold", "lime"]
FAMILIES = {
    "A to D": "ABCD",
    "A to L": "ABCDEFGHIJKL",
    "a to d": "abcd",
    "1 to 4": "1234",
    "1 to 12": [str(i) for i in range(1, 13)],
    "0 to 3": "0123",
    "T and F": "TF",
    "Cyrillic": "АБВГ",
    "Chinese": "甲乙丙丁",
    "numerals": ["I", "II", "III", "IV"],
    "A) to D)": ["A)", "B)", "C)", "D)"],
    "(1) to (4)": ["(1)", "(2)", "(3)", "(4)"],
    "A. to D.": ["A.", "B.", "C.", "D."],
    "opa to opd": ["opa", "opb", "opc", "opd"],
    "words": ["first", "second", "third"],
    "options": ["Option 1", "Option 2", "Option 3"],
}
FORMS = [
    "<answer>{l}</answer>",
    "I think.\n<answer> {l} </answer>",
    "<answer>({l})</answer>",
    "<answer>{l})</answer>",
    "<answer>{l}.</answer>",
    "<answer>**{l}**</answer>",
    "<answer>{l}: {t}</answer>",
    "<answer>{l}. {t}</answer>",
    "<answer>({l}) {t}</answer>",
    "<answer>{l} - {t}</answer>",
    "<answer>{l} – {t}</answer>",
    "<answer>{l} {t}</answer>",
    "<answer>{t}</answer>",
    "<answer>option {l}</answer>",
    r"So \boxed{{{l}}}",
    r"So \boxed{{\text{{{l}}}}}",
    r"So \boxed{{({l})}}.",
    r"So \boxed{{{l}: {t}}}",
    "The answer is {l}",
    "The answer is {l}.",
    "The answer is ({l}).",
    "the answer is **{l}**.",
    "The answer is {l}: {t}.",
    "So the correct answer is ({l}) {t}.",
    "Answer: {l}",
    "Ответ: {l}",
    "答案：{l}",
    "**Answer:** {l}",
    "**Answer: ({l})**",
    "Final answer: {l}. {t}",
    "The correct option is {l}.",
    "The correct option is {l}, as the text says.",
    "The right choice is ({l}).",
    "Thus I choose ({l}).",
    "Thus I choose **{l}**.",
    "It must be option {l}.",
    "Reasons.\n\n{l}",
    "Reasons.\n\n{l}.",
    "Reasons.\n\n({l})",
    "Reasons.\n\n**{l}: {t}**",
]


def bare(label):
    return label.strip("().")


def question(labels):
    return Question("q", "d", "file", "Which colour?", tuple(map(Option, labels, WORDS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_label_is_read_in_every_form(family):
    asked = question(FAMILIES[family])
    wrong = []
    for option in asked.options:
        for form in FORMS:
            said = form.format(l=bare(option.label), t=option.text)
            if (read := extract_answer(said, asked)) != option.label:
                wrong.append((said, read))
    assert not wrong, f"{len(wrong)} of {len(FORMS) * len(asked.options)}: {wrong[:12]}"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exact_tag_is_read_in_strict_mode_as_well(family):
    asked = question(FAMILIES[family])
    for option in asked.options:
        assert extract_answer(f"<answer>{bare(option.label)}</answer>", asked, "strict") == option.label
        assert extract_answer(f"The answer is {bare(option.label)}.", asked, "strict") is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_shows_each_label_with_its_text(family):
    asked = question(FAMILIES[family])
    for option in asked.options:
        assert f"\n{option.label}: {option.text}" in question_text(asked)
    letters = family in ("A to D", "A to L", "a to d", "T and F", "Cyrillic", "Chinese", "A) to D)", "A. to D.")
    assert ("one letter" in student_message(asked)) == ("the letter" in system_message(asked)) == letters
    assert ("one label" in student_message(asked)) == ("the label" in system_message(asked)) == (not letters)


LETTERS = question("ABCD")
TEN = question("ABCDEFGHIJ")
NUMBERS = question("1234")
SMALL = question("abcd")
EDU = Question("q", "d", "edu", "?", tuple(Option(f"{w} Explanation", f"{w} Explanation") for w in ("With", "Without")))


@pytest.mark.parametrize(
    ("asked", "said", "read"),
    [
        (TEN, "Statements II and III are false. The answer is (I).", "I"),
        (TEN, "Type IV is rare; answer is [I]", "I"),
        (TEN, "Statements II and III hold. The answer is I and II.", None),
        (LETTERS, "The correct option is B. Option A is wrong since D isn't given.", "B"),
        (LETTERS, "The correct option is not B.", None),
        (LETTERS, "I'm not sure that the correct option is B; it's D", "D"),
        (LETTERS, "B: dark red", "B"),
        (LETTERS, "<answer>B - blue</answer>", None),
        (NUMBERS, "There are 3 moons and 2.5 planets, in 4 systems.", None),
        (NUMBERS, "The answer is 2.5", None),
        (NUMBERS, "The answer is 12.", None),
        (NUMBERS, "The answer is 2 or 3.", None),
        (NUMBERS, "Option 2 is wrong, option 3 is not right.", None),
        (SMALL, "It is a colour, and a blue one.", None),
        (SMALL, "The answer is B.", "b"),
        (SMALL, "a or b", None),
        (EDU, 'It is "With Explanation", not "Without Explanation".', "With Explanation"),
        (EDU, "It is **With Explanation**, not **Without Explanation**.", "With Explanation"),
        (EDU, "With Explanation (not “Without Explanation”)", "With Explanation"),
        (EDU, "**Not** Without Explanation", None),
        (EDU, "<answer>not 'Without Explanation' but With Explanation</answer>", "With Explanation"),
        (EDU, "Without Explanation, not `With Explanation`", "Without Explanation"),
    ],
)
def test_what_is_meant_is_read_and_nothing_else(asked, said, read):
    assert extract_answer(said, asked) == read


@pytest.mark.parametrize("inside", ["B", "42"])
def test_boxes_in_boxes_are_read_in_linear_time(inside):
    """2,000 of them took 12.8 s, and every step of an evaluation waits for it."""
    said = r"\boxed{" * 20_000 + inside + "}" * 20_000
    start = time.perf_counter()
    assert extract_answer(said, LETTERS) == ("B" if inside == "B" else None)
    assert time.perf_counter() - start < 2
