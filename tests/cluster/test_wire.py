"""The protocol of sentinels and coordinator: if these fail, messages are lost, or garbage is accepted."""

from random import Random

import pytest

from nopsd.cluster.wire import LONGEST_LINE, Lines, line, proof, same


def test_objects_come_out_whole_however_the_bytes_are_cut():
    lines, sent = Lines(), line({"at": "train"}) + line({"disconnect": True})
    received = [message for i in range(len(sent)) for message in lines.feed(sent[i : i + 1])]
    assert received == [{"at": "train"}, {"disconnect": True}]


@pytest.mark.parametrize(
    "data",
    [
        b"[1]\n",
        b"nonsense\n",
        b"x" * (LONGEST_LINE + 1),
        b'{"at": "' + b"x" * LONGEST_LINE + b'"}\n',
        b"[" * 50_000 + b"\n",
        b'{"a":' * 9_000 + b"\n",
        b"\xff\xfe{}\n",
        b"1" * 10_000 + b"\n",
    ],
)
def test_what_is_no_object_is_an_error(data):
    with pytest.raises(ValueError):
        Lines().feed(data)


def test_any_bytes_are_objects_or_a_value_error():
    """Broken if bytes of somebody on the network end the thread that watches the ranks."""
    random = Random(0)
    pieces = [
        b'{"proof":',
        b'"\\ud800"',
        b"{",
        b"}",
        b"[",
        b"null",
        b"1e999",
        b"NaN",
        b"\n",
        b"\x00",
        b'"',
        b"\\u",
        b",",
    ]
    for _ in range(3000):
        lines = Lines()
        data = b"".join(random.choice(pieces + [random.randbytes(3)]) for _ in range(random.randrange(30)))
        try:
            messages = lines.feed(data + b"\n")
        except ValueError:
            continue
        for message in messages:
            assert not same(str(message.get("proof")), proof("key", "challenge", 0))


def test_a_proof_depends_on_key_challenge_and_rank():
    own = proof("key", "challenge", 1)
    assert same(own, proof("key", "challenge", 1))
    assert len({own, proof("k", "challenge", 1), proof("key", "c", 1), proof("key", "challenge", 2)}) == 4
