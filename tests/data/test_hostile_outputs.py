"""Answer extraction on what models really write, and on worse: a wrong or missing answer that counts
as one bends every accuracy, every vote and every pseudo-label. One row: output, strict's answer, lenient's."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nopsd.data.answers import extract_answer
from tests.data.asked import EDU, FOUR, FREE, TEN

QUICK = settings(max_examples=60, deadline=None)  # no deadline: CI machines are shared


TAGGED = [
    ("<answer>B</answer>", "B", "B"),
    ("Ribosomes make proteins. <answer>B</answer>", "B", "B"),
    ("<answer> B </answer>", "B", "B"),
    ("<answer>\nB\n</answer>\n", "B", "B"),
    ("<answer>(B)</answer>", "B", "B"),
    ("<answer>B.</answer>", "B", "B"),
    ("<answer>B)</answer>", "B", "B"),
    ("<answer>(B).</answer>", "B", "B"),
    ("<answer>B:</answer>", "B", "B"),
    ("<ANSWER>B</ANSWER>", "B", "B"),
    ("<Answer>B</answer>", "B", "B"),
    ("<answer>A</answer> Wait. <answer>B</answer>", "B", "B"),
    ("<answer>B</answer><answer>B</answer>", "B", "B"),
    ("<answer><answer>B</answer></answer>", "B", "B"),
    ("<answer>I think <answer>B</answer>", "B", "B"),
    ("<answer>B</answer> I hope that C is wrong.", "B", "B"),
    ("<answer>B</answer> \\boxed{C}", "B", "B"),
    ("</answer><answer>B</answer><answer>", "B", "B"),
    ("<think>A? C?</think><answer>B</answer>", "B", "B"),
    ("A? <answer>A</answer></think>No: <answer>B</answer>", "B", "B"),
    ("```xml\n<answer>B</answer>\n```", "B", "B"),
    # in another form: strict takes the tag's exact form alone
    ("A is tempting. <answer>b</answer>", None, "B"),
    ("A is tempting. <answer>(b)</answer>", None, "B"),
    ("A is tempting. <answer>**B**</answer>", None, "B"),
    ("A is tempting. <answer>$B$</answer>", None, "B"),
    ("A is tempting. <answer>\\boxed{B}</answer>", None, "B"),
    ("A is tempting. <answer>\\text{B}</answer>", None, "B"),
    ("A is tempting. <answer>Option B</answer>", None, "B"),
    ("A is tempting. <answer>Answer: B</answer>", None, "B"),
    ("A is tempting. <answer>B: Ribosome</answer>", None, "B"),
    ("A is tempting. <answer>B. Ribosome.</answer>", None, "B"),
    ("A is tempting. <answer>(B) Ribosome</answer>", None, "B"),
    ("A is tempting. <answer>B. the ribosome</answer>", None, "B"),
    ("A is tempting. <answer>Ribosome</answer>", None, "B"),
    ("A is tempting. <answer>ribosome.</answer>", None, "B"),
    ("A is tempting. <answer>Golgi  Apparatus</answer>", None, "D"),
    ("A is tempting. <answer>Ｂ</answer>", None, "B"),
    ("A is tempting. <answer>\u200bB\u200b</answer>", None, "B"),
    ("A is tempting. <answer>\u00a0B\u00a0</answer>", "B", "B"),
    ("A is tempting. <answer>'B'</answer>", None, "B"),
    ("A is tempting. <answer>`B`</answer>", None, "B"),
    # filled, and no answer: letters of the reasoning don't replace it
    ("A is tempting. <answer>E</answer>", None, None),
    ("A is tempting. <answer>Z</answer>", None, None),
    ("A is tempting. <answer>AB</answer>", None, None),
    ("A is tempting. <answer>A or B</answer>", None, None),
    ("A is tempting. <answer>A, B</answer>", None, None),
    ("A is tempting. <answer>A/B</answer>", None, None),
    ("A is tempting. <answer>not B</answer>", None, None),
    ("A is tempting. <answer>None of the above</answer>", None, None),
    ("A is tempting. <answer>unsure</answer>", None, None),
    ("A is tempting. <answer>Chloroplast</answer>", None, None),
    ("A is tempting. <answer>B. Nucleus</answer>", None, None),  # letter and text contradict each other
    ("A is tempting. <answer>2</answer>", None, None),
    ("A is tempting. <answer>А</answer>", None, None),  # Cyrillic
    ("A is tempting. <answer>В</answer>", None, None),
    ("A is tempting. <answer>С</answer>", None, None),
    ("A is tempting. <answer>Α</answer>", None, None),  # Greek
    ("A is tempting. <answer>B?A</answer>", None, None),
    ("A is tempting. <answer>A common mistake</answer>", None, None),
    ("A is tempting. <answer>I don't know</answer>", None, None),
    # quoted, empty or open tags say nothing
    ("", None, None),
    ("<answer></answer>", None, None),
    ("<answer> </answer>", None, None),
    ("I must write the letter between <answer> and </answer>.", None, None),
    ("I must write it between <answer> and </answer>. So it is B.", None, "B"),
    ("<answer>...</answer>", None, None),
    ("<answer>letter</answer>", None, None),
    ("<answer>your answer</answer>", None, None),
    ("<answer>B", None, "B"),
    ("<answer>", None, None),
    ("</answer>", None, None),
    ("B</answer>", None, "B"),
    ("<answer B>", None, "B"),
    ("&lt;answer&gt;B&lt;/answer&gt;", None, "B"),
]

BOXED = [
    (r"\boxed{B}", None, "B"),
    (r"A? So \boxed{B}.", None, "B"),
    (r"$\boxed{B}$", None, "B"),
    (r"$$\boxed{\text{B}}$$", None, "B"),
    (r"\boxed{\mathrm{B}}", None, "B"),
    (r"\boxed{\mathbf{B}}", None, "B"),
    (r"\boxed{\textbf{B}}", None, "B"),
    (r"\boxed{\textbf{(B)}}", None, "B"),
    (r"\boxed{\text{ B }}", None, "B"),
    (r"\boxed{\rm B}", None, "B"),
    (r"\boxed{\mathit{B}}", None, "B"),
    (r"\boxed{\displaystyle B}", None, "B"),
    (r"\boxed{{B}}", None, "B"),
    (r"\boxed {B}", None, "B"),
    (r"\boxed{(B)}", None, "B"),
    (r"\boxed{B.}", None, "B"),
    (r"\boxed{ B }", None, "B"),
    (r"\boxed{\text{B. Ribosome}}", None, "B"),
    (r"\boxed{\text{B: Ribosome}}", None, "B"),
    (r"\boxed{\text{Option B}}", None, "B"),
    (r"\boxed{\text{Ribosome}}", None, "B"),
    (r"\boxed{A} \boxed{B}", None, "B"),
    (r"\boxed{B} but not \boxed{}", None, "B"),
    (r"\boxed{\boxed{B}}", None, "B"),
    (r"\boxed{5}, so the answer is B", None, "B"),
    (r"\boxed{\frac{1}{2}}, so the answer is B", None, "B"),
    (r"\boxed{B} The answer is C.", None, "B"),
    (r"\boxed{E}", None, None),
    (r"\boxed{e}", None, None),  # a number of mathematics, not the option
    (r"\boxed{c}", None, None),
    (r"\boxed{AB}", None, None),
    (r"\boxed{A, B}", None, None),
    (r"\boxed{A \text{ or } B}", None, None),
    (r"\boxed{}", None, None),
    (r"\boxed{ }", None, None),
    (r"\boxed{B", None, "B"),
    (r"\boxed", None, None),
    (r"\fbox{B}", None, "B"),
    (r"Let A be the area: \boxed{5}. That is option B.", None, "B"),
    (r"Let A be the area: \boxed{5}", None, None),
]

W, WO = "With Explanation", "Without Explanation"
PHRASES = [
    (f"<answer>{W}</answer>", W, W),
    (f"<answer>{WO}</answer>", WO, WO),
    ("<answer>with explanation</answer>", W, W),
    ("<answer>WITHOUT EXPLANATION.</answer>", WO, WO),
    ("<answer>\n Without\n explanation \n</answer>", WO, WO),
    ("<answer>**With Explanation**</answer>", W, W),
    ("<answer>- With Explanation</answer>", W, W),
    (f"<answer>{W}</answer> no: <answer>{WO}</answer>", WO, WO),
    (f"<answer>{W} or {WO}</answer>", None, None),
    (f"<answer>{WO}, {W}</answer>", None, None),
    (f"<answer>not {W}</answer>", None, None),
    ("<answer>yes</answer>", None, None),
    ("<answer>No explanation</answer>", None, None),
    ("<answer>without any explanation</answer>", None, None),
    ("<answer>explanation</answer>", None, None),
    ("<answer>A</answer>", None, None),
    (f"<answer></answer> {W}", None, W),
    (f"It goes between <answer> and </answer>. {W}", None, W),
    (W, None, W),
    (WO, None, WO),
    (f"Is it {W}? No, {WO}.", None, WO),
    (f"It is {W}, not {WO}.", None, W),
    (f"This is not {W}", None, None),
    (f"{W} or {WO}", None, None),
    (f"{W}/{WO}", None, None),
    (f"- {W}\n- {WO}\n\nI say: {W}", None, W),
    (rf"\boxed{{{W}}}", None, W),
    ("It is with explanations", None, None),
    ("notwithout explanation", None, None),
    ("", None, None),
    (f"<think>{W}", None, None),
    (f"{W}</think>", None, None),
    (f"{W}</think>{WO}", None, WO),
]

TEXTS = [
    ("<answer>Forty two.</answer>", "forty two", "forty two"),
    (r"\boxed{\frac{1}{2}}", None, r"\frac{1}{2}"),
    (r"\boxed{7", None, None),
    ("between <answer> and </answer>", None, None),
    ("<answer></answer>", None, None),
    ("7", None, None),
]

TABLES = [
    ("four", FOUR, [*TAGGED, *BOXED]),
    ("edu", EDU, PHRASES),
    ("free", FREE, TEXTS),
]
ROWS = [(name, asked, *row) for name, asked, rows in TABLES for row in rows]


@pytest.mark.parametrize(("table", "asked", "output", "strict", "lenient"), ROWS)
def test_every_output_is_read_as_it_is_meant(table, asked, output, strict, lenient):
    """Else a wrong letter is scored, voted with, or made a pseudo-label."""
    assert extract_answer(output, asked, "strict") == strict
    assert extract_answer(output, asked, "lenient") == lenient


@pytest.mark.parametrize("asked", [FOUR, EDU])
def test_a_response_cut_inside_the_prompts_think_block_says_nothing(asked):
    """Qwen3's thinking templates open the block in the prompt: the response shows no tag at all."""
    cut = "Perhaps <answer>B</answer>" if asked is FOUR else "Perhaps <answer>With Explanation</answer>"
    assert extract_answer(cut, asked, think_open=True) is None
    assert extract_answer(cut, asked) is not None


REPEATS = [
    "<answer>",
    "</answer>",
    "<answer> ",
    "<answer>B",
    "<answer>B</answer>",
    "<answer>(",
    r"\boxed{",
    r"\boxed{ ",
    r"\boxed{\text{",
    "}",
    "{",
    " ",
    "\n",
    "answer is ",
    "answer is (",
    "Answer: ",
    "Answer:  ",
    "A ",
    "A or ",
    "A, ",
    "B. ",
    "A: x\n",
    "I ",
    "not ",
    "with ",
    "with\n",
    "without explanation ",
    "</think>",
    "<think>",
    "(",
    "*",
    "°",
    "是B",
    "Ａ",
    "\\",
    "$",
    "**",
    "ABCD",
    "A-",
    "is not ",
    "(A) ",
    "> ",
    "'",
    '"',
    "only the option ",
    "choice the ",
    "II I ",
    "1 A ",
]


@pytest.mark.parametrize("piece", REPEATS)
@pytest.mark.parametrize("asked", [FOUR, EDU, FREE], ids=["letters", "phrases", "text"])
def test_time_is_linear_on_repeats(piece, asked):
    """Else one hostile output of a thousand stops an evaluation for hours (regular expressions that backtrack)."""

    def seconds(size):
        output = piece * (size // len(piece)) + "Z"
        start = time.process_time()
        extract_answer(output, asked)
        return time.process_time() - start

    # quadratic: 100 times, and each time; a machine that holds one try up counts that as ours
    assert any(seconds(30_000) < 20 * seconds(3_000) + 0.5 for _ in range(3))


PIECES = [
    *REPEATS,
    *"ABCDEIJk.:(){}",
    r"\text{",
    "With Explanation",
    "Without Explanation",
    "Ribosome",
    "\u200b",
    "Б",
    "wrong",
    "or",
    "and",
]
NOISE = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@QUICK
@given(NOISE, st.sampled_from(["strict", "lenient"]), st.booleans())
def test_nothing_raises_and_nothing_but_options_comes_out(output, mode, think_open):
    """Else evaluation ends on one odd output, or a label that no question has is voted for."""
    for asked in (FOUR, TEN, EDU):
        assert extract_answer(output, asked, mode, think_open) in {None, *(o.label for o in asked.options)}
    extract_answer(output, FREE, mode, think_open)


@QUICK
@given(NOISE, st.sampled_from("ABCD"))
def test_a_closing_tag_decides_whatever_stood_before(noise, letter):
    """The prompt asks for it: no reasoning may outweigh it."""
    assert extract_answer(f"{noise}</think><answer>{letter}</answer>", FOUR, "strict") == letter
    assert extract_answer(f"{noise}</think><answer>{letter}</answer>", FOUR) == letter
