"""nopsd.data.answers: every number of an evaluation rests on reading answers by these steps, in this order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nopsd.data.answers import extract_answer, leaves_think_open, normalize_text_answer, visible_text
from nopsd.data.records import Option, Question

QUICK = settings(max_examples=60, deadline=None)  # no deadline: CI machines are shared


def _question(*labels):
    return Question("q", "d", "s", "?", tuple(Option(label, f"text of {label}") for label in labels))


LETTERS = _question(*"ABCD")
EDU = _question("With Explanation", "Without Explanation")
FREE = _question()


@pytest.mark.parametrize(
    ("response", "visible"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),  # the template opened the block in the prompt
        ("a</think>b</think>c", "c"),
        ("<think>cut", None),
        ("<think>a</think>b<think>cut again", None),
        ("</think>", ""),
    ],
)
def test_visible_text_follows_the_last_closing_tag(response, visible):
    assert visible_text(response) == visible


def test_a_response_cut_inside_the_prompts_think_block_has_no_answer():
    cut = "Could it be A? The answer is B, no"
    assert extract_answer(cut, LETTERS, think_open=True) is None
    assert extract_answer(cut + "</think><answer>C</answer>", LETTERS, think_open=True) == "C"
    assert extract_answer(cut, LETTERS) == "B"


def test_the_generation_suffix_tells_whether_thinking_is_open():
    assert leaves_think_open("<|im_start|>assistant\n<think>\n")
    assert not leaves_think_open("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not leaves_think_open("<|im_start|>assistant\n")


@pytest.mark.parametrize("inner", ["B", " B ", "(B)", "B.", "(B):", "\nB)\n", "B:"])
def test_letter_tag_forms(inner):
    assert extract_answer(f"A or C. <answer>{inner}</answer> then D", LETTERS, "strict") == "B"


@pytest.mark.parametrize(
    ("response", "lenient"),
    [
        ("<answer>A</answer> no, <answer>B</answer>", "B"),  # the last tag
        (r"<answer>A</answer> \boxed{B}", "A"),  # tag before box
        (r"\boxed{A} \boxed{B} the answer is C", "B"),  # box before words
        (r"\boxed{\text{C}} answer is A", "C"),
        (r"so \boxed{5} and the answer is C", "C"),  # a boxed number is no letter
        ("the answer is (B). Answer: C", "B"),
        ("the answer is A ... the answer is B", "A"),  # MMLU-Pro's search takes the first
        ("Answer: A\nanswer: C. Not D", "C"),
        ("Answer: (B) since A fails", "B"),
        ("A, then C", "C"),
        ("ABCD are letters of a word", None),
        ("lower case b", None),
        ("", None),
    ],
)
def test_the_lenient_chain_in_its_order(response, lenient):
    assert extract_answer(response, LETTERS) == lenient
    tagged = "<answer>" in response
    assert extract_answer(response, LETTERS, "strict") == (lenient if tagged else None)


def test_a_letter_that_is_no_option_is_none_and_does_not_fall_back():
    assert extract_answer("A. <answer>E</answer>", LETTERS) is None
    assert extract_answer("A. <answer>E</answer>", _question(*"ABCDEFGHIJ")) == "E"
    assert extract_answer("<answer>K</answer>", _question(*"ABCDEFGHIJ"), "strict") is None


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<answer>With Explanation</answer>", "With Explanation"),
        ("<answer> WITHOUT  explanation. </answer>", "Without Explanation"),
        ("With explanation? <answer>without\nexplanation</answer>", "Without Explanation"),
        ("It is not without explanation: with explanation", "With Explanation"),  # the last named, no tag
        ("With Explanation, and never «Without Explanation»", "With Explanation"),
        ("With Explanation. Not: Without Explanation", "With Explanation"),
        ("With Explanation, certainly not a case of the Without Explanation", "With Explanation"),
        ("With Explanation, not the option “Without Explanation”", "With Explanation"),
        ("without explanations", None),
        ("<answer>yes</answer> with explanation", None),
    ],
)
def test_phrases_case_insensitively(response, expected):
    assert extract_answer(response, EDU) == expected


def test_a_phrase_that_begins_with_another_is_not_cut_short():
    question = _question("rises", "rises fast", "C++ code")
    assert extract_answer("<answer>Rises fast</answer>", question) == "rises fast"
    assert extract_answer("<answer>rises</answer>", question) == "rises"
    assert extract_answer("<answer>c++ code</answer>", question) == "C++ code"


def test_phrases_need_the_tag_in_strict_mode():
    assert extract_answer("with explanation", EDU, "strict") is None


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<answer> Forty  Two. </answer>", "forty two"),
        ("between <answer> and </answer>: <answer>7</answer>", "7"),
        ("<answer> I start <answer>7</answer>", "7"),
        (r"\boxed{7}", "7"),
        (r"\boxed{\text{Seven}}", "seven"),
        ("<answer> . </answer>", None),
        ("7", None),
    ],
)
def test_free_text(response, expected):
    assert extract_answer(response, FREE) == expected


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="strict"):
        extract_answer("A", LETTERS, "loose")


TAGS = ["<answer>", "</answer>", "<think>", "</think>"]
PIECES = [*TAGS, *"ABCDEJk .:()\n}", r"\boxed{", "answer is ", "with explanation"]
NOISE = st.lists(st.sampled_from(PIECES)).map("".join)


@QUICK
@given(NOISE, st.sampled_from(["strict", "lenient"]), st.booleans())
def test_any_text_gives_an_option_or_nothing(response, mode, think_open):
    assert extract_answer(response, LETTERS, mode, think_open) in {*"ABCD", None}
    assert extract_answer(response, EDU, mode, think_open) in {"With Explanation", "Without Explanation", None}


@QUICK
@given(NOISE)
def test_a_strict_answer_is_also_the_lenient_one(response):
    strict = extract_answer(response, LETTERS, "strict")
    assert strict is None or extract_answer(response, LETTERS) == strict


@QUICK
@given(st.text())
def test_normalising_twice_changes_nothing(answer):
    once = normalize_text_answer(answer)
    assert normalize_text_answer(once) == once
