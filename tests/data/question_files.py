"""The table of question files: what people have, and what is to come of it (tests/data/test_rows.py).

A case is a file's text, the settings a user would give, and what has to come of it. `rows`: questions in pool and
tests; `options`: those of the first question; `gold`: the answers of the first questions, in file order.
"""

import codecs
import csv
import gzip
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


# name -> (file name, its bytes or text, settings, what comes of it)
READ = {
    "csv with a mark, answer first": ("q.csv", BOM + csv_text(ANSWER_FIRST).encode(), [], PLANETS),
    "csv with a mark, id first": ("q.csv", BOM + csv_text(ROWS).encode(), [], {**PLANETS, "ids": "q0"}),
    "jsonl with a mark": ("q.jsonl", BOM + jsonl(ROWS).encode(), [], {**PLANETS, "ids": "q0"}),
    "jsonl with CRLF": ("q.jsonl", jsonl(ROWS, "\r\n"), [], PLANETS),
    "jsonl with CR alone": ("q.jsonl", jsonl(ROWS, "\r"), [], PLANETS),
    "jsonl, marks in the middle": (
        "q.jsonl",
        BOM.join([jsonl(ROWS[:4]).encode(), jsonl(ROWS[4:]).encode()]),
        [],
        PLANETS,
    ),
    "csv with LF": ("q.csv", csv_text(ROWS, end="\n"), [], PLANETS),
    "csv with CR alone": ("q.csv", csv_text(ROWS, end="\r"), [], PLANETS),
    "utf-16 csv": ("q.csv", MARKS["utf-16-le"] + csv_text(ROWS).encode("utf-16-le"), [], PLANETS),
    "utf-16 jsonl, big end first": ("q.jsonl", MARKS["utf-16-be"] + jsonl(ROWS).encode("utf-16-be"), [], PLANETS),
    "semicolons": ("q.csv", csv_text(ROWS, ";"), [], PLANETS),
    "tabs": ("q.tsv", csv_text(ROWS, "\t"), [], PLANETS),
    "tabs in a .csv": ("q.csv", csv_text(ROWS, "\t"), [], PLANETS),
    "Excel's first line": ("q.csv", "sep=;\r\n" + csv_text(ROWS, ";"), [], PLANETS),
    "spaces in the header": ("q.csv", csv_text(ROWS, header=["answer ", " id", "question", "options"]), [], PLANETS),
    "blank lines": ("q.csv", csv_text(ROWS).replace("\r\n", "\r\n\r\n"), [], PLANETS),
    "a JSON list": ("q.json", json.dumps(ROWS, indent=2), [], PLANETS),
    "a JSON list named .jsonl": ("q.jsonl", json.dumps(ROWS), [], PLANETS),
    "JSON lines named .json": ("q.json", jsonl(ROWS), [], PLANETS),
    "gzip": ("q.jsonl.gz", gzip.compress(jsonl(ROWS).encode()), [], PLANETS),
    "gzip of a marked csv": ("q.csv.gz", gzip.compress(BOM + csv_text(ROWS).encode()), [], PLANETS),
    "upper-case suffix": ("Q.JSONL", jsonl(ROWS), [], PLANETS),
    "ARC's choices": ("q.jsonl", jsonl(arc(nested(0))), ARC, PLANETS),
    "ARC's choices in a CSV": ("q.csv", csv_text(arc(nested(0))), ARC, PLANETS),
    "a list of label and text": (
        "q.jsonl",
        jsonl(labelled(options=[{"label": label, "text": text} for label, text in ABCD])),
        [],
        PLANETS,
    ),
    "Python's list in a CSV": ("q.csv", csv_text(labelled(options=str(TEXTS))), [], PLANETS),
    "labels 1 to 4": (
        "q.jsonl",
        jsonl(labelled(options=dict(zip("1234", TEXTS, strict=True)), answer=lambda i: "1234"[i % 4])),
        [],
        {"rows": 8, "options": list(zip("1234", TEXTS, strict=True)), "gold": ["1", "2", "3", "4"]},
    ),
    "labels 1 to 4, answers as numbers": (
        "q.jsonl",
        jsonl(labelled(options=dict(zip("1234", TEXTS, strict=True)), answer=lambda i: i % 4 + 1)),
        [],
        {"rows": 8, "gold": ["1", "2", "3", "4"]},
    ),
    "labels a to d": (
        "q.jsonl",
        jsonl(labelled(options=dict(zip("abcd", TEXTS, strict=True)), answer=lambda i: "abcd"[i % 4])),
        [],
        {"rows": 8, "options": list(zip("abcd", TEXTS, strict=True)), "gold": ["a", "b", "c", "d"]},
    ),
    "labels a to d, answers in capitals": (
        "q.jsonl",
        jsonl(labelled(options=dict(zip("abcd", TEXTS, strict=True)))),
        [],
        {"rows": 8, "gold": ["a", "b", "c", "d"]},
    ),
    "labels A) to D)": (
        "q.jsonl",
        jsonl(labelled(options={f"{label})": text for label, text in ABCD}, answer=lambda i: f"{'ABCD'[i % 4]})")),
        [],
        {"rows": 8, "options": [(f"{label})", text) for label, text in ABCD], "gold": ["A)", "B)", "C)", "D)"]},
    ),
    "labels A) to D), answers without": (
        "q.jsonl",
        jsonl(labelled(options={f"{label})": text for label, text in ABCD})),
        [],
        {"rows": 8, "gold": ["A)", "B)", "C)", "D)"]},
    ),
    "a column an option": (
        "q.csv",
        csv_text(COLUMNS),
        ["data.question_column=prompt", "data.option_columns=[A,B,C,D,E]"],
        {"rows": 8, "options": [*ABCD, ("E", "Jup")], "gold": ["A", "B", "C", "D", "E"]},
    ),
    "MedMCQA's columns, indices from 0": (
        "q.jsonl",
        jsonl([{"question": f"Q {i}", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": i % 4} for i in range(8)]),
        ["data.option_columns=[opa,opb,opc,opd]", "data.answer_column=cop"],
        {"rows": 8, "options": list(zip("ABCD", "wxyz", strict=True)), "gold": ["A", "B", "C", "D"]},
    ),
    "answers name their columns": (
        "q.jsonl",
        jsonl([{"question": f"Q {i}", "op1": "w", "op2": "x", "answer": f"op{i % 2 + 1}"} for i in range(8)]),
        ["data.option_columns=[op1,op2]"],
        {"rows": 8, "gold": ["A", "B"]},
    ),
    "an empty option column is no option": (
        "q.csv",
        csv_text([{**row, "D": "", "E": "", "answer": "A"} for row in COLUMNS]),
        ["data.question_column=prompt", "data.option_columns=[A,B,C,D,E]"],
        {"rows": 8, "options": ABCD[:3], "gold": ["A", "A"]},
    ),
    "null in a mapping is no option": (
        "q.jsonl",
        jsonl(labelled(options={**dict(ABCD), "E": None})),
        [],
        PLANETS,
    ),
    "indices from 0": ("q.jsonl", jsonl(labelled(answer=lambda i: i % 4)), [], PLANETS),
    "indices from 1": ("q.jsonl", jsonl(labelled(answer=lambda i: i % 4 + 1)), [], PLANETS),
    "indices in a CSV": ("q.csv", csv_text(labelled(answer=lambda i: i % 4)), [], PLANETS),
    "indices with a decimal point": ("q.jsonl", jsonl(labelled(answer=lambda i: float(i % 4))), [], PLANETS),
    "an index that needs its start": (
        "q.jsonl",
        jsonl(labelled(answer=2)),
        ["data.first_index=1"],
        {"rows": 8, "gold": ["B", "B"]},
    ),
    "answers by their text": ("q.jsonl", jsonl(labelled(answer=lambda i: TEXTS[i % 4].lower())), [], PLANETS),
    "answers in lists": ("q.jsonl", jsonl(labelled(answer=lambda i: ["ABCD"[i % 4]])), [], PLANETS),
    "answers (A) and A.": ("q.jsonl", jsonl(labelled(answer=lambda i: ["(A)", "B.", "c", "D)"][i % 4])), [], PLANETS),
    "blood groups are texts": (
        "q.jsonl",
        jsonl(labelled(options=["O", "A", "B", "AB"], answer=lambda i: ["A", "AB", "O", "B"][i % 4])),
        [],
        {"rows": 8, "gold": ["B", "D", "A", "C"]},
    ),
    "True and False": (
        "q.jsonl",
        jsonl(labelled(options={"T": "True", "F": "False"}, answer=lambda i: i % 2 == 0)),
        [],
        {"rows": 8, "gold": ["T", "F"]},
    ),
    "numbers as options stay as written": (
        "q.jsonl",
        [f'{{"question": "Q{i}", "options": [2.50, 1e3, 7, "NA"], "answer": "D"}}\n' for i in range(8)],
        [],
        {"rows": 8, "options": list(zip("ABCD", ["2.50", "1e3", "7", "NA"], strict=True)), "gold": ["D"]},
    ),
    "NA and None stay text in a CSV": (
        "q.csv",
        csv_text([{"question": f"Symbol {i} of sodium?", "answer": "NA" if i % 2 else "None"} for i in range(8)]),
        [],
        {"rows": 8, "gold": ["None", "NA"]},
    ),
    "26 options": (
        "q.jsonl",
        jsonl(labelled(options=[f"o{i}" for i in range(26)], answer="Z")),
        [],
        {"rows": 8, "gold": ["Z"]},
    ),
    "another number of options a row": (
        "q.jsonl",
        jsonl(labelled(options=lambda i: [f"o{n}" for n in range(2 + i)], answer="B")),
        [],
        {"rows": 8, "options": [("A", "o0"), ("B", "o1")], "gold": ["B"]},
    ),
    "a cell of 200,000 characters": (
        "q.csv",
        csv_text(labelled(question=lambda i: f"{i} {'x' * 200_000}")),
        [],
        PLANETS,
    ),
    "a chat of one user turn": (
        "q.jsonl",
        jsonl(labelled(question=lambda i: [{"role": "user", "content": f"Which {i}?"}])),
        [],
        {**PLANETS, "question": "Which 0?"},
    ),
    "a chat with a system turn and parts": (
        "q.jsonl",
        jsonl(
            labelled(
                question=lambda i: [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": f"Which {i}?"}]},
                ]
            )
        ),
        [],
        {**PLANETS, "question": "Be brief.\n\nWhich 0?"},
    ),
    "GSM8K's worked answers": (
        "q.jsonl",
        jsonl([{"question": f"Add {i}", "answer": f"First.\nThen {i}+1.\n#### {i + 1}"} for i in range(8)]),
        [],
        {"rows": 8, "options": [], "gold": ["1", "2", "3"]},
    ),
    "options left out on purpose": (
        "q.jsonl",
        jsonl([{"question": f"Q {i}", "choices": ["x", "y"], "answer": "x"} for i in range(8)]),
        ["data.options_column=null"],
        {"rows": 8, "options": [], "gold": ["x"]},
    ),
    "a line break inside of quotes": (
        "q.csv",
        csv_text(labelled(question=lambda i: f'Which "{i}",\nthen?')),
        [],
        {**PLANETS, "question": 'Which "0",\nthen?'},
    ),
    "sentences, numbers and code with commas over two lines": (
        "q.csv",
        'question,answer\n"So, is it?\nOr that",A\n"Of 1,000\nhow many?",B\n"x = f(a,b)\nx is?",C\n"One\nline,two",A\n'
        + "".join(f"Which {i}?,A\n" for i in range(4)),
        [],
        {"rows": 8, "options": [], "gold": ["A", "B", "C", "A"]},
    ),
    "a mark of inches in the middle": (
        "q.csv",
        "question,answer\n" + "".join(f'Is 5" more than {i}"?,A\n' for i in range(8)),
        [],
        {"rows": 8, "options": [], "question": 'Is 5" more than 0"?', "gold": ["A"]},
    ),
    "U+2028 in a line": ("q.jsonl", jsonl(ROWS).replace("Which", "Which\u2028"), [], PLANETS),
    "an emoji as two escapes": (
        "q.jsonl",
        jsonl(labelled(question=lambda i: f"\U0001f600 {i}")),
        [],
        {**PLANETS, "question": "\U0001f600 0"},
    ),
}

OPEN = [{"id": f"q{i}", "question": f"Which {i}?"} for i in range(8)]
# name -> (file name, its bytes or text, settings, part of the message)
REFUSED = {
    "NaN as a question": ("q.jsonl", jsonl([*ROWS[:2], '{"question": NaN}']), [], r"q.jsonl:3: no text in column"),
    "null as a question": ("q.jsonl", jsonl(labelled(question=None)), [], r"q.jsonl:1: no text in column"),
    "null as an option": ("q.jsonl", jsonl([*ROWS, asked(9, options=["x", None])]), [], r"q.jsonl:9: an option holds"),
    "NaN as an option": ("q.jsonl", jsonl([*ROWS, asked(9, options=["x", float("nan")])]), [], r"q.jsonl:9: an option"),
    "a list as an option": (
        "q.jsonl",
        jsonl([*ROWS, asked(9, options=["x", ["y"]])]),
        [],
        r"q.jsonl:9: an option holds",
    ),
    "one option": ("q.jsonl", jsonl([*ROWS, asked(9, options=["x"])]), [], r"q.jsonl:9: one option alone"),
    "27 options": ("q.jsonl", jsonl([asked(1, options=["x"] * 27)]), [], r"q.jsonl:1: 27 options"),
    "labels alike": (
        "q.jsonl",
        jsonl([asked(1, options={"A": "x", "a)": "y"})]),
        [],
        r"q.jsonl:1: an answer can't distinguish the labels 'A' and",
    ),
    "fewer labels than texts": (
        "q.jsonl",
        jsonl(arc({"text": TEXTS, "label": ["A", "B"]})),
        ARC,
        r"q.jsonl:1: 4 option texts for 2 labels",
    ),
    "half a surrogate": (
        "q.jsonl",
        jsonl([*OPEN[:2], '{"question": "x \\ud83d"}']),
        [],
        r"q.jsonl:3: half a surrogate",
    ),
    "half a surrogate in a list": ("q.json", '[{"question": "x"},\n{"question": "\\udc00"}]', [], r"q.json:2: half a"),
    "not gzip": ("q.jsonl.gz", jsonl(ROWS), [], r"q.jsonl.gz: is not gzip.*rename it without .gz"),
    "cut gzip": ("q.jsonl.gz", gzip.compress(jsonl(ROWS).encode())[:60], [], r"q.jsonl.gz: its gzip ends too early"),
    "damaged gzip": (
        "q.jsonl.gz",
        (lambda z: z[:30] + b"\xff\xff\xff" + z[33:])(gzip.compress(jsonl(ROWS).encode())),
        [],
        r"q.jsonl.gz: its gzip (is damaged|ends)",
    ),
    "gzip without its suffix": ("q.jsonl", gzip.compress(jsonl(ROWS).encode()), [], r"name it q.jsonl.gz"),
    "an open quote": (
        "q.csv",
        'id,question\nq0,a\nq1,"b\nq2,c\nq3,d\n',
        [],
        r"q.csv:3: a quote that opens in this row",
    ),
    "an open quote, closed by another": (
        "q.csv",
        'id,question\nq0,a\nq1,"b\nq2,c\nq3,"d"\nq4,e\n',
        [],
        r"q.csv:3: a quote that opens in this row",
    ),
    "two stray quotes that close each other": (
        "q.csv",
        'question,answer\nWhich?,A\n"Who is it?,B\nWhat is 5?",5\nWhy?,C\n',
        [],
        r"q.csv:3: a quote joins this row to the 1 behind it",
    ),
    "two stray quotes around three rows of four columns": (
        "q.csv",
        'sep=;\nquestion;a;b;answer\nWhich?;x;y;A\nWho?;"x;y;B\nWhy?;x;y;A\nWhen?;x";y;A\nHow?;x;y;B\n',
        ["data.option_columns=[a,b]"],
        r"q.csv:4: a quote joins this row to the 2 behind it",
    ),
    "text behind a quote": ("q.csv", 'id,question\nq0,"a"b\n', [], r"q.csv:2: "),
    "a row too short": ("q.csv", "id,question,answer\nq0,a\n", [], r"q.csv:2: 2 fields, and the header names 3"),
    "a row too long": ("q.csv", "id,question\nq0,a,b\n", [], r"q.csv:2: more fields"),
    "two columns of one name": (
        "q.csv",
        "id,question,answer,question\nq0,a,A,b\n",
        [],
        r"q.csv:1: two columns named question",
    ),
    "two keys of one name": (
        "q.jsonl",
        '{"question": "a"}\n{"question": "a", "question": "b"}\n',
        [],
        r"q.jsonl:2: the key `question` is given twice",
    ),
    "a misspelt options column": (
        "q.jsonl",
        jsonl(ROWS),
        ["data.options_column=option"],
        r"names no column; there are: id, question, options, answer; did you mean options",
    ),
    "a misspelt answer column": (
        "q.jsonl",
        jsonl(ROWS),
        ["data.answer_column=gold"],
        r"data.answer_column=gold names no column",
    ),
    "a misspelt id column": ("q.jsonl", jsonl(ROWS), ["data.id_column=uid"], r"data.id_column=uid names no column"),
    "a misspelt question column": (
        "q.jsonl",
        jsonl(ROWS),
        ["data.question_column=ask"],
        r"data.question_column=ask names no column",
    ),
    "a misspelt option among columns": (
        "q.csv",
        csv_text(COLUMNS),
        ["data.question_column=prompt", "data.option_columns=[A,F]"],
        r"data.option_columns=F names no column",
    ),
    "options that nobody named": (
        "q.csv",
        csv_text(COLUMNS),
        ["data.question_column=prompt"],
        r"A, B, C, D, E looks like options.*data.option_columns=\[A,B,C,D,E\]",
    ),
    "choices that nobody named": (
        "q.jsonl",
        jsonl(arc(nested(0))),
        [],
        r"choices looks like options.*data.options_column=choices",
    ),
    "a chat with its answer": (
        "q.jsonl",
        jsonl(labelled(question=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "A"}])),
        [],
        r"q.jsonl:1: column `question` must be text or a chat of one user turn",
    ),
    "a mapping as a question": (
        "q.jsonl",
        jsonl(labelled(question={"stem": "x"})),
        [],
        r"q.jsonl:1: column `question` holds a dict",
    ),
    "latin-1": ("q.csv", "id,question\nq0,a\nq1,für\n".encode("latin-1"), [], r"q.csv:3: not UTF-8"),
    "UTF-16 without a mark": ("q.csv", csv_text(ROWS).encode("utf-16-le"), [], r"q.csv:1: a NUL byte"),
    "nesting without end": (
        "q.jsonl",
        '{"question": ' + "[" * 100_000 + "\n",
        [],
        r"q.jsonl:1: (nested too deeply|not JSON)",
    ),
    "two objects in a line": ("q.jsonl", '{"question": "a"} {"question": "b"}\n', [], r"q.jsonl:1: not JSON"),
    "a number of 5,000 digits": (
        "q.jsonl",
        '{"question": "a", "n": ' + "9" * 5000 + "}\n",
        [],
        r"q.jsonl:1: a number of 5000 digits",
    ),
    "a cut list": ("q.json", '[{"question": "a"},\n{"question": "b"', [], r"q.json:2: not JSON"),
    "a config of a local file": ("q.jsonl", jsonl(ROWS), ["data.config=main"], r"data.config=main is of hub data sets"),
}
# Those that only a look at the answers can tell.
REFUSED_ANSWERS = {
    "an index without its start": (
        "q.jsonl",
        jsonl(labelled(answer=2)),
        [],
        r"q.jsonl:1: the answer 2 is the index .*data.first_index",
    ),
    "several answers": ("q.jsonl", jsonl(labelled(answer=["A", "B"])), [], r"q.jsonl:1: 2 answers to question q0"),
    "an answer that is a mapping": (
        "q.jsonl",
        jsonl(labelled(answer={"text": "x"})),
        [],
        r"q.jsonl:1: the answer is a dict",
    ),
    "a letter beyond the options": (
        "q.jsonl",
        jsonl(labelled(answer="E")),
        [],
        r"its answer 'E' is not among its options",
    ),
    "NaN as an answer": (
        "q.jsonl",
        jsonl(labelled(answer=lambda i: float("nan") if i else "A")),
        [],
        r"has options but no answer",
    ),
}
