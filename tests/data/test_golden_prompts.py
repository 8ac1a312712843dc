"""Both roles' prompts for every option of `prompt` and `context.placement`, as text, in tests/data/golden/TEMPLATE.txt.

What differs there trains or asks a model in other words than before. `NOPSD_GOLDEN=write pytest FILE` writes the files
anew, for a change that is meant.
"""

import os
from pathlib import Path

import pytest

from nopsd.config import PromptConfig
from nopsd.data.demonstrations import display_order
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.records import Question
from nopsd.data.wording import Demonstration
from tests.data.asked import CHOICE, PHRASE

GOLDEN = Path(__file__).parent / "golden"
TURN = "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
SUFFIX = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
TEMPLATES = {
    # Qwen2.5's, without its tools: a system message of its own where none is given
    "qwen": "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}" + TURN + "{%- endfor %}" + SUFFIX,
    # as Gemma's and Mistral's: a system role is refused, and turns must alternate
    "no_system_role": "{%- for message in messages %}{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{%- endif %}" + TURN + "{%- endfor %}" + SUFFIX,
    # as Phi-3's: a system turn is left out without a word
    "drops_system": "{%- for message in messages %}{%- if message.role != 'system' %}"
    + TURN
    + "{%- endif %}{%- endfor %}"
    + SUFFIX,
}
WORDS = Question("w", "d", "t", "Ann has 3 apples and buys 4.\n\nHow many has she?")
SOLVED = [
    Demonstration(Question(f"d{i}", "d", "t", f"What is {i} + {i}?"), f"Twice {i} is {2 * i}. So {2 * i}.")
    for i in (1, 2)
]
CASES = {  # (question, prompt.*, context.placement, context.order)
    "as it is, letters": (CHOICE, {}, "inline", "nearest_last"),
    "as it is, phrases": (PHRASE, {}, "inline", "nearest_last"),
    "as it is, open": (WORDS, {}, "inline", "nearest_last"),
    "system message of one's own": (WORDS, {"system": "Be short. Give {format}."}, "inline", "nearest_last"),
    "no system message": (WORDS, {"system": "none"}, "inline", "nearest_last"),
    "question template": (
        CHOICE,
        {"question": "Q: {question}\nChoose from\n{options}\n\n{instruction}\n\nA {stays} as it is:"},
        "inline",
        "nearest_last",
    ),
    "instruction of one's own": (WORDS, {"instruction": "Step by step, then only {format}."}, "inline", "nearest_last"),
    "no instruction": (CHOICE, {"instruction": "none"}, "inline", "nearest_last"),
    "a number": (WORDS, {"answer": "number"}, "inline", "nearest_last"),
    "a letter": (WORDS, {"answer": "letter"}, "inline", "nearest_last"),
    "in a box": (WORDS, {"answer": "number", "answer_format": "box"}, "inline", "nearest_last"),
    "in a last line": (CHOICE, {"answer_format": "line"}, "inline", "nearest_last"),
    "anywhere": (PHRASE, {"answer_format": "bare"}, "inline", "nearest_last"),
    "nearest first": (WORDS, {}, "inline", "nearest_first"),
    "turns, nearest last": (WORDS, {"answer": "number"}, "turns", "nearest_last"),
    "turns, nearest first": (WORDS, {"answer": "number"}, "turns", "nearest_first"),
    "turns without a system message": (CHOICE, {"system": "none"}, "turns", "nearest_last"),
}


def rendered(tokenizer, name):
    question, words, placement, order = CASES[name]
    prompts = PromptRenderer(tokenizer, PromptConfig(**words), placement)
    shown = display_order(len(SOLVED), order, "")
    roles = {
        "student": prompts.student(question),
        "teacher": prompts.teacher(question, SOLVED, 4096, shown).ids,
        "demonstrations alone": prompts.teacher(question, SOLVED, 4096, shown, ask=False).ids,
    }
    return "".join(f"=== {name} | {role}\n{tokenizer.decode(ids)}\n" for role, ids in roles.items())


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_option_renders_as_recorded(lab_model_dir, template):
    tokenizer = load_tokenizer(lab_model_dir)
    tokenizer.chat_template = TEMPLATES[template]
    text, file = "".join(rendered(tokenizer, name) for name in CASES), GOLDEN / f"{template}.txt"
    if os.environ.get("NOPSD_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", CASES)
def test_roles_agree_whatever_the_options(lab_model_dir, template, name):
    """Each prompt asks the student's question in the same tokens at its end, and tells how to answer once."""
    tokenizer = load_tokenizer(lab_model_dir)
    tokenizer.chat_template = TEMPLATES[template]
    question, words, placement, _ = CASES[name]
    prompts = PromptRenderer(tokenizer, PromptConfig(**words), placement)
    student, teacher = prompts.student(question), prompts.teacher(question, SOLVED, 4096)
    asked = [i for i, (a, b) in enumerate(zip(reversed(student), reversed(teacher.ids))) if a != b]
    assert teacher.kept == 2 and (not asked or asked[0] > len(prompts.suffix(question)))
    text = tokenizer.decode(teacher.ids)
    assert text.count(question.question) == 1 and all(d.solution in text for d in SOLVED)
    if placement == "turns":
        assert text.count("<|im_start|>assistant") == 3 and "Solved examples" not in text
    assert prompts.teacher(question, [], 4096).ids == student
