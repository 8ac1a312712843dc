"""Whether a server holds the trainer's weights: with other weights a run trains on another model's samples."""

from types import SimpleNamespace

import pytest

from nopsd.errors import ServerError, StaleWeightsError
from nopsd.rollout.held import HeldWeights
from nopsd.rollout.served_weights import check_same_weights, verify_served
from nopsd.rollout.types import Rollout
from nopsd.rollout.weight_sums import WeightSum


class Server:
    """Scores every response token by `logprob`."""

    def __init__(self, url="http://a", logprob=-1.0, digests=(), sums=(), fails=False):
        self.url, self.logprob, self.digests, self.fails, self.asked = url, logprob, dict(digests), fails, []
        self.sums = [[WeightSum("w", "columns", "bfloat16", 8 // len(sums), total)] for total in sums]

    def weight_digests(self):
        return self.digests

    def weight_sums(self):
        return self.sums

    def held_weights(self):
        return HeldWeights("m", shape={"num_hidden_layers": 28})

    def max_model_len(self):
        return 64

    def sample(self, prompt, uid, sampling, *_):
        return [Rollout(uid, i, prompt, [7] * sampling.max_new, "", "length", 0) for i in range(sampling.n)]

    def score_one(self, prompt, response):
        return [self.logprob] * len(response)

    def score(self, prompts, responses):
        if self.fails:
            raise ServerError("gone")
        self.asked = responses
        return [[self.logprob] * len(r) for r in responses]


def service(*servers, window=8):
    dropped = []
    return SimpleNamespace(
        max_model_len=lambda: window,
        servers=lambda: list(servers),
        drop=lambda server, error: dropped.append(server.url),
        dropped=dropped,
    )


PROMPTS, RESPONSES = [[1, 2], [1, 2, 3]], [[4, 5, 6], [7, 8, 9, 10, 11]]
TRAINED = [[-1.0] * 3, [-1.0] * 5]


def test_responses_are_cut_to_the_window_and_the_worst_gap_is_told():
    """A prompt and response that fill the window leave no position for a log-prob."""
    server = Server(logprob=-1.25)
    assert verify_served(service(server), PROMPTS, RESPONSES, TRAINED, 0.5) == 0.25
    assert server.asked == [[4, 5, 6], [7, 8, 9, 10]]


@pytest.mark.parametrize("logprob", [-1.6, float("nan")])
def test_a_server_of_other_weights_is_named(logprob):
    """NaN compares as no more than anything: it must not pass for equal."""
    servers = Server(), Server("http://b", logprob)
    with pytest.raises(StaleWeightsError, match="7 tokens at http://b: the server doesn't hold the trainer's"):
        verify_served(service(*servers), PROMPTS, RESPONSES, TRAINED, 0.5)


def test_a_server_that_fails_is_dropped_and_the_others_are_still_compared():
    pool = service(Server("http://b", fails=True), Server())
    assert verify_served(pool, PROMPTS, RESPONSES, TRAINED, 0.5) == 0 and pool.dropped == ["http://b"]


def test_two_servers_are_compared_by_digests_by_checksums_and_by_a_probe():
    """The CPU build lacks digests of packed layers, some layers have no checksum; a probe alone would let near weights
    pass."""
    one = Server(digests={"x": "1", "only here": "2"}, sums=(5,))
    check_same_weights(one, Server("http://b", -1.1, {"x": "1"}, sums=(2, 3)))
    check_same_weights(one, Server("http://b", -1.1, {"x": "1"}))
    with pytest.raises(StaleWeightsError, match=r"http://a and http://b hold other weights \(x differ\)"):
        check_same_weights(one, Server("http://b", digests={"x": "3"}, sums=(5,)))
    with pytest.raises(StaleWeightsError, match=r"http://a and http://b hold other weights \(w differ\)"):
        check_same_weights(one, Server("http://b", digests={"x": "1"}, sums=(6,)))
    for logprob in (-1.5, float("nan")):
        with pytest.raises(StaleWeightsError, match="http://a and http://b give log-probs that differ"):
            check_same_weights(one, Server("http://b", logprob, {"x": "1"}))
