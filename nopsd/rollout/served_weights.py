"""Whether servers hold the weights that they should: compared with the trainer's, and with each other's.

In: clients, and token ids to score. Out: nothing, or StaleWeightsError naming the server.
"""

from __future__ import annotations

from collections.abc import Sequence

from nopsd.errors import StaleWeightsError
from nopsd.rollout.background import all_at_once
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.service import RolloutService

SCORE_S = 600.0
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


def verify_served(
    client: RolloutService,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    trainer_logprobs: Sequence[Sequence[float]],
    tolerance: float,
) -> float:
    """Compare served with trained log-probs.

    Args:
        client: Of all servers.
        prompts: Token ids.
        responses: Token ids; cut to what fits the servers' window less one position.
        trainer_logprobs: The trainer's of the response ids, nats.
        tolerance: `train.sync_tolerance`.

    Returns:
        The largest difference over all servers, nats.

    Raises:
        StaleWeightsError: It exceeds `tolerance` or isn't a number; the server is named.
    """
    room = client.max_model_len() - 1
    cut = [list(r[: max(0, room - len(p))]) for p, r in zip(prompts, responses, strict=True)]
    values, failures = all_at_once(lambda server: server.score(prompts, cut), client.servers(), SCORE_S)
    for server, error in failures:
        client.drop(server, error)
    return max(_gap(server, served, trainer_logprobs, tolerance) for server, served in values)


def _gap(
    server: RolloutClient, served: Sequence[list[float]], trained: Sequence[Sequence[float]], tolerance: float
) -> float:
    deltas = [abs(a - b) for row, own in zip(served, trained, strict=True) for a, b in zip(row, own)]
    worst = max(deltas, key=lambda d: float("inf") if d != d else d, default=0.0)
    if not worst <= tolerance:
        raise StaleWeightsError(
            f"served and trained log-probs differ by up to {worst:.3g} (tolerance {tolerance:g}) over {len(deltas)} "
            f"tokens at {server.url}: the server doesn't hold the trainer's weights, or another dtype"
        )
    return worst
