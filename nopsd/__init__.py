"""nopsd: Neuron On-Policy Self-Distillation (arXiv 2607.02460) on DeepSpeed and vLLM.

The public surface is `__all__`: the functions of `nopsd.api`, loaded when they are first used, and the error that they
raise. Everything else may change from version to version.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nopsd.api import Run, build_contexts, evaluate, open_run, report, score, select, status, train_student
    from nopsd.errors import UserError

__version__ = "0.2.0"

__all__ = [
    "Run",
    "UserError",
    "build_contexts",
    "evaluate",
    "open_run",
    "report",
    "score",
    "select",
    "status",
    "train_student",
]


def __getattr__(name: str) -> Any:
    """`import nopsd` stays quick: what is used is loaded."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("nopsd.errors" if name == "UserError" else "nopsd.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
