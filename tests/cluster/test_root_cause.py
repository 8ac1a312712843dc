"""Of several failures the root cause is named, with rank, host, phase and remedy."""

import pytest

from nopsd.cluster.root_cause import Failure, describe, find_root_cause


def test_the_root_cause():
    """The first noticed failure is the cause, but an error of a broken connection never is while there is another."""
    torn = Failure("raised", 0, "a", message="RuntimeError: [gloo] Connection closed by peer [10.0.0.2]")
    own = Failure("raised", 2, "c", message="ValueError: bad row")
    lost = Failure("user_error", 0, "a", message="no rollout server is left (ConnectError: Connection refused)")
    gone = Failure("vanished", 1, "b")
    ends = Failure("raised", 3, "b", message="weight sync: rank 3 on b ends, for rank 0 failed")
    assert find_root_cause([ends, own]) == own and find_root_cause([lost, gone]) == lost
    assert (
        find_root_cause([torn, gone]) == gone
        and find_root_cause([torn, own, gone]) == own
        and find_root_cause([torn]) == torn
    )


@pytest.mark.parametrize("kind", ["vanished", "raised", "user_error", "hung", "silent", "absent"])
def test_every_message_names_host_rank_and_phase(kind):
    printed = describe(Failure(kind, 3, "node7", "train, train/loop.py:10 train", "words"), 20)
    assert "rank 3 on node7" in printed and (kind == "absent" or "train/loop.py:10" in printed)


@pytest.mark.parametrize(
    ("message", "todo"),
    [
        ("OSError: [Errno 28] No space left on device: '/run/x'", "the disk it writes to is full there"),
        ("RuntimeError: PytorchStreamWriter failed writing file data/0: file write failed", "`ulimit -f`"),
        ("DistNetworkError: ... port: 29500, useIpv6: false, code: -98, name: EADDRINUSE", "`ss -ltnp` names it"),
    ],
)
def test_troubles_that_a_user_can_fix_come_with_what_to_do(message, todo):
    """An errno alone leaves a user on a cluster without the place to look."""
    printed = describe(Failure("raised", 1, "node7", "train", message), 20)
    assert printed.startswith("rank 1 on node7 failed (in train): ") and message in printed and todo in printed
    assert "the same command continues" in printed
    assert "the same command" not in describe(Failure("raised", 1, "node7", "train", "ValueError: x"), 20)
