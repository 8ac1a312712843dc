"""Capital letters in free text: which is meant as an answer, and which is a word, an element, a pronoun or denied.

One row: output, strict's answer (the tag alone), lenient's.
"""

import pytest

from nopsd.data.answers import extract_answer
from tests.data.asked import FOUR, SMALL, TEN, TRUTH

WORDS = [
    ("The answer is B.", None, "B"),
    ("The answer is (B).", None, "B"),
    ("The answer is **B**.", None, "B"),
    ("The answer is: B", None, "B"),
    ("The answer is $B$.", None, "B"),
    ('The answer is "B".', None, "B"),
    (r"The answer is \text{B}.", None, "B"),
    ("THE ANSWER IS B", None, "B"),
    ("the answer is B: Ribosome", None, "B"),
    ("the answer is B because A and C lack RNA", None, "B"),
    ("The correct answer is B, not C.", None, "B"),
    ("the answer is B, since A is a membrane", None, "B"),
    ("the answer is B ... no, the answer is C", None, "B"),  # MMLU-Pro's search takes the first
    ("Answer: B", None, "B"),
    ("answer: B", None, "B"),
    ("**Answer:** B", None, "B"),
    ("**Answer**: B", None, "B"),
    ("Answer: (B)", None, "B"),
    ("Answer:B", None, "B"),
    ("Final Answer: B. Ribosome", None, "B"),
    ("Answer: A\nOn reflection:\nAnswer: B", None, "B"),
    ("Answer： B", None, "B"),
    ('{"answer": "B"}', None, "B"),
    ("{'answer': 'B', 'confidence': 0.9}", None, "B"),
    ('{"reasoning": "A is a membrane", "answer": "B"}', None, "B"),
    ("B", None, "B"),
    ("B.", None, "B"),
    ("(B)", None, "B"),
    ("**B**", None, "B"),
    ("B) Ribosome", None, "B"),
    ("B. Ribosome", None, "B"),
    ("**B. Ribosome**", None, "B"),
    ("- B", None, "B"),
    ("So it must be B", None, "B"),
    ("So it must be option B!", None, "B"),
    ("I choose B", None, "B"),
    ("I'd go with B.", None, "B"),
    ("I think A first, but finally B.", None, "B"),
    ("A: wrong\nB: right\nC: wrong\nD: wrong", None, "B"),
    ("A is wrong. C is wrong. D is wrong. B fits.", None, "B"),
    ("B is correct, while A, C and D are not.", None, None),  # the last lone ones are left open
    ("A is out. C cannot be. D isn't it. So B.", None, "B"),
    ("It is B, not C", None, "B"),
    ("B rather than C", None, "B"),
    ("Not A, not C, not D: B", None, "B"),
    ("A. Mitochondria\nB. Ribosome\nC. Nucleus\nD. Golgi apparatus\nI pick B.", None, "B"),
    ("Options:\nA: Mitochondria\nB: Ribosome\nC: Nucleus\nD: Golgi apparatus\n\nAnswer: B", None, "B"),
    # other scripts
    ("答案是B", None, "B"),
    ("答案是B。", None, "B"),
    ("答案：B", None, "B"),
    ("正确答案为Ｂ。", None, "B"),
    ("选项B正确,所以选B", None, "B"),
    ("答案是B,不是C", None, "B"),
    ("答えはBです", None, "B"),
    ("정답은 B입니다", None, "B"),
    ("الجواب B", None, "B"),
    ("Ответ: B", None, "B"),
    ("La respuesta es B.", None, "B"),
    ("Die Antwort ist B.", None, "B"),
    ("Ответ: В", None, None),  # a Cyrillic letter
    ("Ответ: С", None, None),
    ("Η απάντηση είναι Β", None, None),  # a Greek one
    ("答案是甲", None, None),
]

NOTHING = [
    ("   \n\t ", None, None),
    ("I don't know.", None, None),
    ("I am not sure.", None, None),
    ("I'm lost", None, None),
    ("A good question!", None, None),
    ("A ribosome makes proteins.", None, None),
    ("This is a hard one.", None, None),
    ("The answer is Calcium.", None, None),
    ("The answer is Boron", None, None),
    ("Answer: Calcium", None, None),
    ("Answer: Adenine", None, None),
    ("Answer: I don't know", None, None),
    ("The answer is A mixture of things", None, None),
    ("The answer is not B.", None, None),
    ("It is not B.", None, None),
    ("It isn't B", None, None),
    ("Definitely not (B)", None, None),
    ("B is wrong.", None, None),
    ("B is incorrect", None, None),
    ("B cannot be right", None, None),
    ("We can rule out B.", None, None),
    ("I eliminate option B", None, None),
    ("neither A nor B", None, None),
    ("I don't think the answer is B", None, None),
    ("I wonder whether the answer is B", None, None),
    ("It is A or B.", None, None),
    ("It is either A or B", None, None),
    ("The answer is A or B", None, None),
    ("The answer is A and C", None, None),
    ("Answer: A, B", None, None),
    ("Answer: A/B", None, None),
    ("Both A and C", None, None),
    ("A, B, C and D all fit", None, None),
    ("(A) or (B)", None, None),
    ("答案是A或B", None, None),
    ("不是B", None, None),
    ("Vitamin C", None, None),
    ("It lacks vitamin D.", None, None),
    ("hepatitis B", None, None),
    ("at 25 °C", None, None),
    ("It weighs 3 C", None, None),
    ("E. coli", None, None),
    ("the C-terminal end", None, None),
    ("an H-bond", None, None),
    ("B-cells", None, None),
    ("C = 3", None, None),
    ("D/2", None, None),
    ("B's", None, None),
    ("blood group B", None, None),
    ("ABCD", None, None),
    ("abcd", None, None),
    ("b", None, None),
    ("Ribosome", None, None),
    ("A. Mitochondria\nB. Ribosome\nC. Nucleus\nD. Golgi apparatus", None, None),
    ("A: Mitochondria\nB: Ribosome\nC: Nucleus\nD: Golgi apparatus\nI can't decide", None, None),
    ('{"A": 0.2, "B": 0.5}', None, None),
    ("<think>the answer is B", None, None),
    ("<think>the answer is B</think>", None, None),
    ("<answer>B</answer><think>or C", None, None),
    ("The answer is B</think>", None, None),
    ("<think>\n", None, None),
    ("The answer is E.", None, None),
    ("Answer: K", None, None),
    ("\x00\x01\ufffd", None, None),
    ("🙂🅱", None, None),
]

TEN_OPTIONS = [
    ("<answer>I</answer>", "I", "I"),
    ("<answer>J</answer>", "J", "J"),
    ("<answer>K</answer>", None, None),
    ("The answer is (I).", None, "I"),
    ("The answer is I.", None, "I"),
    ("Answer: I", None, "I"),
    (r"\boxed{I}", None, "I"),
    ("Option I is right", None, "I"),
    ("I", None, "I"),
    ("(I)", None, "I"),
    ("I: text number 9", None, "I"),
    ("I think that it is hard", None, None),
    ("I would say H", None, "H"),
    ("H, I think", None, "H"),
    ("H. I am sure", None, "H"),
    ("So H. I'd bet on it.", None, "H"),
    ("Answer: I think H", None, "H"),
    ("Statements I and II are true", None, None),
    ("Statements I and III hold, so J", None, "J"),
    ("A text can be long: J", None, "J"),
    ("A text", None, None),
    ("A", None, "A"),
    ("It is A because of that", None, "A"),
    ("It is A, I believe", None, "A"),
    ("E = mc^2, F = ma, so G", None, "G"),
    ("G = H - TS", None, None),
]

DENYING_OPTIONS = [
    ("B. False", None, "B"),
    ("The answer is B. False", None, "B"),
    ("Answer: B: False", None, "B"),
    ("C. Impossible to tell", None, "C"),
    ("D: a mixture of both", None, "D"),
    ("<answer>False</answer>", None, "B"),
    ("<answer>false</answer>", None, "B"),
    ("A is false", None, None),
]

SMALL_OPTIONS = [
    ("<answer>b</answer>", None, None),  # letter B, or the text of A?
    ("<answer>e</answer>", None, None),
    ("<answer>a</answer>", None, "A"),
    (r"\boxed{4}", None, "C"),
    (r"\boxed{e}", None, "B"),
    (r"\boxed{x}", None, "D"),
    ("<answer>4</answer>", None, "C"),
]

TABLES = [
    ("four", FOUR, [*WORDS, *NOTHING]),
    ("ten", TEN, TEN_OPTIONS),
    ("truth", TRUTH, DENYING_OPTIONS),
    ("small", SMALL, SMALL_OPTIONS),
]
ROWS = [(name, asked, *row) for name, asked, rows in TABLES for row in rows]
# What no rule without knowledge of the subject tells from a choice: MMLU-Pro's last lone capital, taken as it stands.
KNOWN_LIMITS = [
    ("They are made of DNA, G and C pairing", None),
    ("Carbon is written C", "C"),
    ("Plan 9 and base T, then D", "D"),
]


@pytest.mark.parametrize(("table", "asked", "output", "strict", "lenient"), ROWS)
def test_every_letter_is_read_as_it_is_meant(table, asked, output, strict, lenient):
    """Else a wrong letter is scored, voted with, or made a pseudo-label."""
    assert extract_answer(output, asked, "strict") == strict
    assert extract_answer(output, asked, "lenient") == lenient


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize("dress", ["{}", "({})", "**{}**", "{}.", "[{}]", "`{}`", '"{}"', "Option {}", "${}$", "{})"])
@pytest.mark.parametrize("frame", ["So {}", "The answer is {}", "Answer: {}", "<answer>{}</answer>", "答案是 {}。"])
def test_every_letter_in_every_dress(letter, dress, frame):
    """Else one letter, or one habit of writing, is counted less often than another: a bias between models."""
    assert extract_answer(frame.format(dress.format(letter)), FOUR) == letter


@pytest.mark.parametrize(("output", "read"), KNOWN_LIMITS)
def test_known_limits_stay_known(output, read):
    """A change here is no error, but is to be written down."""
    assert extract_answer(output, FOUR) == read
