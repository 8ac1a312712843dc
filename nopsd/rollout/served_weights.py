"""Whether servers hold the weights that they should: compared with the trainer's, and with each other's.

In: clients, and token ids to score. Out: nothing, or StaleWeightsError naming the server.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nopsd.errors import StaleWeightsError
from nopsd.rollout.background import all_at_once
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.service import RolloutService

Stream = Iterator[tuple[str, "Tensor | None"]]
SCORE_S = 600.0
CHANGE_TOKENS = 48
PROBE_IDS = (1, 2, 3, 5, 8, 13, 21, 34)
PROBE_TOLERANCE = 0.25  # nats: more than dtype and device cause, far less than other weights cause


def check_same_weights(one: RolloutClient, other: RolloutClient) -> None:
    """StaleWeightsError unless both serve the same weights: by checksums, and by log-probs of a probe.

    The CPU build gives no checksums of its packed linear layers; for these the log-probs are compared.
    """
    digests, others = one.weight_digests(), other.weight_digests()
    differing = sorted(name for name in digests.keys() & others.keys() if digests[name] != others[name])
    if differing:
        raise StaleWeightsError(
            f"the servers at {one.url} and {other.url} hold other weights ({differing[0]} and {len(differing) - 1} "
            "more differ): start both on the same model, revision and dtype"
        )
    prompt, response = list(PROBE_IDS[:2]), list(PROBE_IDS[2:])
    pairs = zip(one.score_one(prompt, response), other.score_one(prompt, response), strict=True)
    gaps = [abs(a - b) for a, b in pairs]
    if not all(gap <= PROBE_TOLERANCE for gap in gaps):  # a NaN isn't
        raise StaleWeightsError(
            f"the servers at {one.url} and {other.url} give log-probs that differ by up to {max(gaps):.3g} nats: "
            "start both on the same model, revision and dtype"
        )


class ChangeWatch:
    """Whether servers take an update at all: weights that have changed give other log-probs, to the last bit.

    A version behind at a small learning rate is less than bfloat16's rounding, so no bound on the gap to the trainer
    sees it. But one server gives one sequence the same bits as long as its weights are the same.
    """

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}  # of what was sent last, by parameter
        self._changed = 0.0
        self._probes: dict[str, list[float]] = {}  # by URL

    def watched(self, stream: Stream) -> Stream:
        """The weights as they pass."""
        sums = {}
        for name, tensor in stream:
            if tensor is not None:
                sums[name] = _bit_sum(tensor)
            yield name, tensor
        known = sums.keys() & self._sums.keys()
        self._changed = sum(sums[name] != self._sums[name] for name in known) / max(1, len(known))
        self._sums = sums

    def check(self, server: RolloutClient) -> None:
        """StaleWeightsError if most parameters have changed since the last update, and the server's log-probs not."""
        room = max(2, min(CHANGE_TOKENS, server.max_model_len() - 1))
        probe = server.score_one([1], list(range(2, room)))
        before = self._probes.get(server.url)
        if before == probe and self._changed > 0.5:
            raise StaleWeightsError(
                f"the server at {server.url} gives the log-probs of before the last update to the last bit, and "
                f"{self._changed:.0%} of the parameters have changed: it has not taken the new weights"
            )
        self._probes[server.url] = probe


def _bit_sum(tensor: Tensor) -> int:
    """A checksum of a float tensor's bits."""
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(words).sum(dtype=torch.int64))


def verify_served(
    client: RolloutService,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    trainer_logprobs: Sequence[Sequence[float]],
    tolerance: float,
    mean_tolerance: float = math.inf,
) -> float:
    """Compare served with trained log-probs.

    Args:
        client: Of all servers.
        prompts: Token ids.
        responses: Token ids; cut to what fits the servers' window less one position.
        trainer_logprobs: The trainer's of the response ids, nats.
        tolerance: Of each difference, nats.
        mean_tolerance: Of their mean, nats.

    Returns:
        The largest difference over all servers, nats.

    Raises:
        StaleWeightsError: A tolerance is exceeded, or a difference isn't a number; the server is named.
    """
    room = client.max_model_len() - 1
    cut = [list(r[: max(0, room - len(p))]) for p, r in zip(prompts, responses, strict=True)]
    values, failures = all_at_once(lambda server: server.score(prompts, cut), client.servers(), SCORE_S)
    for server, error in failures:
        client.drop(server, error)
    most = (tolerance, mean_tolerance)
    return max(_gap(server, served, trainer_logprobs, most) for server, served in values)


def _gap(
    server: RolloutClient, served: Sequence[list[float]], trained: Sequence[Sequence[float]], most: tuple[float, float]
) -> float:
    deltas = [abs(a - b) for row, own in zip(served, trained, strict=True) for a, b in zip(row, own)]
    worst = max(deltas, key=lambda d: float("inf") if d != d else d, default=0.0)
    mean = math.fsum(deltas) / max(1, len(deltas))
    if not (worst <= most[0] and mean <= most[1]):
        raise StaleWeightsError(
            f"served and trained log-probs differ by up to {worst:.3g} (tolerance {most[0]:.3g}) and {mean:.3g} on "
            f"average (tolerance {most[1]:.3g}) over {len(deltas)} tokens at {server.url}: the server doesn't hold "
            "the trainer's weights, or another dtype"
        )
    return worst
