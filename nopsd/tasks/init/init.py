"""Settings for a user's own questions: read the file, propose, show, and write a preset.

In: a file of questions, a folder of such files, or a hub id. Out: FILE.yaml for `nopsd run --preset`, and the text
to print. Nothing is fetched but hub rows, and nothing is trained.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.config import Config, load_config
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.proposal import Proposal, propose
from nopsd.data.raw_rows import read_raw_rows
from nopsd.data.records import Question
from nopsd.data.sources import load_splits
from nopsd.data.splits import Splits
from nopsd.data.wording import answer_kind, chat_messages
from nopsd.errors import DataError, UserError
from nopsd.evaluation.judge import Judge
from nopsd.files import read_json, write_atomic
from nopsd.tasks.init.machine import Choice, choose, this_machine
from nopsd.tasks.init.preset_file import preset_text
from nopsd.tasks.init.preview import preview, problems
from nopsd.tasks.init.sizes import Lengths, sizes, too_long

MEASURED = 200  # longest questions whose prompts are tokenized
CHARACTERS_A_TOKEN = 3.5  # where the tokenizer isn't here
ANSWERS = {
    "letter": "one letter between <answer> and </answer>",
    "phrase": "one of the phrases between <answer> and </answer>",
    "text": "the answer itself between <answer> and </answer>",
}


@dataclass(frozen=True)
class Wanted:
    """What the user said."""

    questions: str
    out: Path | None = None
    model: str | None = None
    domain: str | None = None
    force: bool = False

    @property
    def name(self) -> str:
        """Of the domain, the preset and the run folder."""
        stem = Path(self.questions).name.split(".")[0]
        return self.domain or re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "questions"

    @property
    def target(self) -> Path:
        return self.out or Path(f"{self.name}.yaml")


def init(wanted: Wanted) -> str:
    """Write the preset; returns what to print. UserError if the file can't be used, or the preset is there already."""
    if wanted.target.exists() and not wanted.force:
        raise UserError(f"{wanted.target} is there already: give another --out FILE, or --force to replace it")
    rows = read_raw_rows(wanted.questions)
    if not rows:
        raise DataError(f"{wanted.questions} has no rows")
    proposal = propose([row.values for row in rows], wanted.name)
    choice = choose(this_machine(), wanted.model)
    settings = _settings(wanted, proposal, choice)
    config = _config(choice, settings)
    splits = load_splits(config.data)
    renderer = _renderer(config, choice)
    everything = [*splits.pool, *(q for tests in splits.tests.values() for q in tests)]
    lengths = _lengths(config, everything, splits, renderer, choice)
    chosen = sizes(config, lengths, choice.is_lab)
    warnings = [*proposal.warnings, *_warnings(config, splits, everything, lengths)]
    title = _title(wanted, len(rows), splits, warnings)
    write_atomic(wanted.target, preset_text(title, (choice.base, _base_note(choice)), settings | chosen))
    config = load_config(str(wanted.target))
    shown = preview(config, everything, Judge(config), renderer)
    return _summary(wanted, splits, choice, warnings, shown, [*_table(settings), *_table(chosen)])


def _settings(wanted: Wanted, proposal: Proposal, choice: Choice) -> dict[str, tuple[Any, str]]:
    local = Path(wanted.questions).expanduser()
    path = str(local.resolve()) if local.exists() else wanted.questions
    data = {f"data.{key}": (value, proposal.reasons[key]) for key, value in proposal.settings.items()}
    name = data.pop("data.name")
    asked = {"prompt.answer": ("number", "every answer is one: 7 and 7.0 are the same")} if proposal.numbers else {}
    return {
        "run_dir": (f"runs/{wanted.name}", "where everything of the run goes"),
        "model.path": (choice.model, choice.reason),
        "data.name": name,
        "data.path": (path, ""),
        **data,
        **asked,
        **choice.settings,
    }


def _config(choice: Choice, settings: dict[str, tuple[Any, str]]) -> Config:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(preset_text([], (choice.base, ""), settings))
        file.flush()
        return load_config(file.name)


def _renderer(config: Config, choice: Choice) -> PromptRenderer | None:
    if choice.folder is None:
        return None
    return PromptRenderer(load_tokenizer(str(choice.folder)), config.prompt, config.context.placement)


def _lengths(
    config: Config, questions: Sequence[Question], splits: Splits, renderer: PromptRenderer | None, choice: Choice
) -> Lengths:
    """Tokens of the longest prompts, by characters; the model's window where its config is here."""
    if not questions:
        raise DataError("there are no questions of the proposed domain: give --domain NAME")
    texts = {q.uid: "".join(m["content"] for m in chat_messages(q, prompt=config.prompt)) for q in questions}
    longest = sorted(questions, key=lambda q: len(texts[q.uid]), reverse=True)[:MEASURED]
    window = None
    if choice.folder is not None and (choice.folder / "config.json").is_file():
        window = read_json(choice.folder / "config.json").get("max_position_embeddings")
    if renderer is not None:
        return Lengths([len(renderer.student(q)) for q in longest], len(splits.pool), window)
    estimated = [round(len(texts[q.uid]) / CHARACTERS_A_TOKEN) for q in longest]
    return Lengths(estimated, len(splits.pool), window, estimated=True)


def _warnings(config: Config, splits: Splits, everything: Sequence[Question], lengths: Lengths) -> list[str]:
    found = problems(everything, Judge(config), config)
    if long := too_long(config, lengths):
        found.append(f"{long} questions are too long for the model's window of {lengths.window} tokens: leave them out")
    if len(splits.pool) < 50:
        found.append(f"a pool of {len(splits.pool)} questions is small: the method was published with 1,799 and more")
    return found


def _base_note(choice: Choice) -> str:
    if choice.is_lab:
        return "the embedded model's preset. Its answers to real questions are noise: change model.path for a result"
    return "the paper's settings, of this preset; `nopsd config` shows them all"


def _title(wanted: Wanted, rows: int, splits: Splits, warnings: Sequence[str]) -> list[str]:
    tests = ", ".join(f"{len(tests)} of {name}" for name, tests in splits.tests.items()) or "none"
    return [
        f"{Path(wanted.questions).name}: {rows} rows, {len(splits.pool)} for the pool, to test on: {tests}.",
        "Proposed by `nopsd init`; change what you like, `nopsd config --preset` shows every key.",
        f"  nopsd run --dry-run --preset {wanted.target}    check, and print what it would do",
        f"  nopsd run --preset {wanted.target}              run; again: go on",
        *(f"Note: {warning}." for warning in warnings),
    ]


def _table(settings: dict[str, tuple[Any, str]]) -> list[str]:
    return [f"  {f'{key}={value}':48} {reason}".rstrip() for key, (value, reason) in settings.items()]


def _summary(
    wanted: Wanted, splits: Splits, choice: Choice, warnings: Sequence[str], shown: str, table: Sequence[str]
) -> str:
    tests = sum(map(len, splits.tests.values()))
    kind = answer_kind(splits.pool[0])
    lines = [
        f"{wanted.questions}: {len(splits.pool)} questions for the pool, {tests} held out for the test",
        "",
        *table,
        "",
        f"What the model will be asked, and what would be judged right ({ANSWERS[kind]}):",
        "",
        shown,
        "",
        *(f"NOTE: {warning}" for warning in warnings),
        *([""] if warnings else []),
        f"written: {wanted.target}",
        f"  nopsd run --dry-run --preset {wanted.target}    check, and print what it would do",
        f"  nopsd run --preset {wanted.target}              run",
    ]
    if choice.folder is None:
        lines.append(
            "The model's tokenizer isn't in a folder here: prompts are shown as messages, lengths are estimated."
        )
    return "\n".join(lines)
