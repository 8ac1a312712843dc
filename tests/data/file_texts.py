"""Rows and texts that the tables of question files are made of: READ (question_files) and REFUSED (refused_files)."""

import codecs
import csv
import io
import json

TEXTS = ["Merc", "Ven", "Ear", "Mar"]
ABCD = list(zip("ABCD", TEXTS, strict=True))


def asked(number, **columns):
    return {"id": f"q{number}", "question": f"Which planet {number}?", "options": TEXTS, **columns}


def labelled(**columns):
    """Eight rows, their answers A, B, C, D, A, ...; columns given as functions of the number replace those."""
    return [
        {"answer": "ABCD"[i % 4], **asked(i), **{k: v(i) if callable(v) else v for k, v in columns.items()}}
        for i in range(8)
    ]


def jsonl(rows, end="\n"):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + end for row in rows)


def csv_text(rows, separator=",", end="\r\n", header=None):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end)
    writer.writerow(header or list(rows[0]))
    writer.writerows([[json.dumps(v) if isinstance(v, list | dict) else v for v in row.values()] for row in rows])
    return out.getvalue()


ROWS = labelled()
PLANETS = {"rows": 8, "options": ABCD, "gold": ["A", "B", "C", "D"]}
ANSWER_FIRST = [{"answer": r["answer"], "question": r["question"], "options": r["options"]} for r in ROWS]
COLUMNS = [
    {"id": i, "prompt": f"Which {i}?", **dict(zip("ABCDE", [*TEXTS, "Jup"], strict=True)), "answer": "ABCDE"[i % 5]}
    for i in range(8)
]
MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
BOM = codecs.BOM_UTF8
ARC = ["data.options_column=choices", "data.answer_column=answerKey"]


def nested(i):
    return {"text": TEXTS, "label": list("ABCD")}


def arc(choices):
    return [{"id": r["id"], "question": r["question"], "choices": choices, "answerKey": r["answer"]} for r in ROWS]
