"""The table of question files that are refused: a file's text, a user's settings, and a part of the message."""

import gzip

from tests.data.file_texts import ARC, COLUMNS, ROWS, TEXTS, arc, asked, csv_text, jsonl, labelled, nested

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
    "a blank before a quote": ("q.csv", 'question, answer\na, "b"\n', [], r"q.csv:2: a blank stands before a quote"),
    "choices alike": ("q.jsonl", jsonl(OPEN), ["data.choices=[Yes,yes]"], "data.choices: an answer can't distinguish"),
    "a column that is two things": (
        "q.jsonl",
        jsonl(ROWS),
        ["data.id_column=answer"],
        r"column answer is named by data.answer_column and data.id_column",
    ),
    "one option column twice": (
        "q.csv",
        csv_text(COLUMNS),
        ["data.question_column=prompt", "data.option_columns=[A,B,A]"],
        r"column A is named by data.option_columns and data.option_columns",
    ),
    "a context of dicts": (
        "q.jsonl",
        jsonl(labelled(context={"a": "b"})),
        ["data.context_column=context"],
        r"q.jsonl:1: column `context` holds a dict",
    ),
    "a pointer of Git LFS": (
        "q.csv",
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        [],
        r"q.csv: is a pointer of Git LFS.*git lfs pull",
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
    "one column for two roles": (
        "q.jsonl",
        jsonl(ROWS),
        ["data.question_column=answer"],
        r"column answer is named by data.question_column and data.answer_column",
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
    "infinity as an answer": ("q.jsonl", jsonl(labelled(answer=float("inf"))), [], r"its answer 'inf' is not among"),
    "NaN as an answer": (
        "q.jsonl",
        jsonl(labelled(answer=lambda i: float("nan") if i else "A")),
        [],
        r"has options but no answer",
    ),
}
