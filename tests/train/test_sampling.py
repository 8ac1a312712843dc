"""train.ahead=1: what is sampled when, by which weights; what fails, and what a killed run goes on with."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nopsd.config import Config, load_config
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError, ServerError, StaleWeightsError
from nopsd.rollout.logprob_gap import Gap, GapBound
from nopsd.rollout.types import Rollout
from nopsd.train.metrics import Clock
from nopsd.train.metrics_log import read_metrics
from nopsd.train.run import Step
from nopsd.train.sampling import PENDING, Sampler, check_gap, serve
from tests.train.test_kills import run as run_and_kill
from tests.train.test_kills import without_times

ALONE = Ranks(0, 1, torch.device("cpu"))
UIDS = ["a", "b", "c"]
STEPS = 5
KILLS = [
    {"where": "ahead", "nth": 4, "victims": [0], "raises": "no such server"},  # step 3's, while step 2 trains
    {"where": "step", "nth": 3, "victims": [0, 1], "all": True},  # step 4, after the checkpoint that holds its rollouts
]


class SlowServer:
    """Answers when it is let; holds `version`. Asked, it notes (step's seed, version expected)."""

    def __init__(self) -> None:
        self.let, self.version, self.asked, self.error = threading.Event(), 0, [], None

    def generate(self, prompts, uids, sampling, seed, expected_version=None, logprobs=False, progress=None, **more):
        self.asked.append((seed, expected_version))
        for done in range(len(uids)):
            while not self.let.wait(0.01):
                if progress is not None:
                    progress(done, len(uids))
        if self.error is not None:
            raise self.error
        return [[Rollout(u, 0, p, [seed], "", "stop", self.version, seed, [-1.0])] for p, u in zip(prompts, uids)]


def run_of(ahead: int, server: SlowServer, extras: dict[str, Any] | None = None) -> Any:
    config = Config()
    config.train.ahead, config.train.steps, config.train.batch = ahead, STEPS, 2
    prompts = {uid: [1, 2] for uid in UIDS}
    return SimpleNamespace(
        config=config,
        algorithm=SimpleNamespace(on_policy=True, meanwhile=lambda run, step: None),
        retained=[],
        client=server,
        selected=UIDS,
        student_prompts=prompts,
        ranks=ALONE,
        extras=extras or {},
        replay=None,
    )


def sampled(sampler: Sampler, number: int) -> list[Rollout]:
    step = Step(number, [], [], Clock())
    sampler.sample(step)
    return step.rollouts


def responses(rollouts: list[Rollout]) -> list[list[int]]:
    return [r.response_ids for r in rollouts]


def test_the_next_step_is_sampled_while_this_one_trains_and_by_the_weights_before_it():
    """Broken if `begin` waits, if a step is asked twice, or if a step asks for a version that no longer is there."""
    server = SlowServer()
    server.let.set()
    with closing(Sampler(run_of(1, server))) as samples:
        assert responses(sampled(samples, 0)) == [[0], [0]]
        server.let.clear()
        samples.begin(1)  # comes back though the server doesn't answer: step 0 trains now
        threading.Timer(0.05, server.let.set).start()
        samples.finish(Clock())
        server.version = 1  # pushed
        assert server.asked == [(0, 0), (1, 0)]
        assert responses(sampled(samples, 1)) == [[1], [1]] and len(server.asked) == 2
        samples.begin(2)
        samples.finish(Clock())
        assert server.asked[2] == (2, 1)
        assert sampled(samples, 2)[0].policy_version == 1
        samples.begin(STEPS)  # there is no such step
        samples.finish(Clock())
        assert len(server.asked) == 3


def test_work_that_needs_no_response_is_done_while_they_are_sampled():
    """Broken if the server is asked only afterwards, if a step's work is skipped, or if a server's error is lost."""
    server, done = SlowServer(), []
    run = run_of(0, server)

    def work() -> None:
        while not server.asked:  # for ever, if it waits for the work
            time.sleep(0.001)
        done.append(len(server.asked))
        server.let.set()

    run.algorithm.meanwhile = lambda run, step: work
    with closing(Sampler(run)) as samples:
        assert responses(sampled(samples, 0)) == [[0], [0]] and done == [1]
        server.let.clear()
        server.error = ServerError("gone")
        with pytest.raises(ServerError, match="gone"):
            sampled(samples, 1)
        assert done == [1, 2]


def test_strictly_on_policy_nothing_is_begun():
    """The default: broken if a rollout of other weights than the step's gets in."""
    server = SlowServer()
    server.let.set()
    with closing(Sampler(run_of(0, server))) as samples:
        for step in range(3):
            server.version = step
            assert sampled(samples, step)[0].policy_version == step
            samples.begin(step + 1)
            samples.finish(Clock())
            assert samples.extras() == {}
    assert server.asked == [(0, 0), (1, 1), (2, 2)]


def test_a_checkpoint_holds_what_was_sampled_ahead():
    """Broken if a resumed run would ask again, of other weights."""
    server = SlowServer()
    server.let.set()
    with closing(Sampler(run_of(1, server))) as samples:
        sampled(samples, 0)
        samples.begin(1)
        samples.finish(Clock())
        extras = samples.extras()
        held = samples.pending
    with closing(Sampler(run_of(1, server, extras))) as again:
        assert sampled(again, 1) == held and len(server.asked) == 2
    extras[PENDING]["rollouts"][0]["policy_version"] = 1
    with pytest.raises(StaleWeightsError, match="version 1, expected 0"):
        Sampler(run_of(1, server, extras))


@pytest.mark.parametrize("how", ["raises", "other version"])
def test_a_failure_in_the_background_comes_out_before_the_weights_are_pushed(how: str):
    server = SlowServer()
    server.let.set()
    if how == "raises":
        server.error = ServerError("gone")
    else:
        server.version = 7
    with closing(Sampler(run_of(1, server))) as samples:
        samples.begin(1)
        with pytest.raises(ServerError if how == "raises" else StaleWeightsError, match="gone|version 7, expected 0"):
            samples.finish(Clock())


def test_training_that_fails_does_not_wait_for_the_rollouts_begun():
    """Broken if the command would hang, its error unsaid, until a server that is slow or hangs has answered."""
    server, started = SlowServer(), time.monotonic()
    with pytest.raises(ValueError, match="of training"), closing(Sampler(run_of(1, server))) as samples:
        samples.begin(1)
        raise ValueError("of training")
    assert time.monotonic() - started < 5
    left = [t for t in threading.enumerate() if t.name == "rollouts ahead"]
    for thread in left:
        thread.join(5)
        assert not thread.is_alive() and thread.daemon


def test_the_gap_of_stale_responses_is_no_proof_and_that_of_the_first_step_is():
    config, bound, gap = Config(), GapBound(1e-2, 1e-2), Gap(1.0, 1.0, 0.1)
    with pytest.raises(StaleWeightsError):
        check_gap(config, bound, gap, 3)
    config.train.ahead = 1
    check_gap(config, bound, gap, 3)
    with pytest.raises(StaleWeightsError, match="step 0.*1 on average.*at the 99.9 % quantile"):
        check_gap(config, bound, gap, 0)
    check_gap(config, bound, Gap(1e-3, 1e-2, 0.1), 0)


@pytest.mark.parametrize(("sleeps", "order"), [(True, ["freed", "pushed"]), (False, ["pushed"])])
def test_memory_that_a_step_used_is_free_before_a_sleeping_server_wakes(monkeypatch, sleeps: bool, order: list[str]):
    """Else PyTorch's cache keeps it, and vLLM finds no room for its weights again."""
    did: list[str] = []
    run = run_of(0, SlowServer())
    run.config.server.sleep = sleeps
    run.sync = SimpleNamespace(push=lambda version: did.append("pushed"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: did.append("freed"))
    serve(run, [], 1)
    assert did == order


def test_more_than_one_step_ahead_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"train\.ahead=2"):
        load_config("lab", ["train.ahead=2"])


@pytest.mark.engine
@pytest.mark.slow
def test_two_ranks_sample_while_they_train_and_a_failed_and_a_killed_run_go_on_to_the_same_losses(
    tiny_models: Path, tmp_path: Path
):
    """The server answers for the next step only once this one is in its forward; then an error of the background and
    a kill -9. Broken if rollouts aren't overlapped, not saved, or a resumed run trains on others."""
    starts = run_and_kill(tmp_path, tiny_models, KILLS, STEPS, 400, ahead=1)
    whole, failed, killed, last = starts
    log = (tmp_path / "log").read_text()[-6000:]
    assert whole["exit"] == last["exit"] == [0, 0], log
    assert failed["exit"] == [1, 1] and "no such server" in log
    assert -9 in killed["exit"]
    asks = [line for v in range(STEPS - 1) for line in (f"ask {v} of {v}", f"push {v + 1}")]
    assert whole["asked"] == ["push 0", "ask 0 of 0", *asks, f"push {STEPS}"]
    assert last["asked"] == ["push 4", "push 5"]  # step 4's responses came from the checkpoint
    rows = [
        [without_times(row) for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "broken")
    ]
    assert rows[0] == rows[1] and [row["staleness"] for row in rows[0]] == [0, 1, 1, 1, 1]
