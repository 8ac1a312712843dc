"""Prompts by the real Qwen3 vocabulary and templates that behave as Qwen3's: the ids that the paper's model
would see. Skipped only where ../shared is not beside the checkout."""

import gzip

import pytest

from nopsd.config import PromptConfig, load_config
from nopsd.data.answers import extract_answer, leaves_think_open
from nopsd.data.prompts import PromptRenderer
from nopsd.data.sources import load_splits
from nopsd.data.wording import Demonstration, student_message, system_message

# Ids of Qwen3's vocabulary, as its tokenizer_config.json publishes them.
IM_START, IM_END, THINK, END_THINK = 151644, 151645, 151667, 151668
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
# Qwen3's switch: thinking is shut by an empty block; the 2507 thinking models always open one.
SWITCHED = TURN + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ALWAYS = TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
TEMPLATES = [
    (SWITCHED, None, ""),
    (SWITCHED, True, ""),
    (SWITCHED, False, "<think>\n\n</think>\n\n"),
    (ALWAYS, None, "<think>\n"),
]
SETS = [
    ("sciknoweval", "Biology", "sciknoweval_biology_mcq4.jsonl.gz"),
    ("mmlu_pro", "mmlu_pro", "mmlu_pro_test.jsonl.gz"),
    ("edu_feedback", "edu_feedback", "edu_feedback_pool.jsonl.gz"),
]


@pytest.fixture(scope="module")
def tokenizer(shared_data, tmp_path_factory):
    from transformers import PreTrainedTokenizerFast

    file = tmp_path_factory.mktemp("qwen3") / "tokenizer.json"
    file.write_bytes(gzip.decompress((shared_data / "qwen3_tokenizer" / "tokenizer.json.gz").read_bytes()))
    return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="module")
def questions(shared_data):
    """A few real questions of each set, the longest among them."""
    few = {}
    for name, domain, file in SETS:
        config = load_config("lab", [f"data.name={name}", f"data.domain={domain}", f"data.path={shared_data / file}"])
        pool = load_splits(config.data).pool
        few[name] = [*pool[:8], max(pool, key=lambda q: len(q.question))]
    return few


def renderer(tokenizer, template, thinking):
    tokenizer.chat_template = template
    return PromptRenderer(tokenizer, PromptConfig(enable_thinking=thinking))


@pytest.mark.parametrize(("template", "thinking", "suffix"), TEMPLATES)
@pytest.mark.parametrize("name", [name for name, *_ in SETS])
def test_real_questions_become_the_conversation_and_nothing_else(
    tokenizer, questions, template, thinking, suffix, name
):
    """One lost or doubled special token, and the model is asked in a format that it was never trained on."""
    prompts = renderer(tokenizer, template, thinking)
    for question in questions[name]:
        ids = prompts.student(question)
        said = f"<|im_start|>system\n{system_message(question)}<|im_end|>\n"
        said += f"<|im_start|>user\n{student_message(question)}<|im_end|>\n<|im_start|>assistant\n{suffix}"
        assert tokenizer.decode(ids) == said
        assert ids.count(IM_START) == 3 and ids.count(IM_END) == 2


@pytest.mark.parametrize(
    ("template", "thinking", "ids"),
    [
        (SWITCHED, True, [IM_START, 77091, 198]),
        (SWITCHED, False, [IM_START, 77091, 198, THINK, 271, END_THINK, 271]),
        (ALWAYS, None, [IM_START, 77091, 198, THINK, 198]),
    ],
)
def test_the_suffix_in_qwen3s_own_ids(tokenizer, questions, template, thinking, ids):
    """Rollouts, teacher and evaluation all begin behind these ids."""
    assert renderer(tokenizer, template, thinking).suffix(questions["sciknoweval"][0]) == ids


@pytest.mark.parametrize(("template", "thinking", "suffix"), TEMPLATES)
def test_teacher_and_student_end_alike_on_real_questions(tokenizer, questions, template, thinking, suffix):
    """The same response is appended to both: a token's shift would make the loss large at once."""
    prompts = renderer(tokenizer, template, thinking)
    asked, *others = questions["mmlu_pro"]
    shown = [Demonstration(q, "It follows. <answer>A</answer>") for q in others[:4]]
    student, teacher = prompts.student(asked), prompts.teacher(asked, shown, 20_000)
    assert teacher.kept == 4
    message = tokenizer.encode(f"{student_message(asked)}<|im_end|>\n<|im_start|>assistant\n{suffix}")
    assert student[-len(message) + 8 :] == teacher.ids[-len(message) + 8 :] == message[8:]


def test_only_the_thinking_template_leaves_a_block_open(tokenizer, questions):
    """Else a response cut inside its thinking is scored by a letter of its reasoning."""
    question = questions["sciknoweval"][0]
    open_ = [
        leaves_think_open(tokenizer.decode(renderer(tokenizer, template, thinking).suffix(question)))
        for template, thinking, _ in TEMPLATES
    ]
    assert open_ == [False, False, False, True]
    cut = tokenizer.decode(tokenizer.encode("So the answer is B, but let me"))
    assert extract_answer(cut, question, think_open=True) is None
    assert extract_answer(cut + "</think>\n\n<answer>B</answer>", question, think_open=True) == "B"


def test_a_given_response_ends_as_the_models_own_turn_does(tokenizer):
    prompts = renderer(tokenizer, SWITCHED, None)
    assert prompts.turn_end == [IM_END]
    assert prompts.response("<answer>B</answer>")[-1] == IM_END
