"""Does a question whose answer has near neurons belong to the same subtask? On SciKnowEval, whose rows name theirs.

    python tools/neighbor_subtasks.py --preset small/smollm2_135m model.path=FILE.gguf data.name=sciknoweval \
        data.domain=Biology data.path=FOLDER data.pool_limit=300 run_dir=runs/subtasks --out FILE.json

Runs (or reuses) the stages up to signals, then takes of every pool question its context.m nearest by neuron sets, by
mean last hidden state, by length alone, and at random, and prints the share that has the question's own subtask, with a
95 % interval over questions. Neighbors of all kinds are drawn by the product's own retrievers and rules.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nopsd.config import Config, load_config
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError, UserError
from nopsd.evaluation.bootstrap import interval, resample_counts
from nopsd.files import read_json, write_json
from nopsd.reporting.table import markdown_table
from nopsd.run import folder as names
from nopsd.run import runner
from nopsd.run.session import Session
from nopsd.stages.contexts import contexts_without_selection
from nopsd.stages.registry import STAGES

KINDS = {"neuron sets": "neuron_jaccard", "hidden state": "embedding_cos", "random": "random"}
LENGTH = "length"
RESAMPLES = 1000


def nearest_in_length(lengths: Mapping[str, int], m: int) -> dict[str, list[str]]:
    """The m questions whose answers are nearest in length, ties by uid."""
    uids = sorted(lengths)
    return {
        uid: sorted((other for other in uids if other != uid), key=lambda o: (abs(lengths[o] - lengths[uid]), o))[:m]
        for uid in uids
    }


def same_subtask(neighbors: Mapping[str, Sequence[str]], subtasks: Mapping[str, str | None]) -> list[float]:
    """Share of the neighbors that have their question's subtask: the mean over questions and its interval."""
    shares_N = np.array([np.mean([subtasks[o] == subtasks[uid] for o in near]) for uid, near in neighbors.items()])
    drawn = resample_counts(len(shares_N), RESAMPLES, 0) @ shares_N / len(shares_N)
    found = interval(float(shares_N.mean()), drawn)
    return [found.value, float(found.low or 0.0), float(found.high or 0.0)]


def neighbors_of(session: Session) -> dict[str, dict[str, list[str]]]:
    """Kind -> question -> its neighbors."""
    config, alone = session.config, Ranks(0, 1, torch.device("cpu"))
    signals, uids = session.run.signals(), sorted(session.questions)
    found = {}
    for kind, retriever in KINDS.items():
        context = replace(config.context, retriever=retriever)
        contexts = contexts_without_selection(session, alone, uids, context, signals)
        found[kind] = {uid: [n.uid for n in contexts[uid]] for uid in uids}
    neurons = session.run.neurons()
    found[LENGTH] = nearest_in_length(dict(zip(neurons.uids, neurons.lengths.tolist())), config.context.m)
    return found


def measured(config: Config) -> list[dict[str, Any]]:
    """A row a kind. DataError where questions have no subtask."""
    for stage in (names.NEURONS, names.SIGNALS):
        runner.run_one(STAGES, config, stage)
    with Session(config) as session:
        subtasks = {q.uid: q.category for q in session.pool}
        if None in subtasks.values():
            raise DataError(f"data.name={config.data.name}: its questions have no subtask: use sciknoweval")
        rows = []
        for kind, neighbors in neighbors_of(session).items():
            rate, low, high = same_subtask(neighbors, subtasks)
            about = {"domain": config.data.domain, "neighbors": kind, "questions": len(neighbors)}
            rows.append({**about, "m": config.context.m, "rate": rate, "low": low, "high": high})
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the stages and print the table; 1 if it can't be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides, as of `nopsd`")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--out", help="JSON to which the rows are added")
    chosen = parser.parse_intermixed_args(argv)
    try:
        # embeddings are made because the retriever asks for them, neuron sets because the selector does
        needed = ["select.selector=neuron_count", "context.retriever=embedding_cos"]
        rows = measured(load_config(chosen.preset, [*chosen.overrides, *needed]))
        header = ["neighbors", "same subtask", "95 %"]
        lines = [[r["neighbors"], f"{r['rate']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}"] for r in rows]
        print(markdown_table(header, lines))
        if chosen.out:
            path = Path(chosen.out)
            kept = read_json(path) if path.exists() else []
            fresh = {(r["domain"], r["neighbors"]) for r in rows}
            write_json(path, [r for r in kept if (r["domain"], r["neighbors"]) not in fresh] + rows)
    except UserError as error:
        print(f"neighbor_subtasks: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
