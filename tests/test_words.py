"""The repository is read by engineers of this field: it uses their terms, and cites nothing that is not in it.

If it fails, a private word, or a code of a document that readers don't have, has come back.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Terms that nobody in the field uses and that have no ordinary meaning in code or English.
PRIVATE = (
    r"sound_step|sound_valid|take_sound|cut anew|recut|showable|\bNOBODY\b|\bPicked\b|\bunscored\b"
    r"|from_main|after_main|pull_back|\b_usual\b|by_chance|worth_another_start|\bKeeper\b|\bKeptSession\b|see_out"
    r"|take leave|sign of life|reckon(ed|s)?\b|negative nought|\bkin of\b|_CONDUCT\b|is told\b"
    r"|looked at before|\blanes?\b|\bmend(s|ed|ing)?\b|\bsays so\b|closing_words|forget_from|\bnought\b"
)
# Codes of papers of ours: the method is described in docs/method.md.
CODES = r"\bSPEC\b|§|\b[Ii]ssue \d+\b|\bT-[A-Z]{2,}\b|\b[FG]\d{1,2}\b(?!\d)|test_[tT]_[a-zA-Z]+"


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / n for n in names if Path(n).suffix in {".py", ".md", ".sh", ".yaml", ".json", ".toml", ".sbatch"}]


@pytest.mark.parametrize("pattern", [PRIVATE, CODES], ids=["private-words", "codes"])
def test_no_such_word_is_left(pattern):
    hits = []
    for file in tracked():
        if file == Path(__file__) or not file.exists() or file.name == "tokenizer.json":
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if found := re.search(pattern, line):
                hits.append(f"{file.relative_to(ROOT)}:{number}: {found[0]}")
    assert not hits, f"{len(hits)} hits:\n" + "\n".join(hits[:40])
