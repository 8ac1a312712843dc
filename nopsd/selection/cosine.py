"""Cosines of vectors, the same on every machine, for every number of ranks and every size of block. Pure.

Unit vectors are rounded to a grid of 2^-25, so that products and their sums are integers below 2^53, which float64
holds exactly in whatever order they are added. Rounding is finer than float32's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nopsd.errors import DataError

GRID = 1 << 25


def on_grid(vectors_NH: np.ndarray, uids: Sequence[str], column: str = "embedding") -> np.ndarray:
    """Unit vectors on a grid, so that their products are exact.

    Args:
        vectors_NH: A vector a question, such as its mean last hidden state.
        uids: Names of the rows, for the message.
        column: What a vector is, for the message.

    Returns:
        Whole numbers in units of 1/GRID, float64 [N, H]; rows of zeros stay.

    Raises:
        DataError: A value isn't finite; the question is named.
    """
    bad = np.flatnonzero(~np.isfinite(vectors_NH).all(axis=1))
    if len(bad):
        article = "an" if column[0] in "aeiou" else "a"
        raise DataError(
            f"question {uids[bad[0]]} has {article} {column} that is not finite: run the signals stage again"
        )
    values = vectors_NH.astype(np.float64)
    norm = np.sqrt((values**2).sum(axis=1, keepdims=True))
    result: np.ndarray = np.rint(np.divide(values, norm, out=np.zeros_like(values), where=norm > 0) * GRID)
    return result


def cosines(queries_QH: np.ndarray, pool_NH: np.ndarray) -> np.ndarray:
    """cos [Q, N] of vectors on the grid; 0 where one is zero."""
    product = queries_QH @ pool_NH.T  # exact: |sums| <= |q||p| < 2^53
    squares = (queries_QH**2).sum(axis=1)[:, None] * (pool_NH**2).sum(axis=1)[None]
    cosine = np.divide(product, np.sqrt(squares), out=np.zeros_like(product), where=squares > 0)
    result: np.ndarray = np.clip(cosine, -1, 1)
    return result


def cosine_distances(queries_QH: np.ndarray, pool_NH: np.ndarray) -> np.ndarray:
    """1 − cos [Q, N] of vectors on the grid; 1 where one is zero."""
    result: np.ndarray = 1.0 - cosines(queries_QH, pool_NH)
    return result


def nearest_to_mean(vectors_NH: np.ndarray) -> int:
    """The vector on the grid whose cosine to the mean of all is the largest; of equals the first."""
    return int(np.argmax(cosines(vectors_NH, np.rint(vectors_NH.mean(axis=0, keepdims=True)))[:, 0]))
