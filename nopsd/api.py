"""The stages as functions, for Python: five lines from a list of questions to a trained and evaluated model.

    import nopsd

    with nopsd.open_run("runs/mine", questions, preset="lab") as run:
        nopsd.score(run)
        nopsd.select(run)
        nopsd.build_contexts(run)
        nopsd.train_student(run)
        nopsd.evaluate(run)

Each brings its stage, and those that it reads, up to date, as `nopsd STAGE` does; what is done is reused. Results are
plain lists and dictionaries: `pandas.DataFrame(nopsd.score(run))` is a table. `nopsd.__all__` is the public surface.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import datasets
    import pandas

    from nopsd.config import Config
    from nopsd.run.session import Session

    Questions: TypeAlias = (
        str | Path | Sequence[str] | Sequence[Mapping[str, Any]] | pandas.DataFrame | datasets.Dataset
    )

QUESTIONS_FILE = "questions.jsonl"  # in the run folder: questions that were given as Python objects


class Run:
    """A run folder with its configuration. Its rollout server, once started, lives until `close`.

    Attributes:
        config: The resolved configuration.
        quiet: Whether stages print their progress.
    """

    def __init__(self, config: Config, quiet: bool = True) -> None:
        from nopsd.run.session import Session

        self.config, self.quiet = config, quiet
        self._session: Session = Session(config)

    @property
    def folder(self) -> Path:
        """The folder of everything that the run writes."""
        return self._session.run.root

    def bring_up(self, stage: str) -> Session:
        """Bring a stage, and those that it reads, up to date. Raises UserError, as the command would tell it."""
        from nopsd.run.runner import bring_up
        from nopsd.stages.registry import STAGES

        with redirect_stdout(io.StringIO()) if self.quiet else nullcontext():
            bring_up(STAGES, self._session, STAGES.with_inputs(stage, self.config), None)
        return self._session

    def close(self) -> None:
        """End the rollout server, if one was started. The run can be used on; another is started when it is needed."""
        self._session.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_run(
    run_dir: str | Path,
    questions: Questions | None = None,
    preset: str | None = "lab",
    settings: Mapping[str, Any] | None = None,
    quiet: bool = True,
) -> Run:
    """A run in a folder, new or begun before.

    Args:
        run_dir: The run's folder.
        questions: Texts, dictionaries, a pandas.DataFrame, a datasets.Dataset, or a file; columns are recognised as by
            `nopsd init`. None: the preset's own data.
        preset: A preset's name or a YAML file; None: the defaults.
        settings: Keys of the configuration, as `{"train.steps": 20}`; they come last.
        quiet: Print no progress.

    Raises:
        UserError: A key, a value or a row that can't be used, with the remedy.
    """
    from nopsd.config import load_config
    from nopsd.tasks.init.preset_file import scalar

    own = {} if questions is None else _data_settings(Path(run_dir), questions)
    wanted = {**own, **(settings or {}), "run_dir": str(run_dir)}
    return Run(load_config(preset, [f"{key}={scalar(value)}" for key, value in wanted.items()]), quiet)


def _data_settings(run_dir: Path, questions: Questions) -> dict[str, Any]:
    from nopsd.data.proposal import propose
    from nopsd.data.raw_rows import read_raw_rows
    from nopsd.files import write_atomic

    path = Path(questions) if isinstance(questions, str | Path) else run_dir / QUESTIONS_FILE
    if not isinstance(questions, str | Path):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(questions))
        if not path.exists() or path.read_text(encoding="utf-8") != lines:
            write_atomic(path, lines)
    rows = read_raw_rows(str(path))
    found = propose([row.values for row in rows], run_dir.name or "questions").settings
    return {f"data.{key}": value for key, value in {**found, "path": str(path)}.items()}


def _rows(questions: Any) -> list[dict[str, Any]]:
    """Rows of a list, a DataFrame or a Dataset; texts become questions. Values of numpy become Python's."""
    if hasattr(questions, "to_dict") and hasattr(questions, "columns"):
        questions = json.loads(questions.to_json(orient="records"))
    rows = [{"question": row} if isinstance(row, str) else dict(row) for row in questions]
    plain: list[dict[str, Any]] = json.loads(json.dumps(rows, ensure_ascii=False, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def score(run: Run) -> list[dict[str, Any]]:
    """Answer every question of the pool once and count the answer's neurons (the paper's Eqs. 2 to 5).

    Returns:
        A row a question: `uid`, `question`, `response`, `count` (the paper's s(x)), `length` (tokens), `truncated`.
    """
    session = run.bring_up("neurons")
    neurons = session.run.neurons()
    responses = {r.uid: r.text for r in session.rollouts if r.sample == 0}
    return [
        {
            "uid": uid,
            "question": session.questions[uid].question,
            "response": responses[uid],
            "count": float(neurons.counts[i]),
            "length": int(neurons.lengths[i]),
            "truncated": bool(neurons.truncated[i]),
        }
        for i, uid in enumerate(neurons.uids)
    ]


def select(run: Run) -> list[dict[str, Any]]:
    """Select the questions to train on (the paper's Algorithm 1).

    Returns:
        The selected questions, best first: `uid`, `question`, `score` (None where the selector gives none).
    """
    from nopsd.selection.artefacts import read_scores

    session = run.bring_up("select")
    scores = read_scores(session.run.stage_dir("select"))
    uids = session.run.selection().uids
    return [{"uid": uid, "question": session.questions[uid].question, "score": scores.get(uid)} for uid in uids]


def build_contexts(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Find the demonstrations of each selected question (the paper's Eq. 6).

    Returns:
        uid -> its demonstrations, nearest first: `uid`, `question`, `response`, `distance` (None: chosen without one).
    """
    session = run.bring_up("select")
    responses = {(r.uid, r.sample): r.text for r in session.rollouts}
    return {
        uid: [
            {
                "uid": near.uid,
                "question": session.questions[near.uid].question,
                "response": responses[near.uid, near.sample],
                "distance": near.distance,
            }
            for near in found
        ]
        for uid, found in session.contexts.items()
    }


def train_student(run: Run) -> Path:
    """Train by the run's method.

    Returns:
        The exported model: a Hugging Face folder.
    """
    return run.bring_up("train").run.export


def evaluate(run: Run) -> dict[str, dict[str, Any]]:
    """Evaluate the base and the trained model on the test questions; empty for questions without answers.

    Returns:
        `base` and `trained`: domain -> `metrics` (shares, not per cent) and `intervals` (95 %, over questions).
    """
    from nopsd.evaluation.artefacts import METRICS
    from nopsd.files import read_json

    run.bring_up("evaluate_base")
    session = run.bring_up("evaluate")
    base = read_json(session.run.stage_dir("evaluate_base") / METRICS)
    trained = read_json(session.run.stage_dir("evaluate") / METRICS)
    return {"base": base.get("base", {}), "trained": trained.get("final", {})}


def report(run: Run) -> Path:
    """Write the report, after all that it reads.

    Returns:
        report.html, one self-contained file.
    """
    return run.bring_up("report").run.stage_dir("report") / "report.html"


def status(run: Run) -> dict[str, Any]:
    """State, cost, time left and the last error of the run, as `nopsd status --json` prints them."""
    from nopsd.run.status import status_of
    from nopsd.stages.registry import STAGES

    return asdict(status_of(STAGES, run.config))
