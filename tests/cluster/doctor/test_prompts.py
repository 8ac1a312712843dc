"""What `doctor` shows and says of both roles' prompts, on the lab's own tokenizer and questions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nopsd.cluster.doctor.prompts import Pair, check_pair, render_pair, side_by_side
from nopsd.cluster.findings import ERROR, OK
from nopsd.config import PromptConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.lab.world import DOMAIN_BY_NAME, make_split
from nopsd.models import LAB_MODEL


@pytest.fixture(scope="module")
def pair() -> Pair:
    pool = make_split(next(iter(DOMAIN_BY_NAME.values())), "pool").questions
    renderer = PromptRenderer(load_tokenizer(LAB_MODEL), PromptConfig(enable_thinking=False))
    return render_pair(renderer, pool, 4, 2048)


def test_both_prompts_are_shown_with_their_ids(pair: Pair) -> None:
    """Else a user can't see that the template is right before the run costs anything."""
    shown = side_by_side(pair)
    first, *_ = shown.splitlines()
    assert f"student ({len(pair.student)} tokens)" in first and f"teacher ({len(pair.teacher)} tokens)" in first
    assert "Solved examples:" in shown and "model's own answer" in shown
    assert f"student ids: {pair.student[0]} " in shown and shown.endswith(str(pair.teacher[-1]))


def test_equal_questions_pass_and_other_endings_do_not(pair: Pair) -> None:
    """A teacher that is asked differently scores other tokens than the student's."""
    assert [f.level for f in check_pair(pair, 4)] == [OK]
    assert [f.level for f in check_pair(replace(pair, teacher=pair.teacher[:-1]), 4)] == [ERROR]
    assert "demonstrations fit" in check_pair(replace(pair, kept=3), 4)[0].message


def test_demonstrations_as_turns_are_shown_in_the_configured_order() -> None:
    """What is printed must be what is trained on: as turns, nearest first."""
    pool = make_split(next(iter(DOMAIN_BY_NAME.values())), "pool").questions
    renderer = PromptRenderer(load_tokenizer(LAB_MODEL), PromptConfig(enable_thinking=False), "turns")
    pair = render_pair(renderer, pool, 2, 2048, [0, 1])
    assert [f.level for f in check_pair(pair, 2)] == [OK] and "Solved examples:" not in pair.teacher_text
    places = [pair.teacher_text.index(question.question) for question in (pool[1], pool[2], pool[0])]
    assert places == sorted(places) and pair.teacher_text.count("<|im_start|>assistant") == 3
