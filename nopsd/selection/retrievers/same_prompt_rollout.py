"""`same_prompt_rollout`: one stored response of the question itself, agreeing with its majority answer (SPEC §5).

Label-free kin of SDPO and CANON. The student's response is sampled anew, so that any stored response is another one;
the first that agrees is shown. A question none of whose responses has a readable answer gets no demonstration.
"""

from __future__ import annotations

import numpy as np

from nopsd.selection.retrievers.base import NOBODY, Picked, Request, retriever


@retriever(needs=("agrees",), from_pool=False, neurons=False)
def same_prompt_rollout(request: Request) -> Picked:
    agrees = request.column("agrees")[request.queries] > 0  # NaN: no such response
    shown = agrees.any(1) & request.table.allowed[request.queries]
    width = min(request.config.m, 1)
    numbers = np.where(shown, request.queries, NOBODY)[:, None][:, :width]
    return Picked(numbers, np.full(numbers.shape, np.nan), np.argmax(agrees, axis=1)[:, None][:, :width])
