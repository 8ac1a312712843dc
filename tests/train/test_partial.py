"""rollout.partial: if these fail, tokens are trained on twice or never, by other weights' log-probs, or a resumed run
cuts elsewhere than the unbroken one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from nopsd.config import load_config
from nopsd.errors import ConfigError
from nopsd.rollout.types import Rollout
from nopsd.train.batches import Batching, Example, batch_uids, rank_micro_batches
from nopsd.train.metrics import Clock, response_metrics
from nopsd.train.partial import CUT, Partial, continued
from nopsd.train.planning import Limits
from nopsd.train.run import Step
from nopsd.train.sampling import Sampler
from tests.train.test_sampling import UIDS, SlowServer, run_of

LENGTHS = {"a": 3, "b": 10, "c": 40}  # of the whole answers
LONGEST = 25


class Writer(SlowServer):
    """Writes the answer to each prompt, token i being i and its log-prob -i, as far as it is asked to."""

    def generate(self, prompts, uids, sampling, seed, expected_version=None, logprobs=False, progress=None):
        self.asked.append([one.max_new for one in sampling])
        rows = []
        for prompt, name, one in zip(prompts, uids, sampling, strict=True):
            there, whole = len(prompt) - 2, LENGTHS[name.split("#")[0]]
            ids = list(range(there, min(whole, there + one.max_new)))
            reason = "stop" if there + len(ids) == whole else "length"
            part = Rollout(name, 0, prompt, ids, "".join(f"{i} " for i in ids), reason, self.version, seed)
            rows.append([Rollout(**{**vars(part), "logprobs": [-float(i) for i in ids]})])
        return rows


def run_with(server: Writer, share: float | None = 0.7, extras: dict[str, Any] | None = None) -> Any:
    run = run_of(0, server, extras)
    run.config.rollout.partial, run.config.train.max_response, run.config.train.batch = share, LONGEST, 3
    return run


def steps(sampler: Sampler, server: Writer, numbers: range) -> list[Step]:
    made = []
    for number in numbers:
        uids = batch_uids(UIDS, number, 3, sampler.run.config.train.seed)
        step, server.version = Step(number, uids, [], Clock()), number
        sampler.sample(step)
        made.append(step)
    return made


def test_the_limit_leaves_the_share_of_the_tokens_below_it():
    """By brute force: the least number of tokens a response with which the share is there."""
    rng = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.8, 0.99):
        lengths = rng.lognormal(4, 1, 50).astype(int) + 1
        found = Partial(share, 10_000, 4, finished=[int(n) for n in lengths]).limit()
        there = [np.minimum(lengths, c).sum() / lengths.sum() for c in (found - 1, found)]
        assert there[0] < share <= there[1]
    assert Partial(0.5, 77, 4).limit() == 77, "nothing is known yet: the first step waits"


def test_every_token_is_trained_on_once_with_its_own_versions_log_prob():
    """Five steps of three questions: parts follow each other, a token is new in exactly one, nothing is lost."""
    server = Writer()
    made = steps(Sampler(run_with(server)), server, range(5))
    assert server.asked[0] == [LONGEST] * 3 and max(server.asked[1]) < LONGEST, "the first waits, the second cuts"
    new = [[r.response_ids[len(r.earlier_versions) :] for r in step.rollouts] for step in made]
    whole = {"a": list(range(3)), "b": list(range(10)), "c": list(range(LONGEST))}
    for number, step in enumerate(made):
        assert len(step.uids) == len(step.rollouts) and set(step.uids[:3]) == set(UIDS)
        for uid, rollout in zip(step.uids, step.rollouts, strict=True):
            assert rollout.prompt_ids == [1, 2] and rollout.response_ids == whole[uid][: len(rollout.response_ids)]
            assert rollout.logprobs == [-float(i) for i in rollout.response_ids]
            assert rollout.text == "".join(f"{i} " for i in rollout.response_ids)
            assert rollout.token_versions == sorted(rollout.token_versions) and rollout.policy_version == number
    begun, ended = 5, sum(r.finish_reason != CUT for s in made for u, r in zip(s.uids, s.rollouts) if u == "c")
    assert 0 < ended < begun and any(len(set(r.token_versions)) > 2 for s in made for r in s.rollouts)
    written = sum(len(ids) for step in new for ids in step)
    unfinished = sum(len(r.response_ids) for r in made[-1].rollouts if r.finish_reason == CUT)
    assert written == 5 * (3 + 10) + ended * LONGEST + unfinished
    ends = {r.finish_reason for s in made for u, r in zip(s.uids, s.rollouts) if u == "c"}
    assert ends == {CUT, "length"}, "at train.max_response it is truncated as ever"


def test_a_resumed_run_goes_on_with_the_same_parts():
    server = Writer()
    unbroken = steps(Sampler(run_with(server)), server, range(5))
    first = Sampler(run_with(server))
    steps(first, server, range(3))
    saved = json.loads(json.dumps(first.extras()))
    later = steps(Sampler(run_with(server, extras=saved)), server, range(3, 5))
    assert [s.rollouts for s in later] == [s.rollouts for s in unbroken[3:]]


def test_off_nothing_changes():
    """Broken if the default run's responses, row or checkpoint change."""
    server = SlowServer()
    server.let.set()
    sampler = Sampler(run_with(server, None))
    step = Step(0, list(UIDS), [], Clock())
    sampler.sample(step)
    assert step.uids == UIDS and sampler.extras() == {} and step.rollouts[0].earlier_versions is None
    assert "cut_share" not in response_metrics(step.rollouts)
    parts = [continued(None, r, r.prompt_ids, LONGEST) for r in step.rollouts]
    assert response_metrics(parts)["cut_share"] == response_metrics(parts)["continued"] == 0.0


def test_loss_is_on_the_new_tokens_alone_and_whole_answers_weigh_the_same_in_parts():
    """By hand: rows, targets, log-probs and weights of a part are those of the whole answer's last tokens."""
    response, served = [11, 12, 13, 14, 15], [-0.1, -0.2, -0.3, -0.4, -0.5]
    part = Example("a", [1, 2], [3, 4, 5], response, served, trained_before=3)
    other = Example("b", [1], [6], [16, 17], [-0.6, -0.7])
    (batch,) = rank_micro_batches([part, other], 0, 1, Batching(Limits(4)))
    assert batch.targets_N.tolist() == [14, 15, 16, 17] and batch.position_N.tolist() == [3, 4, 0, 1]
    assert batch.served_N.tolist() == pytest.approx([-0.4, -0.5, -0.6, -0.7])
    assert batch.weights_N.tolist() == pytest.approx([0.25] * 4), "the mean is over the tokens that are new"
    assert batch.student.rows_N.tolist() == [4, 5, 7, 8] and batch.teacher.rows_N.tolist() == [5, 6, 8, 9]
    assert batch.student.ids_BT.tolist() == [[1, 2, *response, 1, 16, 17]]
    (whole,) = rank_micro_batches([Example("a", [1, 2], [3], response, served)], 0, 1, Batching(Limits(4)))
    assert torch.equal(whole.targets_N[3:], batch.targets_N[:2])


@pytest.mark.parametrize(
    "other, why",
    [
        ("train.n=2", r"train\.n=2 compares whole answers"),
        ("train.ahead=1", r"train\.ahead=1 samples before"),
        ("method=ttrl", r"method=ttrl needs finished answers"),
        ("distill.position_weight=rising", r"distill\.position_weight=rising goes by"),
    ],
)
def test_what_needs_whole_answers_is_refused(other: str, why: str):
    extra = ["train.n=8"] if other == "method=ttrl" else []
    with pytest.raises(ConfigError, match=why):
        load_config("lab", ["rollout.partial=0.8", other, *extra])
    load_config("lab", ["rollout.partial=0.8"])
