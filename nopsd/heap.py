"""Memory that the C library keeps after it was freed, given back to the system.

Loading a model frees several times its size in pieces that glibc keeps for its own next use (SmolLM2-135M from a GGUF
file: 1.2 GiB, of which 0.8), and so do a training step's activations, whose sizes change from step to step: after ten
steps of that model 1.4 GiB of 6.0. Beside a rollout server on the same host that memory is missing.
"""

from __future__ import annotations

import ctypes
import gc


def give_back_freed(collect: bool = True) -> None:
    """Return what is free to the system, as far as the C library can (glibc; nothing happens elsewhere).

    `collect`: let Python look for unreachable objects first, which takes tenths of a second.
    """
    if collect:
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
