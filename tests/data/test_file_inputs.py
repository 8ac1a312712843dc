"""Question files as people write them: broken if one is read as something else, ends in a traceback, or is refused in
words that don't name what is wrong. The hand-made table is tests/data/question_files.py."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import DataError
from nopsd.evaluation.evaluate import check_answers
from tests.data.file_inputs import FileInput, file_inputs
from tests.data.settings import data

INPUTS = file_inputs()


def wrong(case: FileInput, folder: Path) -> str | None:
    """What is wrong with what came of an input; None if nothing is."""
    path = folder / case.file
    path.write_bytes(case.content)
    ratio = [] if any("test_ratio" in text for text in case.settings) else ["data.test_ratio=0.5"]
    config = data("data.name=file", "data.domain=mine", f"data.path={path}", *ratio, *case.settings)
    try:
        splits = load_splits(config)
        key = load_answer_key(config)
        for tests in splits.tests.values():
            check_answers(tests, key)
    except DataError as error:
        said = str(error)
        as_expected = isinstance(case.expected, str) and case.expected in said and "\n" not in said
        return None if as_expected else f"refused: {said}"
    except Exception as error:  # noqa: BLE001 - what must not happen
        return f"a traceback: {error!r}"
    finally:
        path.unlink()
    questions = [*splits.pool, *(q for tests in splits.tests.values() for q in tests)]
    found = {q.uid: ([(o.label, o.text) for o in q.options], key[q.uid]) for q in questions}
    return None if found == case.expected and splits.tests["mine"] else f"read as {found}"


def check(inputs: list[FileInput], folder: Path) -> None:
    found = [(case.name, why) for case in inputs if (why := wrong(case, folder))]
    assert not found, (len(found), found[:10])


def test_a_hundred_of_them(tmp_path: Path) -> None:
    check(Random(0).sample(INPUTS, 100), tmp_path)


@pytest.mark.soak
def test_all_of_them(tmp_path: Path) -> None:
    assert len(INPUTS) > 1500 and sum(isinstance(case.expected, str) for case in INPUTS) > 250
    check(INPUTS, tmp_path)
