"""Keys that contradict each other are refused with the remedy, before anything is loaded."""

from __future__ import annotations

import pytest

from nopsd.config import Config, TrainConfig, load_config, validate
from nopsd.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"export": "best"}, "keep_best=1"),
        ({"keep_best": 1, "best_by": "probe/majority_share", "probe_every": 0}, "probe_every"),
        ({"keep_best": 1, "best_by": "probe/majority_share", "probe_every": 50}, "checkpoint_every"),
        ({"best_by": "accuracy"}, "best_by"),
        ({"export": "soon"}, "use last, best, or the number of a step"),
        ({"export": "0"}, "use last, best, or the number of a step"),
        ({"export": "151"}, "after the last step: there are train.steps=150"),
    ],
)
def test_settings_that_keep_no_best_are_refused_at_the_start(changes: dict[str, object], message: str):
    """Broken if a run learns at its end that there is no best checkpoint; accuracy needs labels, so it is no choice."""
    config = Config(train=TrainConfig(**changes))
    with pytest.raises(ConfigError, match=message):
        validate(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.retain.share=0.2"], ["train.retain.data"]),
        (["train.retain.share=0.2", "train.retain.data=x", "teacher.kind=ema"], ["teacher.kind=frozen"]),
        (["train.retain.share=0.2", "train.retain.data=x", "distill.target=pmi"], ["distill.target=teacher"]),
        (["train.retain.share=0.2", "train.retain.data=x", "method=u_opsd"], ["leave it out"]),
        (["train.retain.share=0.2", "method=ttrl"], ["no meaning for method=ttrl"]),
        (["method=ttrl", "train.n=1"], ["train.n=1", "train.n=8"]),
        (["method=ttrl", "train.temperature=0.6"], ["train.temperature=1"]),
        (["method=lmsi", "zero_shot.n=1"], ["zero_shot.n=1", "zero_shot.n=8"]),
        (["method=lmsi", "sft.min_share=1.5"], ["sft.min_share"]),
        (["method=ttrl", "distill.beta=0.3"], ["distill.beta=0.3", "no meaning for method=ttrl", "command line"]),
        (["method=lmsi", "teacher.kind=ema"], ["teacher.kind=ema", "no meaning"]),
        (["method=nopsd", "grpo.clip=0.3"], ["grpo.clip=0.3", "no meaning"]),
        (["method=lmsi", "train.n=4"], ["train.n=4", "no meaning"]),
        (["method=ttrl", "context.retriever=random"], ["context.retriever=none"]),
        (["method=ttrl", "grpo.reward=self_certainty"], ["grpo.reward=majority"]),
        (["method=opsd_random", "select.selector=all"], ["select.selector=random"]),
        (["method=opsd_oracle", "context.retriever=random"], ["context.retriever=none"]),
        (["method=nait_sft", "signal.reference=r", "sft.train_on_labels=true"], ["label-free", "sft_given"]),
        (["method=lmsi", "sft.train_on_labels=true"], ["label-free", "sft_given"]),
        (["method=sft_given", "signal.reference=r"], ["sft.train_on_labels=true", "labels"]),
        (["neuron.layers=4-2"], ["neuron.layers=4-2"]),
        (["prompt.question=hello"], ["prompt.question", "{question}"]),
        (["method=nait_sft"], ["signal.reference"]),
        (["method=opsd_majconf", "zero_shot.n=1"], ["zero_shot.n=8"]),
        (["method=ttrl", "train.keep_best=1", "train.best_by=reverse_kl"], ["train.best_by=loss"]),
        (["train.epochs=0"], ["train.epochs=0"]),
        (["train.warmup_ratio=1"], ["train.warmup_ratio=1"]),
        (["method=tttrl"], ["method=tttrl", "did you mean ttrl"]),
    ],
)
def test_contradictions_are_refused_with_a_remedy(settings, words):
    """Found before anything is sampled, in words that say which key to change."""
    with pytest.raises(ConfigError) as caught:
        load_config("lab", settings)
    for word in words:
        assert word in str(caught.value)
