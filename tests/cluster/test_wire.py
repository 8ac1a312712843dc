"""The protocol of sentinels and coordinator: if these fail, messages are lost, or garbage is accepted."""

import pytest

from nopsd.cluster.wire import LONGEST_LINE, Lines, line, proof, same


def test_objects_come_out_whole_however_the_bytes_are_cut():
    lines, sent = Lines(), line({"at": "train"}) + line({"disconnect": True})
    received = [message for i in range(len(sent)) for message in lines.feed(sent[i : i + 1])]
    assert received == [{"at": "train"}, {"disconnect": True}]


@pytest.mark.parametrize("data", [b"[1]\n", b"nonsense\n", b"x" * (LONGEST_LINE + 1)])
def test_what_is_no_object_is_an_error(data):
    with pytest.raises(ValueError):
        Lines().feed(data)


def test_a_proof_depends_on_key_challenge_and_rank():
    own = proof("key", "challenge", 1)
    assert same(own, proof("key", "challenge", 1))
    assert len({own, proof("k", "challenge", 1), proof("key", "c", 1), proof("key", "challenge", 2)}) == 4
