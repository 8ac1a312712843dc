"""The one renderer of both roles: what breaks here trains the student on another conversation than it is asked."""

import pytest

from nopsd.config import PromptConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer, think_ids
from nopsd.errors import DataError, UserError
from tests.data.asked import CHOICE, DEMOS, PHRASE, QUESTION


@pytest.fixture(scope="module")
def tokenizer(lab_model_dir):
    return load_tokenizer(lab_model_dir)


@pytest.fixture(params=[True, False, None])
def renderer(request, tokenizer):
    return PromptRenderer(tokenizer, PromptConfig(enable_thinking=request.param))


@pytest.mark.parametrize("question", [QUESTION, CHOICE, PHRASE])
def test_both_roles_end_in_the_same_suffix(renderer, question):
    student, teacher = renderer.student(question), renderer.teacher(question, DEMOS, 4096).ids
    suffix = renderer.suffix(question)
    assert suffix and student[-len(suffix) :] == suffix == teacher[-len(suffix) :]


def test_without_demonstrations_both_prompts_are_equal(renderer):
    assert renderer.teacher(QUESTION, [], 4096).ids == renderer.student(QUESTION)


def test_a_long_teacher_prompt_loses_whole_demonstrations_farthest_first(renderer):
    whole = renderer.teacher(QUESTION, DEMOS, 4096)
    assert (whole.kept, whole.offered) == (4, 4)
    less = renderer.teacher(QUESTION, DEMOS, len(whole.ids) - 1)
    assert (less.kept, less.offered) == (3, 4)
    text = renderer.tokenizer.decode(less.ids)
    assert "Question number 3" not in text and "Question number 0" in text and QUESTION.question in text
    assert less.ids == renderer.teacher(QUESTION, DEMOS[:3], 4096).ids


def test_nearest_stands_last_by_default(renderer):
    text = renderer.tokenizer.decode(renderer.teacher(QUESTION, DEMOS, 4096).ids)
    assert text.index("number 3") < text.index("number 0") < text.index("Aster")


def test_a_question_that_alone_is_too_long_is_named(renderer):
    with pytest.raises(DataError, match=r"question q: .* context.max_prompt=20"):
        renderer.teacher(QUESTION, DEMOS, 20)


def test_thinking_switch_closes_the_block(tokenizer):
    off = tokenizer.decode(PromptRenderer(tokenizer, PromptConfig(enable_thinking=False)).student(QUESTION))
    on = tokenizer.decode(PromptRenderer(tokenizer, PromptConfig(enable_thinking=True)).student(QUESTION))
    assert off.endswith("assistant\n<think>\n\n</think>\n\n") and on.endswith("assistant\n")


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer):
    import copy

    bare = copy.copy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        PromptRenderer(bare, PromptConfig())


def test_thinking_tags_are_found(lab_model_dir):
    tokenizer = load_tokenizer(lab_model_dir)
    opening, closing = think_ids(tokenizer)
    assert tokenizer.decode([opening]) == "<think>" and tokenizer.decode([closing]) == "</think>"
