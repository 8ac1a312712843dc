"""The bound on served against trained log-probs: sound weights pass, wrong ones don't. Else training would go on unseen
from samples of another policy, or a sound run would stop."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nopsd.config import SamplingConfig
from nopsd.errors import StaleWeightsError
from nopsd.rollout.held import HeldWeights
from nopsd.rollout.logprob_gap import Gap, GapBound, GapHistogram, bound_of, gap_of
from nopsd.rollout.served_weights import SentWeights, check_same_weights
from nopsd.rollout.types import Rollout
from nopsd.rollout.weight_sums import WeightSum, dtype_name

LR = 1e-6  # the paper presets'
CONTEXT = 1_500  # tokens before the long samples


def load_policies() -> ModuleType:
    spec = importlib.util.spec_from_file_location("policies", Path(__file__).parent / "policies.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


policies = load_policies()


class Lab:
    """The lab's model, its samples to short prompts and to a long one, and the bound of each format."""

    def __init__(self, folder: Path) -> None:
        from nopsd.config import DataConfig, PromptConfig
        from nopsd.data.prompts import PromptRenderer, load_tokenizer
        from nopsd.data.sources import load_splits

        self.folder = folder
        renderer = PromptRenderer(load_tokenizer(folder), PromptConfig(enable_thinking=False))
        prompts = [renderer.student(q) for q in load_splits(DataConfig()).pool[:140]]
        long = sum(prompts, [])[:CONTEXT]
        self.model = policies.load(folder, "float32")
        self.samples = policies.sample(self.model, [*prompts[:30], long], 32)
        self.layers = self.model.config.num_hidden_layers

    def gap(self, served: Any, trained: Any) -> Gap:
        return gap_of(self.samples.logprobs(served, "server"), self.samples.logprobs(trained))


@pytest.fixture(scope="module")
def lab(lab_model_dir: Path) -> Lab:
    return Lab(lab_model_dir)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sound_weights_are_within_the_bound_and_wrong_ones_are_not(lab: Lab, dtype: str) -> None:
    """Another attention kernel and head pass; one old layer, a shifted head and, in float32, one step's lag don't."""
    bound = bound_of((dtype,), lab.layers)
    trained = policies.in_dtype(lab.model, lab.folder, dtype, "sdpa")
    served = policies.in_dtype(lab.model, lab.folder, dtype, "eager")
    assert bound.passed_by(lab.gap(served, trained)) == ""

    further = policies.stepped(lab.model, lab.samples, 1e-3)  # a training's worth of steps
    served = policies.in_dtype(further, lab.folder, dtype, "eager")
    served.model.layers[2].load_state_dict(lab.model.model.layers[2].state_dict())
    trained = policies.in_dtype(further, lab.folder, dtype, "sdpa")
    assert "on average" in bound.passed_by(lab.gap(served, trained))

    served = policies.in_dtype(lab.model, lab.folder, dtype, "eager")
    served.lm_head.weight = torch.nn.Parameter(served.lm_head.weight.detach().roll(1, 0))
    trained = policies.in_dtype(lab.model, lab.folder, dtype, "sdpa")
    assert "on average" in bound.passed_by(lab.gap(served, trained))


def test_a_version_behind_at_a_small_learning_rate_is_seen_in_float32(lab: Lab) -> None:
    behind = policies.in_dtype(lab.model, lab.folder, "float32", "eager")
    trained = policies.stepped(lab.model, lab.samples, LR)
    assert "on average" in bound_of(("float32",), lab.layers).passed_by(lab.gap(behind, trained))


class Server:
    """Scores by a model; its weights are replaced only where an update reaches it."""

    url = "http://server"

    def __init__(self, model: Any) -> None:
        self.model = model

    def max_model_len(self) -> int:
        return 512

    def weight_digests(self) -> dict[str, str]:
        return {}

    def weight_sums(self) -> list[list[WeightSum]]:
        return []

    def held_weights(self) -> HeldWeights:
        config = self.model.config
        dtype = dtype_name(next(self.model.parameters()).dtype)
        return HeldWeights("lab", shape={"num_hidden_layers": config.num_hidden_layers}, dtype=dtype)

    def sample(self, prompt: list[int], uid: str, sampling: SamplingConfig, *_: Any) -> list[Rollout]:
        drawn = policies.sample(self.model, [prompt] * sampling.n, sampling.max_new)
        ends = [ids[len(prompt) :].tolist() for ids in drawn.sequences]
        return [Rollout(uid, i, prompt, ids, "", "length", 0) for i, ids in enumerate(ends)]

    def score_one(self, prompt: list[int], response: list[int]) -> list[float]:
        samples = policies.Samples([torch.tensor(prompt + response)], [len(prompt)])
        scored: list[float] = samples.logprobs(self.model, "server").tolist()
        return scored


def sent(model: Any) -> Iterator[tuple[str, Tensor]]:
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_server_that_missed_one_step_at_a_small_learning_rate_is_refused(lab: Lab, dtype: str) -> None:
    """In bfloat16 such a step is below the noise of any comparison with the trainer. Of a server that gives no
    checksums the bits of its log-probs tell."""
    old = policies.in_dtype(lab.model, lab.folder, dtype, "eager")
    new = policies.in_dtype(policies.stepped(lab.model, lab.samples, LR), lab.folder, dtype, "eager")
    watch, server = SentWeights(), Server(old)
    for model in (old, new):
        for _ in watch.watched(sent(model)):
            pass
        server.model = model
        watch.check(server)  # type: ignore[arg-type]
    for _ in watch.watched(sent(old)):
        pass
    with pytest.raises(StaleWeightsError, match="http://server .* has not taken the new weights"):
        watch.check(server)  # type: ignore[arg-type]


def test_weights_that_stand_still_are_no_reason_to_refuse(lab: Lab) -> None:
    watch, server = SentWeights(), Server(policies.load(lab.folder, "float32"))
    for _ in range(2):
        for _ in watch.watched(sent(server.model)):
            pass
        watch.check(server)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_servers_of_other_weights_are_told_apart_by_their_samples_alone(lab: Lab, dtype: str) -> None:
    """Where no checksum can be had: another attention kernel passes; an old layer, a shifted head, a NaN don't."""
    one = Server(policies.in_dtype(lab.model, lab.folder, dtype, "sdpa"))
    other = Server(policies.in_dtype(lab.model, lab.folder, dtype, "eager"))
    check_same_weights(one, other)  # type: ignore[arg-type]

    further = policies.stepped(lab.model, lab.samples, 1e-3)
    layer = policies.in_dtype(lab.model, lab.folder, dtype, "eager")
    layer.model.layers[2].load_state_dict(further.model.layers[2].state_dict())
    head = policies.in_dtype(lab.model, lab.folder, dtype, "eager")
    head.lm_head.weight = torch.nn.Parameter(head.lm_head.weight.detach().roll(1, 0))
    broken = policies.in_dtype(lab.model, lab.folder, dtype, "eager")
    broken.lm_head.weight = torch.nn.Parameter(head.lm_head.weight.detach() * math.nan)
    for model in (layer, head, broken):
        with pytest.raises(StaleWeightsError, match="http://server give log-probs that differ by"):
            check_same_weights(one, Server(model))  # type: ignore[arg-type]


def test_a_million_sound_tokens_pass_whatever_their_largest_gap(lab: Lab) -> None:
    """The gaps of real samples, drawn again and again with the heavy tail of a Student's t."""
    bound = bound_of(("bfloat16",), lab.layers)
    trained, served = (policies.in_dtype(lab.model, lab.folder, "bfloat16", kind) for kind in ("sdpa", "eager"))
    logprob_N = lab.samples.logprobs(trained)
    seen_N = lab.samples.logprobs(served, "server") - logprob_N
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(seen_N), (1_000_000,), generator=draw)
    scale = torch.randn(3, 1_000_000, generator=draw).square().mean(0).sqrt()
    uncertain_N = 1 - logprob_N[drawn].exp()
    noise_N = 0.1 * bound.margin * uncertain_N * torch.randn(1_000_000, generator=draw) / scale
    found = gap_of(logprob_N[drawn] + seen_N[drawn] + noise_N, logprob_N[drawn])
    assert float((seen_N[drawn] + noise_N).abs().max()) > bound.high  # a bound on the largest would refuse it
    assert bound.passed_by(found) == ""


def test_the_histogram_has_the_quantile_of_all_tokens_at_once() -> None:
    """Ranks add counts: the quantile must be that of the whole step, within one bin, and a NaN must not vanish."""
    gap_N = torch.rand(50_000, generator=torch.Generator().manual_seed(0)).pow(8)
    parts = [GapHistogram() for _ in range(3)]
    for histogram, part in zip(parts, gap_N.chunk(3)):
        histogram.add(part)
    whole = GapHistogram()
    whole.counts = torch.stack([h.counts for h in parts]).sum(0)
    exact = float(torch.quantile(gap_N.double(), 0.999))
    assert exact <= whole.high() <= exact * 2 ** (1 / 8) * 1.01
    assert GapHistogram().high() == 0.0
    whole.add(torch.full((100,), math.nan))
    assert whole.high() == math.inf
    assert "inf at the 99.9 % quantile" in GapBound(1.0, 1.0).passed_by(Gap(0.5, math.inf, 0.6))
    assert "nan on average" in GapBound(1.0, 1.0).passed_by(Gap(math.nan, 0.5, 0.6))


def test_a_stated_mean_and_the_coarser_format_count() -> None:
    assert bound_of(("float32", "bfloat16"), 36) == bound_of(("bfloat16",), 36)
    assert bound_of(("bfloat16",), 36).margin == pytest.approx(6 * bound_of(("bfloat16",), 1).margin)
    stated = bound_of(("float32",), 4, stated=0.01)
    assert stated.mean(0.5) == stated.mean(1e-9) == 0.01 < stated.high
