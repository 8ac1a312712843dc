"""Whether servers hold the weights that they should: compared with the trainer's, and with each other's.

In: clients, and token ids to score. Out: nothing, or StaleWeightsError naming the server.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nopsd.config import SamplingConfig
from nopsd.errors import StaleWeightsError
from nopsd.rollout.background import all_at_once
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.logprob_gap import Gap, GapBound, bound_of, gap_of
from nopsd.rollout.service import RolloutService
from nopsd.rollout.weight_sums import BY_COLUMNS, Key, SentSums, held_totals, totals_of

log = logging.getLogger(__name__)
Stream = Iterator[tuple[str, "Tensor | None"]]
SCORE_S = 600.0
CHANGE_TOKENS = 48
PROBE_IDS = (1, 2, 3, 5, 8, 13, 21, 34)
PROBES, PROBE_TOKENS = 4, 32
MOST_LAYERS = 64  # of a model that doesn't say


def check_same_weights(one: RolloutClient, other: RolloutClient) -> None:
    """StaleWeightsError unless both serve the same weights: by checksums, and by log-probs of a probe.

    What gives no checksum, a mixture's experts that a kernel packs, is left to the log-probs, which are judged by what
    two devices' rounding makes of one model (`logprob_gap`).
    """
    digests, others = one.weight_digests(), other.weight_digests()
    differing = {name for name in digests.keys() & others.keys() if digests[name] != others[name]}
    held, others_held = one.weight_sums(), other.weight_sums()
    if len(held) == 1:  # else shards, which may lie otherwise at the other
        own = totals_of(held[0])
        differing.update(name for (name, way), t in held_totals(held[0], others_held).items() if t != own[name, way])
    if differing:
        raise StaleWeightsError(
            f"the servers at {one.url} and {other.url} hold other weights ({_listed(sorted(differing))} "
            "differ): start both on the same model, revision and dtype"
        )
    if above := _rounding_of(one, other).passed_by(_probe_gap(one, other)):
        raise StaleWeightsError(
            f"the servers at {one.url} and {other.url} give log-probs that differ by {above}: "
            "start both on the same model, revision and dtype"
        )


def _probe_gap(one: RolloutClient, other: RolloutClient) -> Gap:
    """Of one server's own samples, at temperature 1: what the bound is made for."""
    prompt = list(PROBE_IDS)
    room = min(PROBE_TOKENS, *(server.max_model_len() - len(prompt) - 1 for server in (one, other)))
    sampling = SamplingConfig(n=PROBES, temperature=1.0, top_p=1.0, top_k=0, max_new=room)
    samples = [rollout.response_ids for rollout in one.sample(prompt, "probe", sampling, 0, 0, False)]
    rows = [[value for ids in samples for value in server.score_one(prompt, ids)] for server in (one, other)]
    return gap_of(torch.tensor(rows[0]), torch.tensor(rows[1]))


def _rounding_of(*servers: RolloutClient) -> GapBound:
    held = [server.held_weights() for server in servers]
    layers = max(int(weights.shape.get("num_hidden_layers", MOST_LAYERS)) for weights in held)
    return bound_of([weights.dtype for weights in held], layers)


class SentWeights:
    """Whether servers hold what was sent to them, to the last bit.

    A version behind at a small learning rate is less than bfloat16's rounding, so no bound on the gap to the trainer
    sees it. Checksums do (`weight_sums`). A loader may transpose or reorder a parameter: so one that has never been
    equal isn't expected to be, but it must not stay as it was, or be what was sent before, when it has changed. Where
    some can't be compared the server must at least give other log-probs after an update: one server gives one sequence
    the same bits as long as its weights are the same.
    """

    def __init__(self) -> None:
        self._sent, self._before = SentSums(), SentSums()  # of the last update, and of the one before it
        self._equal: dict[str, set[Key]] = {}  # what has been equal once, by URL
        self._held: dict[str, dict[Key, int]] = {}  # at the last check, by URL
        self._probes: dict[str, list[float]] = {}  # by URL

    def watched(self, stream: Stream) -> Stream:
        """The weights as they pass."""
        self._before, self._sent = self._sent, SentSums()
        for name, tensor in stream:
            if tensor is not None:
                self._sent.add(name, tensor)
            yield name, tensor

    def check(self, server: RolloutClient) -> None:
        """StaleWeightsError if the server holds another parameter than was sent, or has not taken the update."""
        if stale := self.compare(server):
            raise StaleWeightsError(
                f"the server at {server.url} doesn't hold the weights that were sent: {_listed(stale)} "
                f"{'differs' if len(stale) == 1 else 'differ'}"
            )
        names = {name for name, _ in totals_of(self._sent.sums())}
        if other := sorted(names - {name for name, _ in self._equal[server.url]}):
            if server.url not in self._probes:
                log.warning("no checksum of %s can be compared at %s: log-probs are", _listed(other), server.url)
            self._check_change(server)

    def compare(self, server: RolloutClient) -> list[str]:
        """The parameters that are wrong at the server, of those of which that can be said; what is right is noted."""
        sums = self._sent.sums()
        sent, before = totals_of(sums), totals_of(self._before.sums())
        held, last = held_totals(sums, server.weight_sums()), self._held.get(server.url, {})
        equal = self._equal.setdefault(server.url, set())
        differing = {key for key, total in held.items() if total != sent[key]}
        changed = {key for key in differing if before.get(key) != sent[key]}
        behind = {key for key in changed if held[key] == before.get(key)}
        # Of all numbers of a parameter one has changed, wherever the server holds it; of some columns others may.
        unmoved = {key for key in changed if held[key] == last.get(key) and key[1] != BY_COLUMNS}
        stale = (differing & equal) | behind | unmoved
        equal |= held.keys() - differing
        self._held[server.url] = held
        return sorted({name for name, _ in stale})

    def _check_change(self, server: RolloutClient) -> None:
        room = max(2, min(CHANGE_TOKENS, server.max_model_len() - 1))
        probe = server.score_one([1], list(range(2, room)))
        if self._probes.get(server.url) == probe and (share := self._changed_share()) > 0.5:
            raise StaleWeightsError(
                f"the server at {server.url} gives the log-probs of before the last update to the last bit, and "
                f"{share:.0%} of the parameters have changed: it has not taken the new weights"
            )
        self._probes[server.url] = probe

    def _changed_share(self) -> float:
        """Of the parameters, between the last two updates."""
        before, now = (totals_of(sent.sums()) for sent in (self._before, self._sent))
        known = now.keys() & before.keys()
        return sum(now[name] != before[name] for name in known) / max(1, len(known))


def _listed(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


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
