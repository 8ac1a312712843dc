"""What `nopsd select` leaves for use elsewhere: the chosen rows of the user's own file, as they stand there.

In: the committed stage `select`, and the file that `data.path` names. Out: RUN/select/selected.jsonl, one row a line
in the file's order; for data that are no file of the user's, the chosen questions. Rows are copied whole, so a
labelled file's rows hold their labels: that is why the copy is made after the stage is sealed, lies outside its
manifest, and is read by no stage.
"""

from __future__ import annotations

import json

from nopsd.data.sources import load_lines
from nopsd.errors import ArtefactError
from nopsd.files import write_atomic
from nopsd.run.session import Session
from nopsd.selection.stage import read_selected

SUBSET = "selected.jsonl"


def write_subset(session: Session) -> str:
    """Write the chosen rows unless they are there. Returns a line that says how many and where; ArtefactError if the
    file has lost one of them."""
    folder = session.run.stage_dir("select")
    path = folder / SUBSET
    chosen = set(read_selected(folder).uids)
    if not path.exists():
        lines = load_lines(session.config.data)
        if lines is None:
            lines = {q.uid: json.dumps(q.to_json(), ensure_ascii=False) for q in session.pool}
        lost = chosen - set(lines)
        if lost:
            raise ArtefactError(
                f"{session.config.data.path} has no row {min(lost)} any more, which was selected: bring it back, or "
                "start afresh with --redo data"
            )
        write_atomic(path, "".join(f"{line}\n" for uid, line in lines.items() if uid in chosen))
    return f"{len(chosen)} of {len(session.pool)} rows: {path}"
