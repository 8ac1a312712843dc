"""What a configuration asks for: too little stops the selector, too much costs a pass over the pool."""

import pytest
from omegaconf import OmegaConf

from nopsd.config import CHOICES, Config, ContextConfig, SelectConfig
from nopsd.errors import ConfigError
from nopsd.signals.needs import COLUMNS, needed, shaping_keys


def test_the_papers_run_needs_nothing():
    assert needed(SelectConfig(), ContextConfig()) == frozenset()
    assert shaping_keys(()) == ()


def test_each_choice_asks_for_its_own_column():
    """Every selector that goes by a signal is served, and no other asks for one."""
    own = {"majority_conf", "token_entropy", "self_certainty", "seq_nll", "nait", "belief_shift"}
    own |= {"teacher_shift", "representation_shift"}
    others = {"learnability": "majority_conf", "kcenter": "embedding", "facility_location": "embedding"}
    for name in CHOICES["select.selector"]:
        wanted = {name} if name in own else {others[name]} if name in others else set()
        assert needed(SelectConfig(selector=name), ContextConfig()) == wanted
    context = ContextConfig(retriever="embedding_cos", filter="majority")
    assert needed(SelectConfig(selector="nait"), context) == {"nait", "embedding", "agrees"}
    assert needed(SelectConfig(), ContextConfig(retriever="same_prompt_rollout")) == {"agrees"}


def test_what_compares_questions_asks_for_its_space():
    """By neuron sets nothing is to be computed; without selector or filter that compares, neither."""
    assert needed(SelectConfig(space="representation"), ContextConfig()) == set()
    assert needed(SelectConfig(redundancy=0.9), ContextConfig()) == {"embedding"}
    assert needed(SelectConfig(redundancy=0.9, space="jaccard"), ContextConfig()) == set()
    shift = SelectConfig(selector="kcenter", space="representation", quality="representation_shift")
    assert needed(shift, ContextConfig()) == {"representation", "representation_shift"}
    canon = ContextConfig(retriever="same_prompt_rollout", pick="likeliest")
    assert needed(SelectConfig(), canon) == {"agrees", "mean_logp"}
    assert needed(SelectConfig(), ContextConfig(retriever="trajectory_cos")) == {"trajectory"}
    assert needed(SelectConfig(), ContextConfig(retriever="mmr")) == {"embedding"}
    for context in (ContextConfig(retriever="none"), ContextConfig(m=0), ContextConfig(pool="selected")):
        with pytest.raises(ConfigError, match="select.selector=teacher_shift"):
            needed(SelectConfig(selector="teacher_shift"), context)


def test_keys_that_shape_a_column_exist():
    """A key misspelt here would leave the stage's artefact in place when its value changes."""
    tree = OmegaConf.structured(Config())
    keys = shaping_keys(COLUMNS)
    assert {"signal.logit_chunk", "signal.belief_samples", "neuron.value", "context"} <= set(keys)
    for key in keys:
        OmegaConf.select(tree, key, throw_on_missing=True)
        assert OmegaConf.select(tree, key, default="absent") != "absent"
    assert "context" not in shaping_keys(["nait"]) and shaping_keys(["majority_conf"]) == ("answer", "prompt")


def test_a_users_own_code_states_its_needs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_signal_user.py").write_text(
        "class A: needs = ('token_entropy', 'agreement')\nclass B: needs = 'nait'\nclass C: pass\n"
        "class D: needs = ('accuracy',)\n"
    )
    for name, wanted in (("A", {"token_entropy"}), ("B", {"nait"}), ("C", set())):
        assert needed(SelectConfig(selector=f"own_signal_user:{name}"), ContextConfig()) == wanted
    assert needed(SelectConfig(), ContextConfig(retriever="own_signal_user:B")) == {"nait"}
    with pytest.raises(ConfigError, match="select.selector=own_signal_user:D needs accuracy: there are"):
        needed(SelectConfig(selector="own_signal_user:D"), ContextConfig())
    with pytest.raises(ConfigError, match="select.selector=own_signal_user:E"):
        needed(SelectConfig(selector="own_signal_user:E"), ContextConfig())
