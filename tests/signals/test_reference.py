"""The reference file of a target ability: both forms are read, every bad line is named."""

import json

import pytest

from nopsd.errors import ConfigError, DataError
from nopsd.signals.reference import read_reference


def encode(prompt, response):
    return [ord(c) for c in prompt], [ord(c) for c in response]


def write(folder, *rows):
    path = folder / "reference.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_both_forms_in_order_up_to_the_limit(tmp_path):
    """Common instruction sets work as they are; a limit takes the first, so that it is reproducible."""
    path = write(
        tmp_path,
        {"prompt": "p\u2028q", "response": "r"},
        "",
        {"instruction": "i", "input": "j", "output": "o"},
        {"instruction": "i", "input": "", "output": "o"},
        {"instruction": "k", "output": "o", "answer": "POISON"},
        "not read any more",
    )
    found = read_reference(path, 4, encode)
    assert ["".join(map(chr, r.prompt_ids)) for r in found] == ["p\u2028q", "i\n\nj", "i", "k"]
    assert ["".join(map(chr, r.response_ids)) for r in found] == ["r", "o", "o", "o"]
    assert [r.uid for r in found] == sorted({r.uid for r in found}), "their order is the file's"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2: give an object with prompt and response"),
        ({"question": "x"}, "line 2: give an object"),
        ({"prompt": "x"}, "line 2: response must be a text"),
        ({"prompt": "x", "response": 3}, "line 2: response must"),
        ({"prompt": " ", "response": "y"}, "prompt must"),
        ({"instruction": "x", "input": 4, "output": "y"}, "line 2: input must"),
        ({"prompt": "x" * 30, "response": "y"}, "line 2: 31 tokens, and the model's window is 20"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = write(tmp_path, {"prompt": "a", "response": "b"}, line)
    with pytest.raises(DataError, match=said) as raised:
        read_reference(path, 9, encode, window=20)
    assert "signal.reference" in str(raised.value) and str(path) in str(raised.value)


def test_a_response_without_token_is_named(tmp_path):
    path = write(tmp_path, {"prompt": "a", "response": "b"})
    with pytest.raises(DataError, match="line 1: the response has no token"):
        read_reference(path, 9, lambda p, r: ([1], []))


def test_files_that_cannot_serve_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="signal.reference=.*can't be read"):
        read_reference(tmp_path / "none.jsonl", 9, encode)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ConfigError, match="UTF-8"):
        read_reference(tmp_path / "latin.jsonl", 9, encode)
    with pytest.raises(DataError, match="has 1 examples: nait needs 2"):
        read_reference(write(tmp_path, {"prompt": "a", "response": "b"}), 9, encode)
