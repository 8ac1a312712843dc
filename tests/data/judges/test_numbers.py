"""Numbers in every form in which models and data sets write them: a right answer in another form must count."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nopsd.data.judges import AnswerStyle
from nopsd.data.judges.numbers import close, last_number, read_number, shown

LENIENT, STRICT = AnswerStyle(), AnswerStyle(lenient=False)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1,200 marbles", "1200"),
        ("1200.0", "1200"),
        ("$1{,}200$", "1200"),
        ("1/2", "0.5"),
        (".5", "0.5"),
        (r"\frac12", "0.5"),
        (r"\dfrac{1}{2}", "0.5"),
        (r"3\frac{1}{2}", "3.5"),
        ("3 1/2 hours", "3.5"),
        (r"-\frac{3}{4}", "-0.75"),
        ("1/3", "1/3"),
        ("2e3", "2000"),
        ("\u22125", "-5"),
        ("3 + 2 = 5", "5"),
        ("10 - 3", "3"),
        ("10-3", "3"),
        ("007", "7"),
        ("50%", "50"),
        ("H2O", None),
        ("1/0", None),
        ("1e999999999", None),
        ("9" * 500, None),
        ("none", None),
    ],
)
def test_a_number_in_one_form(written, number):
    assert last_number(written) == number


@pytest.mark.parametrize(
    ("response", "lenient", "strict"),
    [
        ("First 7, so <answer>12 apples</answer> of 20", "12", "12"),
        (r"It is \boxed{12} of 20", "12", None),
        ("7 + 5\n#### 12", "12", None),
        ("Answer: **12**\nthat took 3 steps", "12", None),
        ("The answer is 12 apples. I used 3 steps.", "12", None),
        ("7 + 5 makes 12", "12", None),
        ("<answer>many</answer> of 20", None, None),
        ("no idea", None, None),
    ],
)
def test_where_a_number_is_read(response, lenient, strict):
    """Numbers of the reasoning are no answer where one is stated."""
    assert read_number(response, LENIENT) == lenient
    assert read_number(response, STRICT) == strict


@given(st.fractions(max_denominator=10**6))
def test_the_one_form_is_exact(value):
    """Else two equal numbers would be two answers in a vote."""
    assert Fraction(shown(value)) == value and last_number(shown(value)) == shown(value)


def test_whole_numbers_are_the_same_only_if_equal():
    """A tolerance must not make 10001 of 10000."""
    assert not close("10000", "10001", 0.01) and close("0.3333", "1/3", 1e-3)
    assert not close("0.33", "1/3", 1e-3) and not close("0.3333", "1/3", 0)
