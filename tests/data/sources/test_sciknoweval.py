"""SciKnowEval as the paper uses it: if the split is another, every figure is of other questions."""

from functools import cache

import pytest

from nopsd.data.sources import load_splits, sciknoweval
from tests.data.settings import data


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """All domains are in the one file, of 18,470 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sciknoweval, "read_rows", cache(sciknoweval.read_rows))
        yield


@pytest.mark.parametrize(
    ("domain", "train", "test"),
    [
        ("Biology", 3541, 394),
        ("Material", 4460, 496),
        ("Physics", 2984, 332),
        ("Chemistry", 5636, 627),
    ],
)
def test_sciknoweval_splits_have_the_papers_sizes(shared_data, domain, train, test):
    """The paper's N in Fig. 3, which follow from the numbers of questions with four options."""
    splits = load_splits(data("data.name=sciknoweval", f"data.path={shared_data}", f"data.domain={domain}"))
    assert (len(splits.pool), len(splits.tests[domain])) == (train, test)
    assert not {q.uid for q in splits.pool} & {q.uid for q in splits.tests[domain]}
