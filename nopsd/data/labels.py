"""An option's label as a reader sees it: `A)`, `(A)` and `A.` are all A."""

from __future__ import annotations

import re

_EDGES = re.compile(r"^[\s(\[{<\"'*_]+|[\s)\]}>.:,;\"'*_]+$")


def core(label: str) -> str:
    """The label without the punctuation around it; the label itself if it is nothing else."""
    return _EDGES.sub("", label) or label
