"""What is kept of the comparison on a real model: small files, no weights, for `tables.py`.

    python tools/real_table/keep.py runs/real docs/results/real/smollm2_135m        after `nopsd compare --plan ...`

One JSON file a finished run (judged answers by question, two of them as text; cost; what was learned from) and its
config; base.json of the base model; pool.json with neuron count, length, right answers and vote of every pool question.
A comparison that isn't finished leaves what there is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import Config, to_yaml
from nopsd.data.majority import majority
from nopsd.data.reading import answer_reader
from nopsd.errors import ArtefactError, UserError
from nopsd.evaluation.evaluate import group_by_question
from nopsd.evaluation.results import DomainResult
from nopsd.files import file_name, write_atomic, write_json
from nopsd.keys import without_keys
from nopsd.reporting.compare.gathering import view_of
from nopsd.reporting.compare.plan import Member, members, read_plan, read_plan_file
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.rollout.types import read_rollouts
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder

BASE, POOL = "base.json", "pool.json"
EXAMPLES = 2  # test questions whose first answer is kept as text
ENDS = 10  # steps whose mean loss is kept, first and last
Kept = dict[str, Any]


def keep(folder: Path, out: Path) -> list[Path]:
    """Write the files; returns them. ArtefactError if no run is finished."""
    plan = read_plan(read_plan_file(folder / "plan.yaml"), str(folder / "plan.yaml"))
    runs = members(plan)
    view = view_of(plan, runs, {})
    if not view.models:
        raise ArtefactError(f"{folder}: no run has evaluated anything yet")
    results = next(iter(view.models.values()))
    written = []
    base = next((m for m in runs if RunFolder(m.config.run_dir).manifest(names.EVALUATE_BASE)), runs[0])
    seed = next(iter(results.base))
    written += [_write(out / BASE, {"targets": _targets(results.base[seed]), **_texts(base, names.EVALUATE_BASE)})]
    for member in runs:
        key = (member.label, member.source, member.seed)
        if key not in results.runs:
            continue
        about = {"label": member.label, "seed": member.seed, "method": member.config.method}
        facts = {"train": _training(member), "material": vars(view.material[key]) if key in view.material else None}
        kept = {**about, "targets": _targets(results.runs[key]), **facts, **_texts(member, names.EVALUATE)}
        written.append(_write(out / f"{file_name(f'{member.label}-{member.seed}')}.json", kept))
        config = out / f"{file_name(f'{member.label}-{member.seed}')}.yaml"
        write_atomic(config, to_yaml(without_folders(without_keys(member.config))))
        written.append(config)
    if (pool := _pool(runs)) is not None:
        written.append(_write(out / POOL, pool))
    return written


def _write(path: Path, kept: Kept) -> Path:
    write_json(path, kept)
    return path


def without_folders(config: Config) -> Config:
    """With the names of this machine's files alone; a hub's name stays."""
    model, data = config.model, config.data
    model = replace(model, path=Path(model.path).name) if Path(model.path).is_absolute() else model
    data = replace(data, path=Path(data.path).name) if data.path and Path(data.path).is_absolute() else data
    return replace(config, model=model, data=data)


def _targets(found: Mapping[str, DomainResult]) -> Kept:
    return {target: _judged(result) for target, result in found.items()}


def _judged(result: DomainResult) -> Kept:
    """What metrics and paired intervals need of a target, and no answer."""
    return {
        "uids": [row.uid for row in result.rows],
        "correct": ["".join(str(int(right)) for right in row.correct) for row in result.rows],
        "vote": "".join(str(int(row.majority == row.gold)) for row in result.rows),
        "share": [round(row.share, 4) for row in result.rows],
        "ece_bins": result.ece_bins,
        **{name: round(result.metrics[name], 4) for name in ("unparsed", "truncated", "mean_length")},
    }


def _texts(member: Member, stage: str) -> Kept:
    """The first answers to the first questions of the run's own domain."""
    run = RunFolder(member.config.run_dir)
    file = run.stage_dir(stage) / ROLLOUTS
    if not file.exists():
        return {}
    asked = run.tests().get(member.source, [])[:EXAMPLES]
    given = {r.uid: r.text for r in read_rollouts(file) if r.sample == 0}
    return {"examples": [[q.question, given[q.uid]] for q in asked if q.uid in given]}


def _training(member: Member) -> Kept:
    rows = RunFolder(member.config.run_dir).training_metrics()
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    lengths = [row.get("response_length_mean") or 0.0 for row in rows]
    seconds = sum(v for row in rows for k, v in row.items() if k.startswith("time/") and v is not None)
    return {
        "steps": len(rows),
        "loss_first": float(np.mean(losses[:ENDS])) if losses else None,
        "loss_last": float(np.mean(losses[-ENDS:])) if losses else None,
        "length": float(np.mean(lengths)) if lengths else None,
        "seconds": seconds,
    }


def _pool(runs: Sequence[Member]) -> Kept | None:
    """The pool's columns: neuron sets of the first run that has scored it, right answers and votes of the run with the
    most answers a question (a vote of one is none)."""
    folders = [(RunFolder(member.config.run_dir), member.config) for member in runs]
    scored = next((run for run, _ in folders if run.manifest(names.NEURONS) is not None), None)
    judged = [(run, config) for run, config in folders if run.manifest(names.EVALUATE_BASE) and run.pool_correct()]
    if scored is None or not judged:
        return None
    run, config = max(judged, key=lambda one: one[1].zero_shot.n)
    neurons, correct, votes = scored.neurons(), run.pool_correct(), {}
    if config.zero_shot.n > 1:
        reader, questions = answer_reader(config), {q.uid: q for q in run.pool()}
        for uid, given in group_by_question(run.rollouts()).items():
            votes[uid] = majority(reader.answers(given, questions[uid]))[1] / len(given)
    return {
        "uids": neurons.uids,
        "samples": config.zero_shot.n,
        "count": [round(float(c), 2) for c in neurons.counts],
        "length": [int(n) for n in neurons.lengths],
        "correct": [correct.get(uid) for uid in neurons.uids],
        "vote": [votes.get(uid) for uid in neurons.uids],
    }


def main(argv: Sequence[str]) -> int:
    """The command line: the comparison's folder and where to."""
    if len(argv) != 2:
        print(__doc__)
        return 2
    try:
        print("\n".join(str(path) for path in keep(Path(argv[0]), Path(argv[1]))))
    except UserError as error:
        print(f"keep: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
