"""Question files by the hundred: every way to store rows, times every form of options and answers, with what comes of
each; and the same files spoiled, with a part of the message that refuses them.

Out: `file_inputs()`, cases in a fixed order. `expected` is the options of each question and its gold answer, by id, or
the words of a refusal.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

ROWS = 8
TEXTS = ["Merc", "Ven", "Ear", "Mar"]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class FileInput:
    """A file, what a user sets beside its path, and what must come of both."""

    name: str
    file: str
    content: bytes
    settings: tuple[str, ...]
    expected: dict[str, tuple[list[tuple[str, str]], str]] | str


def _jsonl(rows: Rows, end: str = "\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def _csv(rows: Rows, separator: str = ",", end: str = "\n") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for v in row.values()])
    return out.getvalue()


def _parquet(rows: Rows) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


FILES: dict[str, tuple[str, Callable[[Rows], bytes]]] = {
    "jsonl": ("q.jsonl", lambda r: _jsonl(r).encode()),
    "jsonl, CRLF": ("q.jsonl", lambda r: _jsonl(r, "\r\n").encode()),
    "jsonl, CR": ("q.jsonl", lambda r: _jsonl(r, "\r").encode()),
    "jsonl, marked": ("q.jsonl", lambda r: codecs.BOM_UTF8 + _jsonl(r).encode()),
    "jsonl, marked twice": ("q.jsonl", lambda r: 2 * codecs.BOM_UTF8 + _jsonl(r).encode()),
    "jsonl, UTF-16": ("q.jsonl", lambda r: _jsonl(r).encode("utf-16")),
    "jsonl, UTF-32": ("q.jsonl", lambda r: _jsonl(r).encode("utf-32")),
    "jsonl, blank lines": ("q.jsonl", lambda r: _jsonl(r, "\n\n \t\n").encode()),
    "jsonl, gzip": ("Q.JSONL.GZ", lambda r: gzip.compress(_jsonl(r).encode())),
    "json": ("q.json", lambda r: json.dumps(r).encode()),
    "json, indented": ("q.json", lambda r: json.dumps(r, indent=2).encode()),
    "csv": ("q.csv", lambda r: _csv(r).encode()),
    "csv, CRLF": ("q.csv", lambda r: _csv(r, end="\r\n").encode()),
    "csv, marked": ("q.csv", lambda r: codecs.BOM_UTF8 + _csv(r).encode()),
    "csv, marked twice": ("q.csv", lambda r: 2 * codecs.BOM_UTF8 + _csv(r).encode()),
    "csv, UTF-16": ("q.csv", lambda r: _csv(r).encode("utf-16")),
    "csv, semicolons": ("q.csv", lambda r: _csv(r, ";").encode()),
    "csv, Excel's": ("q.csv", lambda r: ("sep=|\r\n" + _csv(r, "|", "\r\n")).encode()),
    "csv, gzip in two parts": ("q.csv.gz", lambda r: b"".join(map(gzip.compress, _halves(_csv(r).encode())))),
    "tsv": ("q.tsv", lambda r: _csv(r, "\t").encode()),
    "parquet": ("q.parquet", _parquet),
}
# name -> (labels, a row's columns that hold them, settings)
OPTIONS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "list": ("ABCD", {"options": TEXTS}, ()),
    "mapping": ("ABCD", {"options": dict(zip("ABCD", TEXTS, strict=True))}, ()),
    "mapping, padded": ("ABCD", {"options": {**dict(zip("ABCD", TEXTS, strict=True)), "E": None, "F": ""}}, ()),
    "numbers": ("1234", {"options": dict(zip("1234", TEXTS, strict=True))}, ()),
    "small letters": ("abcd", {"options": dict(zip("abcd", TEXTS, strict=True))}, ()),
    "Cyrillic": ("АБВГ", {"options": dict(zip("АБВГ", TEXTS, strict=True))}, ()),
    "ARC": ("ABCD", {"choices": {"text": TEXTS, "label": list("ABCD")}}, ("data.options_column=choices",)),
    "list of mappings": (
        "KLMN",
        {"options": [{"label": a, "text": t} for a, t in zip("KLMN", TEXTS, strict=True)]},
        (),
    ),
    "columns": ("ABCD", dict(zip("ABCD", TEXTS, strict=True)), ("data.option_columns=[A,B,C,D]",)),
    "columns in another order": ("BADC", dict(zip("BADC", TEXTS, strict=True)), ("data.option_columns=[B,A,D,C]",)),
    "named columns": (
        "ABCD",
        {f"op{i}": text for i, text in enumerate(TEXTS)},
        ("data.option_columns=[op0,op1,op2,op3]",),
    ),
}
ANSWERS: dict[str, Callable[[str, int], Any]] = {
    "label": lambda labels, i: labels[i],
    "(label)": lambda labels, i: f"({labels[i]})",
    "label: text": lambda labels, i: f"{labels[i]}) {TEXTS[i]}",
    "text": lambda labels, i: TEXTS[i].upper(),
    "index from 0": lambda labels, i: i,
    "index from 1": lambda labels, i: i + 1,
    "list": lambda labels, i: [labels[i]],
}


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


def _rows(columns: dict[str, Any], answer: Callable[[int], Any]) -> Rows:
    return [{"id": f"q{i}", "question": f"Wëlche {i}?", **columns, "answer": answer(i)} for i in range(ROWS)]


def _read() -> Iterator[FileInput]:
    for file, (name, write) in FILES.items():
        for form, (labels, columns, settings) in OPTIONS.items():
            for kind, answer in ANSWERS.items():
                if kind == "list" and name.split(".")[1] in ("csv", "tsv"):
                    continue  # a cell of text
                rows = _rows(columns, lambda i, labels=labels, answer=answer: answer(labels, i % 4))
                options = list(zip(labels, TEXTS, strict=True))
                expected = {f"q{i}": (options, labels[i % 4]) for i in range(ROWS)}
                yield FileInput(f"{file}; {form}; {kind}", name, write(rows), settings, expected)


GOOD = _rows({"options": TEXTS}, lambda i: "ABCD"[i % 4])


def _with(**columns: Any) -> Rows:
    """The good rows, the last of them other in these columns."""
    return [*GOOD[:-1], {**GOOD[-1], **columns}]


SPOILED: dict[str, tuple[Rows, tuple[str, ...], str]] = {
    "no question": (_with(question=None), (), "no text in column `question`"),
    "a blank question": (_with(question=" \u200b"), (), "no text in column `question`"),
    "one option": (_with(options=["x"]), (), "one option alone"),
    "an empty option": (_with(options=["x", ""]), (), "an option holds nothing"),
    "27 options": (_with(options=["x"] * 27), (), "27 options"),
    "an id twice": (_with(id="q0"), (), "id q0 was used before"),
    "an answer beyond": ([{**row, "answer": "E"} for row in GOOD], (), "its answer 'E' is not among its options"),
    "no answer": (
        [{**row, "answer": None} if i else row for i, row in enumerate(GOOD)],
        (),
        "has options but no answer",
    ),
    "a misspelt column": (GOOD, ("data.answer_column=anwser",), "did you mean answer"),
    "a column for two": (GOOD, ("data.context_column=answer",), "column answer is named by"),
    "options unnamed": (
        [{"choices" if k == "options" else k: v for k, v in r.items()} for r in GOOD],
        (),
        "looks like",
    ),
    "all for the test": (GOOD, ("data.test_ratio=0.99",), "leaves none for the pool"),
}
JSON_ONLY: dict[str, tuple[str, str]] = {  # text in the place of the last row
    "half a surrogate": ('{"question": "\\udc00"}', "half a surrogate"),
    "NaN": ('{"question": NaN}', "no text in column"),
    "Infinity": ('{"question": Infinity}', "holds a float"),
    "an option of null": ('{"question": "x", "options": ["x", null]}', "an option holds nothing"),
    "an option in an option": ('{"question": "x", "options": ["x", {"y": 1}]}', "an option holds a dict"),
    "a key twice": ('{"question": "x", "question": "y"}', "given twice"),
    "an answer in the chat": ('{"question": [{"role": "assistant", "content": "A"}]}', "chat of one user turn"),
    "several answers": ('{"question": "x", "options": ["x", "y"], "answer": ["A", "B"]}', "2 answers"),
    "deep": ('{"question": ' + "[" * 99_999, "q.json"),
    "not JSON": ("{question: 'x'}", "not JSON"),
    "a context that is a list": ('{"question": "x", "context": ["y"]}', "column `context` holds a list"),
}


def _refused() -> Iterator[FileInput]:
    for file, (name, write) in FILES.items():
        for what, (rows, settings, words) in SPOILED.items():
            yield FileInput(f"{file}; {what}", name, write(rows), settings, words)
        if "UTF" not in file and "gz" not in name.lower() and "parquet" not in name:
            yield FileInput(f"{file}; NUL", name, write(GOOD).replace(b"q3", b"q\0", 1), (), "a NUL byte")
            yield FileInput(f"{file}; Latin-1", name, write(GOOD) + b"\xff", (), "not UTF-8")
        if "gz" in name.lower():
            yield FileInput(f"{file}; cut", name, write(GOOD)[:-9], (), "ends too early")
            yield FileInput(f"{file}; no gzip", name, b"x", (), "is not gzip")
        if "parquet" in name:
            yield FileInput(f"{file}; cut", name, write(GOOD)[:-9], (), "not readable as parquet")
    for what, (text, words) in JSON_ONLY.items():
        more = ("data.context_column=context",) if "context" in text else ()
        rows = [{**row, "context": "c"} for row in GOOD[:-1]] if more else GOOD[:-1]
        yield FileInput(f"jsonl; {what}", "q.jsonl", (_jsonl(rows) + text).encode(), more, words)
        listed = json.dumps(rows)[:-1] + f",\n{text}]"
        yield FileInput(f"json; {what}", "q.json", listed.encode(), more, words)


def file_inputs() -> list[FileInput]:
    """All of them."""
    return [*_read(), *_refused()]
