"""Stage `select`: the questions to train on and their demonstrations, from the all-gathered counts and sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from nopsd.config import Config
from nopsd.data.sources import load_lines
from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError
from nopsd.files import write_atomic
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.run.stage import Counts, Progress, Stage
from nopsd.selection.names import check_names, needs_neurons, source_hashes
from nopsd.selection.select_pool import select_pool
from nopsd.signals.needs import compares
from nopsd.stages.contexts import pool_data, sharing
from nopsd.stages.workload import chosen, number

SELECTED_ROWS = "selected.jsonl"
CHEAP = ("none", "random", "fixed", "same_prompt_rollout")  # retrievers that compare no questions


class Select(Stage):
    """Selection by neuron count and demonstrations by nearest neuron sets (the paper's Algorithm 1 and Eq. 6)."""

    name = names.SELECT
    does = "select questions, find their demonstrations"
    inputs = (names.DATA, names.ROLLOUT, names.NEURONS, names.SIGNALS)
    config_keys = ("select", "context")
    distributed = True

    def made_from(self, session: Session) -> dict[str, Any]:
        """A user's own code: edited, it selects otherwise."""
        return {f"code.{key}": digest for key, digest in source_hashes(session.config).items()}

    def runs_here(self, config: Config) -> bool:
        """Without ranks, where there are no neuron sets to compare."""
        return not needs_neurons(config) and config.context.retriever in CHEAP and not compares(config.select)

    def check(self, session: Session) -> None:
        """Selector and retriever can be loaded."""
        check_names(session.config)

    def workload(self, config: Config, counts: Counts | None) -> str:
        """Questions kept and demonstrations."""
        pool, context = counts.pool if counts else None, config.context
        kept = "" if pool is None else f"{chosen(config, pool):,} of "
        demonstrations = f"{context.m} demonstrations each by {context.retriever}"
        shown = demonstrations if context.retriever != "none" else "none shown"
        return f"{kept}{number(pool)} questions by {config.select.selector}; {shown}"

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Select on all ranks alike; rank 0 writes."""
        config, signals = session.config, session.run.signals()
        ranks = session.ranks or Ranks(0, 1, torch.device("cpu"))  # alone where there is too little to share
        data = pool_data(session, ranks, signals)
        select_pool(data, config.select, config.context, sharing(session, ranks), folder)

    def finish(self, session: Session) -> str | None:
        """The selected rows, for use elsewhere."""
        return write_selected_rows(session)


def write_selected_rows(session: Session) -> str:
    """RUN/select/selected.jsonl: the selected rows of the user's own file, in its order and as they stand there; of
    other data, the questions. Unless it is there; returns a line that says how many and where.

    Rows are copied whole, so a labelled file's rows hold their labels: that is why the copy is made after the stage is
    sealed, is outside its manifest, and is read by no stage. ArtefactError if the file has lost a row.
    """
    path = session.run.stage_dir(names.SELECT) / SELECTED_ROWS
    selected = set(session.run.selection().uids)
    if not path.exists():
        lines = load_lines(session.config.data)
        if lines is None:
            lines = {q.uid: json.dumps(q.to_json(), ensure_ascii=False) for q in session.pool}
        lost = selected - set(lines)
        if lost:
            raise ArtefactError(
                f"{session.config.data.path} has no row {min(lost)} any more, which was selected: bring it back, or "
                "start afresh with --redo data"
            )
        write_atomic(path, "".join(f"{line}\n" for uid, line in lines.items() if uid in selected))
    return f"{len(selected)} of {len(session.pool)} rows: {path}"
