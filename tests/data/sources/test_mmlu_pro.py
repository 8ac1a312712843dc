"""MMLU-Pro as the paper uses it: if the split is another, every figure is of other questions."""

from nopsd.data.sources import load_answer_key, load_splits
from tests.data.settings import data


def test_mmlu_pro_split_has_the_papers_size(shared_data):
    config = data("data.name=mmlu_pro", f"data.path={shared_data}", "data.domain=mmlu_pro", "data.test_ratio=0.2")
    splits = load_splits(config)
    assert (len(splits.pool), len(splits.tests["mmlu_pro"])) == (9625, 2407)
    key = load_answer_key(config)
    assert all(key[q.uid] in {o.label for o in q.options} for q in splits.tests["mmlu_pro"])
