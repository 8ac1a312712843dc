"""Statistics of scores: what the run folder says of a selection must be the scores' own numbers."""

import numpy as np
import pytest

from nopsd.config import SelectConfig
from nopsd.selection.selectors import select
from tests.selection.selectors.example import COUNTS, LENGTHS, pool


def test_statistics_of_scores_stand_beside_the_selection():
    from nopsd.selection.statistics import score_statistics

    questions = pool({"seq_nll": [1, 2, 3, 4, 5]}, domains=["a", "a", "a", "b", "b"])
    found = select(questions, SelectConfig(selector="seq_nll", fraction=0.5))
    stats = score_statistics(questions, found.scores)
    assert stats["a"]["quantiles"]["50"] == 2 and stats["b"]["mean"] == 4.5
    assert stats["a"]["count_correlation"] == pytest.approx(np.corrcoef([1, 2, 3], COUNTS[:3])[0, 1])
    assert stats["a"]["length_correlation"] == pytest.approx(np.corrcoef([1, 2, 3], LENGTHS[:3])[0, 1])
