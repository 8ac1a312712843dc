"""Formulas by math-verify, and what is said where it isn't installed."""

import importlib.util
import sys

import pytest

from nopsd.config import load_config
from nopsd.data.reading import answer_reader
from nopsd.errors import ConfigError
from tests.data.asked import QUESTION

installed = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="the extra nopsd[math]")


def reader():
    return answer_reader(load_config("lab", ["answer.judge=math"]))


@installed
def test_formulas_of_one_value_are_one_answer():
    texts = [r"<answer>\frac12</answer>", "<answer>0.5</answer>", r"so $1/2$.", r"\boxed{x^2+1}", r"\boxed{1+x^2}"]
    read = [reader().read_text(text, QUESTION) for text in texts]
    same = reader().same(QUESTION)
    assert same(read[0], read[1]) and same(read[1], read[2]) and same(read[3], read[4]) and not same(read[0], read[3])
    assert same(reader().gold(r"$\dfrac{1}{2}$", QUESTION), read[0])


@installed
def test_what_would_take_for_ever_is_compared_as_text():
    """A model's 9^9^9 must not stop a run."""
    same = reader().same(QUESTION)
    assert same("9^{9^{9}}", "9^{9^{9}}") and not same("9^{9^{9}}", "9^{9^{8}}") and not same("99999!", "1")


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    from nopsd.data.judges.base import AnswerStyle
    from nopsd.data.judges.latex import math_judge

    with pytest.raises(ConfigError, match=r"answer.judge=math needs the package math-verify.*nopsd\[math\]"):
        math_judge(AnswerStyle())
