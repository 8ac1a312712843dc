"""Instruction data: every form of file gives the same pool and responses, prompts carry no wording of ours."""

import gzip
import json

import pytest

from nopsd.config import DataConfig, PromptConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.records import Question
from nopsd.data.sources import load_answer_key, load_lines, load_splits
from nopsd.data.wording import Demonstration
from nopsd.errors import DataError

ROWS = [
    {"instruction": "Name a metal.", "input": "", "output": "Iron\u2028or tin."},
    {"instruction": "Add up.", "input": "2 and 3", "output": "5"},
    {"instruction": "Say nothing.", "output": ""},
]
PROMPTS = ["Name a metal.", "Add up.\n\n2 and 3", "Say nothing."]


def data(path, **columns):
    return DataConfig(name="instructions", path=str(path), domain="mine", **columns)


def jsonl(rows):
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def written(tmp_path, name):
    """The rows in one of the forms they come in."""
    path = tmp_path / name
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return path
    text = {"jsonl": jsonl(ROWS), "list": json.dumps(ROWS, indent=4), "flat": json.dumps(ROWS)}[name.split(".")[0]]
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


FORMS = ["jsonl.jsonl", "jsonl.jsonl.gz", "list.json", "flat.json", "list.json.gz", "table.parquet"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_pool_and_responses(tmp_path, name):
    """Alpaca as shipped is a JSON list: a form read otherwise is other data under the same settings."""
    config = data(written(tmp_path, name))
    splits = load_splits(config)
    responses = splits.responses
    assert [q.question for q in splits.pool] == PROMPTS and splits.tests == {} and load_answer_key(config) == {}
    assert responses == {f"row-{n}": row["output"] for n, row in enumerate(ROWS, 1)}
    assert {q.domain for q in splits.pool} == {"mine"} and "Iron" not in repr(splits.pool)
    lines = load_lines(config)
    assert list(lines) == list(responses) and not any("\n" in line for line in lines.values())
    assert [json.loads(line)["output"] for line in lines.values()] == [row["output"] for row in ROWS]


def test_lines_come_as_they_stand(tmp_path):
    """A subset that re-writes its rows is no longer a subset of the file."""
    odd = ['{"output":"a" ,  "instruction": "\\u0041"}', "", '{"id": 7, "instruction":"B", "output": "b"}']
    (tmp_path / "q.jsonl").write_bytes("\r\n".join(odd).encode())
    assert load_lines(data(tmp_path / "q.jsonl")) == {"row-1": odd[0], "7": odd[2]}
    (tmp_path / "q.json").write_text(f"[\n{odd[0]},\n {odd[2]}\n]\n")
    assert load_lines(data(tmp_path / "q.json")) == {"row-1": odd[0], "7": odd[2]}


def test_columns_and_messages(tmp_path):
    rows = [
        {"question": "Q?", "instruction": "not this", "answer_text": "A"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"instruction": "Else", "answer_text": None},
    ]
    (tmp_path / "q.jsonl").write_text(jsonl(rows))
    config = data(tmp_path / "q.jsonl", response_column="answer_text")
    assert [q.question for q in load_splits(config).pool] == ["Q?", "Hi", "Else"]
    assert list(load_splits(config).responses.values()) == ["A", "Ho", ""]


TURN = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{nope"], r"q.jsonl:1: not JSON"),
        ([ROWS[0], {"instruction": " ", "output": "x"}], r"q.jsonl:2: no text in column `instruction`"),
        ([{"prompt": "x"}], r"q.jsonl:1: .*columns: prompt.*data.question_column"),
        ([{"instruction": "x", "response": "y"}], r"q.jsonl:1: no text in column `output`.*data.response_column"),
        ([{"instruction": "x", "output": ["y"]}], r"q.jsonl:1: no text in column `output`"),
        ([{"messages": [TURN, TURN]}], r"q.jsonl:1: .*got user, user"),
        ([{"messages": "x"}], r"q.jsonl:1: .*got str"),
        ([{"messages": [{"role": "user"}, {"role": "assistant", "content": "y"}]}], r"q.jsonl:1: each turn"),
        ([{"id": 1, **ROWS[0]}, {"id": 1, **ROWS[1]}], r"q.jsonl:2: id 1 was used before, at .*q.jsonl:1"),
        ([], r"the pool .* is empty"),
    ],
)
def test_bad_rows_are_refused_by_place(tmp_path, rows, said):
    (tmp_path / "q.jsonl").write_text(jsonl(rows))
    with pytest.raises(DataError, match=said):
        load_splits(data(tmp_path / "q.jsonl"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"instruction": "a", "output": "b"},\n\n 7]', r"q.json:3: a JSON object"),
        ('[{"instruction": "a",\n "output": "b"},\n {"instruction": ""}]', r"q.json:3: no text"),
        ("[\n{]", r"q.json:2: not JSON"),
        ('{"a": 1}', r"q.json:1: no text in column"),
    ],
)
def test_bad_lists_are_refused_by_place(tmp_path, text, said):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(DataError, match=said):
        load_splits(data(tmp_path / "q.json"))


def test_no_path_and_no_file_say_so(tmp_path):
    with pytest.raises(DataError, match="needs data.path"):
        load_splits(DataConfig(name="instructions"))
    with pytest.raises(DataError, match=r"no.json does not exist"):
        load_splits(data(tmp_path / "no.json"))


ASKED = Question("row-1", "d", "instructions", "Name a metal.\n\nAny.")
QUESTION = Question("q", "d", "file", "Name a metal.\n\nAny.")


def test_prompt_and_response_are_the_templates_own_conversation(lab_model_dir):
    """Scored ids that are not those of the chat template belong to a conversation that no one trains on."""
    tokenizer = load_tokenizer(lab_model_dir)
    renderer = PromptRenderer(tokenizer, PromptConfig())
    user, reply = {"role": "user", "content": ASKED.question}, {"role": "assistant", "content": "Iron, say."}
    whole = tokenizer.apply_chat_template([user, reply], return_dict=False)
    ids = renderer.student(ASKED) + renderer.response("Iron, say.")
    assert ids == whole[: len(ids)] and tokenizer.decode(whole[len(ids) :]).strip() == ""
    assert tokenizer.decode(ids).endswith("Iron, say.<|im_end|>")
    assert "system" in tokenizer.decode(renderer.student(QUESTION)) and "system" not in tokenizer.decode(ids)
    assert renderer.response(" \n") == []


def test_both_roles_are_asked_alike(lab_model_dir):
    renderer = PromptRenderer(load_tokenizer(lab_model_dir), PromptConfig(enable_thinking=False))
    suffix = renderer.suffix(ASKED)
    teacher = renderer.teacher(ASKED, [Demonstration(QUESTION, "Tin.")], 4096).ids
    assert renderer.student(ASKED)[-len(suffix) :] == suffix == teacher[-len(suffix) :]
    assert "system" not in renderer.tokenizer.decode(teacher) and "Tin." in renderer.tokenizer.decode(teacher)
    assert renderer.teacher(ASKED, [], 4096).ids == renderer.student(ASKED)


TEMPLATES = {
    "{% for m in messages %}[{{ m.role }}]{{ m.content }} <|endoftext|>\n{% endfor %}": "<|endoftext|>",
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}": "<|im_end|>",  # the tokenizer's own end
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_turns_end_is_the_templates_else_the_tokenizers(lab_model_dir, template):
    tokenizer = load_tokenizer(lab_model_dir)
    tokenizer.chat_template = template
    assert tokenizer.decode(PromptRenderer(tokenizer, PromptConfig()).turn_end) == TEMPLATES[template]


def test_qwen3_ends_its_turn_as_it_generates_it(shared_data, tmp_path):
    """With the real vocabulary, whose base models name another end of sequence than their chat template writes."""
    from transformers import PreTrainedTokenizerFast

    from nopsd.lab.tokenizer import CHAT_TEMPLATE

    file = tmp_path / "tokenizer.json"
    file.write_bytes(gzip.decompress((shared_data / "qwen3_tokenizer" / "tokenizer.json.gz").read_bytes()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    renderer = PromptRenderer(tokenizer, PromptConfig())
    assert renderer.turn_end == [151645]
    assert renderer.response("Hello, world!") == [9707, 11, 1879, 0, 151645]


def test_a_column_that_is_named_and_not_there_is_refused(tmp_path):
    """It was ignored: ids were numbers, and another column was asked."""
    (tmp_path / "q.jsonl").write_text(jsonl(ROWS))
    for columns in ({"id_column": "key"}, {"question_column": "ask"}):
        with pytest.raises(DataError, match="names no column; there are: instruction, input, output"):
            load_splits(data(tmp_path / "q.jsonl", **columns))
