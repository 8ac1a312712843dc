"""The lab's tokenizer takes any text."""

import pytest

from nopsd.data.prompts import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(lab_model_dir):
    return load_tokenizer(lab_model_dir)


@pytest.mark.parametrize("text", ["naïve café", "日本語", "🙂 emoji", "α→β\t\x00", "<think>x</think>"])
def test_any_utf8_goes_through_the_lab_tokenizer(tokenizer, text):
    import unicodedata

    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)
