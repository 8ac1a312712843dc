"""The table of question files: what people have, and what is to come of it (tests/data/test_rows.py).

A case is a file's text, the settings a user would give, and what has to come of it. `rows`: questions in pool and
tests; `options`: those of the first question; `gold`: the answers of the first questions, in file order.
"""

import gzip
import json

from tests.data.file_texts import (
    ABCD,
    ANSWER_FIRST,
    ARC,
    BOM,
    COLUMNS,
    MARKS,
    PLANETS,
    ROWS,
    TEXTS,
    arc,
    csv_text,
    jsonl,
    labelled,
    nested,
)

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
    "a chat in a CSV's cell": (
        "q.csv",
        csv_text(labelled(question=lambda i: [{"role": "user", "content": f"Which {i}?"}])),
        [],
        {**PLANETS, "question": "Which 0?"},
    ),
    "indices by columns, one of them empty": (
        "q.csv",
        csv_text(
            [
                {"question": f"Q{i}", "opa": "x", "opb": "", "opc": "y", "opd": "z", "answer": i % 2 * 2}
                for i in range(8)
            ]
        ),
        ["data.option_columns=[opa,opb,opc,opd]"],
        {"rows": 8, "options": [("A", "x"), ("C", "y"), ("D", "z")], "gold": ["A", "C"]},
    ),
    "U+2028 in a line": ("q.jsonl", jsonl(ROWS).replace("Which", "Which\u2028"), [], PLANETS),
    "an emoji as two escapes": (
        "q.jsonl",
        jsonl(labelled(question=lambda i: f"\U0001f600 {i}")),
        [],
        {**PLANETS, "question": "\U0001f600 0"},
    ),
}
