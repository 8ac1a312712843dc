"""`nopsd inspect`: look at a scored pool. Reads a run folder and writes RUN/inspect alone; it is no stage, and may be
run again at any time.

Needs the neurons stage; uses data, rollout, signals and select where they are and belong together. Accuracy is shown
where an evaluation gives it: `--correct FILE`, else the run's evaluate_base/pool_correct.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nopsd.config import Config
from nopsd.data.records import Question
from nopsd.data.wording import question_text
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError, UserError
from nopsd.evaluation.artefacts import POOL_CORRECT
from nopsd.evaluation.evaluate import group_by_question
from nopsd.evaluation.metrics import Array, majority_answer
from nopsd.files import read_json, read_jsonl
from nopsd.neurons.store import NeuronSets
from nopsd.reporting.inspect.overlap import nearest_of, overlap
from nopsd.reporting.inspect.report import console_text, write_inspection
from nopsd.reporting.inspect.tensorboard import write_board
from nopsd.reporting.inspect.view import InspectView, Neighbourhood, QuestionText, correlation_rows
from nopsd.rollout.types import Rollout
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder
from nopsd.run.session import Session
from nopsd.selection.exchange import RankSets
from nopsd.selection.overlaps import selections
from nopsd.selection.pair_distances import pair_distances
from nopsd.selection.pool import make_pool
from nopsd.train.artefacts import TENSORBOARD

FOLDER = "inspect"
COMPARED = 2000  # questions whose neuron sets are all compared with each other
NOT_A_SIGNAL = ("length",)  # columns of the signals stage that are shown in another place


def inspect(config: Config, questions: Sequence[str] = (), correct: Path | None = None) -> str:
    """Write RUN/inspect.

    Args:
        config: The run's.
        questions: uids whose neighbours are shown; none: those with the least, the median and the greatest s(x).
        correct: A file that says which answers are right, for colours alone.

    Returns:
        The console's summary.

    Raises:
        UserError: The neurons stage isn't done, or a question or file can't be used.
    """
    with Session(config) as session:
        view = inspection(session, questions, correct)
        rows = correlation_rows(view)
        folder = session.run.root / FOLDER
        images = write_inspection(folder, view, rows)
        write_board(folder / TENSORBOARD, view, rows, images)
    return console_text(view, rows, folder)


def inspection(session: Session, questions: Sequence[str] = (), correct: Path | None = None) -> InspectView:
    """All that is shown, gathered from the run folder."""
    run, config = session.run, session.config
    neurons = read_sets(run)
    notes: list[str] = []
    pool = {q.uid: q for q in session.pool} if _usable(run, "data", notes) else {}
    rollouts = _rollouts(run, notes)
    widths = [int(w) for w in neurons.header["widths"]]
    shown = question_rows(neurons, questions)
    near = nearest_of([row for row, _ in shown], neurons.ids, widths, config.context.m or 4)
    selected, threshold = _selected(run, neurons.uids, notes)
    correct_file = correct or _own_correct(run, notes)
    return InspectView(
        title=f"{run.root.name}: {len(neurons.uids)} scored questions",
        texts=[_texts(uid, pool, rollouts) for uid in neurons.uids],
        domains=[pool[uid].domain if uid in pool else "pool" for uid in neurons.uids],
        counts=neurons.counts.astype(float),
        lengths=neurons.lengths,
        members=neurons.histogram,
        widths=widths,
        truncated=neurons.truncated,
        selected=selected,
        threshold=threshold,
        signals=label_free_signals(session, neurons, pool, rollouts, notes),
        correct=None if correct_file is None else read_correct(correct_file, neurons.uids),
        correct_from="" if correct_file is None else str(correct_file),
        overlap=overlap(neurons.ids, neurons.histogram, widths, seed=config.seed),
        neighbourhoods=[Neighbourhood(row, why, found) for (row, why), found in zip(shown, near)],
        selections=selections_of(session, neurons, pool, notes),
        notes=notes,
    )


def read_sets(run: RunFolder) -> NeuronSets:
    """The neurons artefact; UserError if the stage isn't done."""
    folder = run.stage_dir(names.NEURONS)
    if run.manifest(names.NEURONS) is None:
        raise UserError(f"{folder} is not done: run `nopsd score` with the same --preset or --config and run_dir first")
    return run.neurons()


def question_rows(neurons: NeuronSets, asked: Sequence[str]) -> list[tuple[int, str]]:
    """The questions whose neighbours are shown: those asked for, else least, median and greatest s(x), ties by uid.

    Returns:
        (row of the pool, why it is shown).

    Raises:
        DataError: A question isn't in the pool.
    """
    if asked:
        places = {uid: row for row, uid in enumerate(neurons.uids)}
        unknown = [uid for uid in asked if uid not in places]
        if unknown:
            raise DataError(f"--question {unknown[0]}: no such question in the pool; one of it is {neurons.uids[0]}")
        return [(places[uid], "asked for") for uid in asked]
    order = np.argsort(neurons.counts, kind="stable")
    chosen = {int(order[0]): "least s(x)", int(order[(len(order) - 1) // 2]): "median s(x)"}
    chosen.setdefault(int(order[-1]), "greatest s(x)")
    return list(chosen.items())


def label_free_signals(
    session: Session,
    neurons: NeuronSets,
    pool: Mapping[str, Question],
    rollouts: Mapping[str, Sequence[Rollout]],
    notes: list[str],
) -> dict[str, Array]:
    """Columns of confidence: those of the signals stage, the neuron sets' agreement, and the majority answer's share.

    Args:
        session: The run's.
        neurons: The pool's sets.
        pool: Questions by uid; empty where the data stage isn't there.
        rollouts: By uid.
        notes: What is missing is added to them.

    Returns:
        By name, float [N], NaN where unknown.
    """
    signals = _stage_signals(session.run, neurons.uids, notes)
    signals.setdefault("nad_agreement", neurons.agreement.astype(float))
    several = any(len(samples) > 1 for samples in rollouts.values())
    if several and pool and "majority_conf" not in signals:
        shares = [_majority(session, pool.get(uid), rollouts.get(uid, ())) for uid in neurons.uids]
        signals["majority_conf"] = np.array(shares)
    return {name: values for name, values in signals.items() if np.isfinite(values).any()}


def selections_of(
    session: Session, neurons: NeuronSets, pool: Mapping[str, Question], notes: list[str]
) -> dict[str, frozenset[str]]:
    """What every selector would choose whose columns the run has; those that compare all sets, of small pools alone."""
    columns = {"agreement": neurons.agreement}
    if _usable(session.run, names.SIGNALS, notes, said=False):
        stored = session.run.signals()
        if stored.uids == neurons.uids:
            columns |= stored.columns
    sets = RankSets(np.arange(len(neurons.uids)), neurons.ids, sum(neurons.header["widths"]))
    alone = Ranks(0, 1, torch.device("cpu"))
    few = len(neurons.uids) <= COMPARED
    scored = make_pool(
        neurons.uids,
        neurons.counts,
        neurons.lengths,
        neurons.truncated,
        [pool[uid].domain for uid in neurons.uids] if pool else None,
        columns,
        pair_distances(neurons.uids, sets, alone, session.config.dist.block_mib) if few else None,
    )
    return selections(scored, session.config.select)


def _stage_signals(run: RunFolder, uids: Sequence[str], notes: list[str]) -> dict[str, Array]:
    if not _usable(run, names.SIGNALS, notes, said=False):
        return {}
    stored = run.signals()
    places = {uid: row for row, uid in enumerate(stored.uids)}
    rows = np.array([places.get(uid, -1) for uid in uids])
    columns = {name: np.asarray(v, dtype=float) for name, v in stored.columns.items() if np.ndim(v) == 1}
    return {name: np.where(rows >= 0, v[rows], np.nan) for name, v in columns.items() if name not in NOT_A_SIGNAL}


def _majority(session: Session, question: Question | None, samples: Sequence[Rollout]) -> float:
    if question is None or len(samples) < 2:
        return float("nan")
    return majority_answer(session.eval_reader.answers(samples, question))[1]


def read_correct(path: Path, uids: Sequence[str]) -> Array:
    """[N] shares of right answers from an evaluation's file: {uid: share} (pool_correct.json), or rows with `uid`
    and `correct` (eval_*.jsonl). NaN where a question is not in it; DataError if none is."""
    shares = _row_shares(path) if path.suffix == ".jsonl" else _mapped_shares(path)
    found = np.array([shares.get(uid, np.nan) for uid in uids])
    if not np.isfinite(found).any():
        raise DataError(f"{path} has none of the pool's questions (such as {uids[0]}): give an evaluation of this pool")
    return found


def _mapped_shares(path: Path) -> dict[str, float]:
    if not path.exists():
        raise DataError(f"--correct {path}: no such file")
    shares = read_json(path)
    if not isinstance(shares, dict):
        raise DataError(f"{path}: expected an object {{uid: share of right answers}}")
    for uid, share in shares.items():
        if not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise DataError(f"{path}: question {uid}: {share!r} is not a share between 0 and 1")
    return shares


def _row_shares(path: Path) -> dict[str, float]:
    if not path.exists():
        raise DataError(f"--correct {path}: no such file")
    shares: dict[str, float] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict) or "uid" not in row or not row.get("correct"):
            raise DataError(f"{path}:{number}: no `uid` with its list `correct`: give an evaluation's eval_*.jsonl")
        shares[str(row["uid"])] = float(np.mean([bool(c) for c in row["correct"]]))
    return shares


def _own_correct(run: RunFolder, notes: list[str]) -> Path | None:
    path = run.stage_dir(names.EVALUATE_BASE) / POOL_CORRECT
    return path if _usable(run, names.EVALUATE_BASE, notes, said=False) and path.exists() else None


def _rollouts(run: RunFolder, notes: list[str]) -> dict[str, list[Rollout]]:
    if not _usable(run, names.ROLLOUT, notes):
        return {}
    grouped = group_by_question(run.rollouts())
    return {uid: sorted(samples, key=lambda r: r.sample) for uid, samples in grouped.items()}


def _selected(run: RunFolder, uids: Sequence[str], notes: list[str]) -> tuple[np.ndarray | None, float | None]:
    if not _usable(run, names.SELECT, notes):
        return None, None
    selection = run.selection()
    chosen = set(selection.uids)
    return np.array([uid in chosen for uid in uids]), selection.threshold


def _usable(run: RunFolder, stage: str, notes: list[str], said: bool = True) -> bool:
    """The stage is done, and it and the neurons come from the same; notes otherwise what is left out."""
    if run.manifest(stage) is None:
        if said:
            notes.append(f"The {stage} stage is not done: what it makes is not shown.")
        return False
    for reader, read in [*((stage, name) for name in _inputs(run, stage)), (names.NEURONS, stage)]:
        made = _inputs(run, reader).get(read)
        if made is not None and run.manifest(read) is not None and made != run.stage_hash(read):
            notes.append(f"{reader} was made from another {read} than is there: the {stage} stage is not shown.")
            return False
    return True


def _inputs(run: RunFolder, stage: str) -> dict[str, str]:
    """Stages that `stage` was made from, and their hashes then."""
    manifest = run.manifest(stage) or {"fingerprint": {}}
    made = manifest["fingerprint"].items()
    return {key.removeprefix("input."): digest for key, digest in made if key.startswith("input.")}


def _texts(uid: str, pool: Mapping[str, Question], rollouts: Mapping[str, Sequence[Rollout]]) -> QuestionText:
    samples = rollouts.get(uid)
    return QuestionText(uid, question_text(pool[uid]) if uid in pool else None, samples[0].text if samples else None)
