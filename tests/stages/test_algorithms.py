"""What the train stage makes of its settings: style words become token ids only where the tokenizer has them whole."""

from nopsd.data.prompts import load_tokenizer
from nopsd.stages.algorithms import single_token_ids


def test_words_that_are_one_token(lab_model_dir):
    tokenizer = load_tokenizer(lab_model_dir)
    ids = single_token_ids(tokenizer, ["gives", "Supercalifragilistic"])
    assert [tokenizer.decode([i]) for i in ids] and {tokenizer.decode([i]).strip().lower() for i in ids} == {"gives"}
