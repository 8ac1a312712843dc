"""nopsd.viewer.pieces: a token's colour must lie on that token's own text."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nopsd.models import LAB_MODEL
from nopsd.viewer.pieces import FILE, Pieces


def test_pieces_joined_are_the_whole_text():
    tokenizer = Tokenizer.from_file(str(LAB_MODEL / FILE))
    pieces, rng = Pieces(tokenizer), random.Random(0)
    for _ in range(20):
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(60)]
        split = pieces.split(ids)
        assert len(split) == len(ids)
        assert "".join(split) == tokenizer.decode(ids, skip_special_tokens=False)


def test_a_character_of_several_tokens_stands_with_the_last():
    byte_level = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(byte_level)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ids = tokenizer.encode("aé漢b").ids
    assert len(ids) == 1 + 2 + 3 + 1
    assert Pieces(tokenizer).split(ids) == ["a", "", "é", "", "", "漢", "b"]


def test_without_a_tokenizer_ids_are_shown():
    assert Pieces(None).split([3, 14]) == ["⟨3⟩", "⟨14⟩"]
