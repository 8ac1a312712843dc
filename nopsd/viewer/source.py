"""One run as the pages read it: each file is read when it is first needed, and again once it has changed.

Only reads. A file that a stage has not made yet is empty here, so that a run can be looked at from its first second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from nopsd.config import Config
from nopsd.data import artefacts as data_files
from nopsd.data.answers import leaves_think_open
from nopsd.data.reading import AnswerReader, answer_reader
from nopsd.data.records import Question
from nopsd.errors import ArtefactError, UserError
from nopsd.evaluation.artefacts import METRICS, POOL_CORRECT, holdout_path, read_holdout, read_pool_correct, rows_path
from nopsd.evaluation.unlabelled import AnswerRow, Comparison, compare
from nopsd.files import read_jsonl
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder, read_json_if_there
from nopsd.selection.artefacts import CONTEXTS, SCORES, Contexts, read_contexts
from nopsd.traces.reader import Trace
from nopsd.traces.schema import FOLDER as TRACE
from nopsd.train.artefacts import METRICS as TRAINING
from nopsd.train.metrics_log import read_metrics
from nopsd.viewer.pieces import Pieces

T = TypeVar("T")
CUT = "length"  # the finish reason of a response that met the limit
STAGE_OF = {"base": names.EVALUATE_BASE, "final": names.EVALUATE}


@dataclass(frozen=True)
class Said:
    """A response, as answers are read from it."""

    text: str
    finish: str

    @property
    def truncated(self) -> bool:
        """Whether it met the limit."""
        return self.finish == CUT


class Questions(Mapping[str, Question]):
    """A file's questions by uid, in order. Each is made when it is asked for: of a large pool a page shows few."""

    def __init__(self, path: Path) -> None:
        self._lines: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if line:
                try:
                    self._lines[json.loads(line)["uid"]] = line
                except (ValueError, KeyError, TypeError) as error:
                    raise ArtefactError(f"{path} line {number} is damaged: run the data stage again") from error

    def __getitem__(self, uid: str) -> Question:
        return Question.from_json(json.loads(self._lines[uid]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


@dataclass
class Source:
    """One run folder. `number`: its place on the command line; `title`: what the pages call it."""

    number: int
    title: str
    config: Config
    _kept: dict[Path, tuple[tuple[int, int], Any]] = field(default_factory=dict)
    _compared: tuple[list[AnswerRow], list[AnswerRow], Comparison] | None = None

    @cached_property
    def run(self) -> RunFolder:
        """The folder's reader."""
        return RunFolder(self.config.run_dir)

    def fresh(self, path: Path, read: Callable[[], T], empty: T) -> T:
        """What `read` gives of the file, kept until the file changes; `empty` while it is not there."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return empty
        stamp = stat.st_mtime_ns, stat.st_size
        if self._kept.get(path, (None, None))[0] != stamp:
            self._kept[path] = stamp, read()
        kept: T = self._kept[path][1]
        return kept

    def file(self, stage: str, name: str) -> Path:
        """A file of a stage."""
        return self.run.stage_dir(stage) / name

    @property
    def training(self) -> list[dict[str, Any]]:
        """Rows of the training log, oldest first."""
        path = self.file(names.TRAIN, TRAINING)
        return self.fresh(path, lambda: read_metrics(path), [])

    @property
    def pool(self) -> Mapping[str, Question]:
        """The pool's questions by uid, in order."""
        path = self.file(names.DATA, data_files.POOL)
        return self.fresh(path, lambda: Questions(path), {})

    @property
    def tests(self) -> Mapping[str, Question]:
        """The test questions by uid."""
        path = self.file(names.DATA, data_files.TESTS)
        return self.fresh(path, lambda: Questions(path), {})

    @property
    def scores(self) -> dict[str, tuple[float | None, bool]]:
        """Score and whether it was selected, by uid of the pool."""
        path = self.file(names.SELECT, SCORES)
        return self.fresh(path, lambda: {r["uid"]: (r["score"], r["selected"]) for r in read_jsonl(path)}, {})

    @property
    def contexts(self) -> Contexts:
        """Each selected question's demonstrations, nearest first."""
        path = self.file(names.SELECT, CONTEXTS)
        return self.fresh(path, lambda: read_contexts(path.parent), {})

    @property
    def pool_correct(self) -> dict[str, float]:
        """Share of right zero-shot answers by uid, where an evaluation could judge them."""
        path = self.file(names.EVALUATE_BASE, POOL_CORRECT)
        return self.fresh(path, lambda: read_pool_correct(path.parent), {})

    def metrics(self, model: str) -> dict[str, Any]:
        """An evaluation's metrics and intervals by domain; `model`: base or final."""
        path = self.file(STAGE_OF[model], METRICS)
        return self.fresh(path, lambda: dict(read_json_if_there(path).get(model, {})), {})

    def judged(self, model: str, domain: str) -> dict[str, dict[str, Any]]:
        """An evaluation's rows (`evaluation.results.QuestionRow`) by uid."""
        path = rows_path(self.run.stage_dir(STAGE_OF[model]), model, domain)
        return self.fresh(path, lambda: {row["uid"]: row for row in read_jsonl(path)}, {})

    def held(self, model: str) -> list[AnswerRow]:
        """A model's answers to the questions held out; none where there are none."""
        folder = self.run.stage_dir(STAGE_OF[model])
        return self.fresh(holdout_path(folder, model), lambda: read_holdout(folder, model), [])

    @property
    def comparison(self) -> Comparison | None:
        """Base and trained model without labels; None unless both have answered the questions held out."""
        base, trained, config = self.held("base"), self.held("final"), self.config.eval
        if not (base and trained):
            return None
        if (kept := self._compared) is None or kept[0] is not base or kept[1] is not trained:
            kept = self._compared = base, trained, compare(base, trained, config.bootstrap, config.seed)
        return kept[2]

    def lengths(self) -> dict[str, int]:
        """Mean tokens of a pool question's zero-shot responses, by uid."""
        path = self.file(names.ROLLOUT, ROLLOUTS)
        return self.fresh(path, lambda: _lengths(path), {})

    def answers(self, uids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Zero-shot responses to some pool questions, by uid: text, finish reason, tokens. Read anew each time."""
        path, wanted = self.file(names.ROLLOUT, ROLLOUTS), list(uids)
        found: dict[str, list[dict[str, Any]]] = {uid: [] for uid in wanted}
        if path.exists() and wanted:
            columns = ["uid", "sample", "text", "finish_reason", "response_ids"]
            for row in pq.read_table(path, columns=columns, filters=[("uid", "in", wanted)]).to_pylist():
                found[row["uid"]].append({**row, "tokens": len(row.pop("response_ids"))})
        return found

    @cached_property
    def trace(self) -> Trace:
        """The training's trace."""
        return Trace(self.run.stage_dir(names.TRAIN) / TRACE)

    @cached_property
    def pieces(self) -> Pieces:
        """Token ids as text."""
        return Pieces.of(self.run, self.config.model)

    @cached_property
    def reader(self) -> AnswerReader:
        """Reads answers as the run's evaluation does."""
        path, prompt = self.file(names.ROLLOUT, ROLLOUTS), ""
        if path.exists():
            first = next(pq.ParquetFile(path).iter_batches(1, columns=["prompt_ids"]), None)
            prompt = self.pieces.text(first["prompt_ids"][0].as_py()) if first is not None and len(first) else ""
        return answer_reader(self.config, self.config.eval.extract, leaves_think_open(prompt))

    def warm(self) -> None:
        """Read what the tables need, so that the first of them is there at once. A damaged file is its page's error."""
        with suppress(UserError):
            _ = self.pool, self.scores, self.lengths(), self.contexts, self.reader

    def answer(self, uid: str, said: Said) -> str | None:
        """A response's answer; None if it can't be read, or the question is not in the pool."""
        question = self.pool.get(uid)
        return None if question is None else self.reader.read(said, question)


def _lengths(path: Path) -> dict[str, int]:
    import pyarrow.compute as pc

    table = pq.read_table(path, columns=["uid", "response_ids"])
    sized = table.drop_columns(["response_ids"]).append_column("n", pc.list_value_length(table["response_ids"]))
    mean = sized.group_by("uid").aggregate([("n", "mean")])
    return {uid: round(n) for uid, n in zip(mean["uid"].to_pylist(), mean["n_mean"].to_pylist())}


def titles(folders: Sequence[Path]) -> list[str]:
    """Names for runs: their folders', with as much of the path before as tells them apart."""
    resolved = [folder.resolve() for folder in folders]
    for depth in range(1, 6):
        short = ["/".join(folder.parts[-depth:]) for folder in resolved]
        if len(set(short)) == len(short):
            return short
    return [str(folder) for folder in resolved]
