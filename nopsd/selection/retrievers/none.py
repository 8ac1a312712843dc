"""`none`: no demonstrations; the teacher sees what the student sees (SPEC §5)."""

from __future__ import annotations

import numpy as np

from nopsd.selection.retrievers.base import Neighbours, Request, retriever


@retriever(name="none", from_pool=False, neurons=False)
def nothing(request: Request) -> Neighbours:
    return Neighbours(np.zeros((len(request.queries), 0), dtype=np.int64), np.zeros((len(request.queries), 0)))
