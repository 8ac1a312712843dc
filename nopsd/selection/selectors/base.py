"""What a selector is: a score for each question of a pool, which end of it is kept, and what it needs.

A selector is one function under the decorator `selector`, in a file of ours or of a user's (nopsd.plugins):

    @selector(keep="low", needs=("token_entropy",))
    def surest_first(pool, config):
        return pool.column("token_entropy")

The function is called once for each domain, with the questions of it that may be selected, on every rank alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nopsd.config import SelectConfig
from nopsd.errors import ConfigError
from nopsd.selection.pool import Pool

__all__ = ["Clustered", "Pool", "Selector", "selector", "without_length"]

KEEPS = ("low", "high", "all")


@dataclass(frozen=True)
class Clustered:
    """Scores [N] of which only the best of each cluster [N] is kept, instead of a budget of the pool's best."""

    scores: np.ndarray
    clusters: np.ndarray


Score = Callable[[Pool, SelectConfig], "np.ndarray | Clustered"]


@dataclass(frozen=True)
class Selector:
    """`score(pool, config)`: finite floats [N]. `keep`: which end is selected; `all`: the scores decide nothing.

    `needs`: columns besides counts and lengths (`agreement` of the neurons stage, the others of the signals stage).
    `length_control`: whether select.length_control=residual takes out of the score what length explains. `neurons`:
    whether the score reads neuron counts or sets; where nothing does, the neurons stage is left out.
    """

    name: str
    keep: str
    score: Score
    needs: tuple[str, ...] = ()
    length_control: bool = True
    neurons: bool = True


def selector(
    *, keep: str, needs: Sequence[str] = (), name: str | None = None, length_control: bool = True, neurons: bool = True
) -> Callable[[Score], Selector]:
    """Make a selector of a function (pool, config) -> scores.

    Args:
        keep: Which end is selected: `low`, `high`; `all`: the scores decide nothing.
        needs: Columns besides counts and lengths (`agreement` of the neurons stage, the others of the signals stage).
        name: The function's, unless given.
        length_control: `select.length_control=residual` takes out of the score what length explains.
        neurons: The score reads neuron counts or sets; where nothing does, the neurons stage is left out.

    Raises:
        ConfigError: `keep` is none of these.
    """

    def made(score: Score) -> Selector:
        if keep not in KEEPS:
            raise ConfigError(f"selector {name or score.__name__}: keep={keep!r}: use one of {', '.join(KEEPS)}")
        return Selector(name or score.__name__, keep, score, tuple(needs), length_control, neurons)

    return made


def without_length(scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """What length alone does not explain of scores.

    Args:
        scores: [N].
        lengths: Tokens T, [N].

    Returns:
        Residuals [N] of their least-squares line on log T.
    """
    scores, log_length = np.asarray(scores, dtype=np.float64), np.log(np.asarray(lengths, dtype=np.float64))
    if len(scores) == 0 or np.ptp(log_length) == 0:
        return scores - scores.mean() if len(scores) else scores
    centred = log_length - log_length.mean()
    slope = (centred * (scores - scores.mean())).sum() / (centred**2).sum()
    result: np.ndarray = scores - scores.mean() - slope * centred
    return result
