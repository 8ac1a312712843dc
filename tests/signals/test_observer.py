"""Every column of a forward pass against plain float64 loops on tiny random models."""

import copy

import numpy as np
import pytest
import torch

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError, UserError
from nopsd.rollout.types import Rollout
from nopsd.signals.forward_columns import MeasuredModel, forward_columns

TOKEN = ["token_entropy", "self_certainty", "seq_nll"]
CONFIG = SignalConfig(max_batch_tokens=40, logit_chunk=3)
ALONE = Ranks(0, 1, torch.device("cpu"))


def columns_of(model, rollouts, names, folder, engine_class, **more):
    measured = MeasuredModel(engine_class(model), "m", more.pop("value", "act_fn"))
    return forward_columns(measured, rollouts, names, CONFIG, ALONE, folder, **more)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "granite", "cohere2"])
@pytest.mark.parametrize("tied", [False, True])
def test_token_columns_equal_plain_loops(family, tied, build_model, make_rollouts, unsharded, tmp_path, oracle):
    """Entropy, self-certainty and likelihood are of the model's own logits, at the positions that predict y_t."""
    model, rollouts = build_model(family, tied), make_rollouts(7)
    reference = copy.deepcopy(model)
    found = columns_of(model, rollouts, TOKEN, tmp_path, unsharded)
    wanted = np.array([oracle.token_columns(reference, r) for r in rollouts])
    assert wanted.std(0).min() > 1e-3, "all questions alike would prove nothing"
    for column, name in enumerate(TOKEN):
        assert found[name].dtype == np.float32
        assert np.allclose(found[name], wanted[:, column], rtol=1e-5, atol=1e-5), name


def test_embedding_is_the_mean_of_normed_response_states(build_model, make_rollouts, unsharded, tmp_path, oracle):
    """A state before the final norm, of the prompt or of padding would rank other neighbours first."""
    model, rollouts = build_model(), make_rollouts(6)
    reference = copy.deepcopy(model)
    found = columns_of(model, rollouts, ["embedding"], tmp_path, unsharded)["embedding"]
    wanted = np.array([oracle.embedding(reference, r) for r in rollouts])
    assert found.shape == (6, 16) and np.allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", ["act_fn", "gated"])
@pytest.mark.parametrize("examples", [5, 40])  # fewer and more than the 24 neurons of a layer
def test_nait_equals_plain_loops_and_an_svd(value, examples, build_model, make_rollouts, unsharded, tmp_path, oracle):
    """The alignment is that with the principal direction of an independent SVD, sign included."""
    model, rollouts = build_model(), make_rollouts(6)
    shown = make_rollouts(examples, seed=9)
    reference = copy.deepcopy(model)
    found = columns_of(model, rollouts, ["nait"], tmp_path, unsharded, value=value, reference=shown)["nait"]
    directions = oracle.nait_directions(reference, shown, value)
    wanted = [oracle.nait(reference, r, directions, value) for r in rollouts]
    assert np.std(wanted) > 1e-2
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_several_rollouts_a_question_are_averaged(build_model, make_rollouts, unsharded, tmp_path, oracle):
    """A column has one row a question, by ascending uid, whatever the order of the file."""
    model, rollouts = build_model(), make_rollouts(4, samples=3)
    reference = copy.deepcopy(model)
    found = columns_of(model, rollouts[::-1], ["seq_nll", "embedding"], tmp_path, unsharded)
    nll = np.array([oracle.token_columns(reference, r)[2] for r in rollouts]).reshape(4, 3)
    states = np.array([oracle.embedding(reference, r) for r in rollouts]).reshape(4, 3, 16)
    assert np.allclose(found["seq_nll"], nll.mean(1), rtol=1e-5)
    assert np.allclose(found["embedding"], states.mean(1), rtol=1e-4, atol=1e-5)


def test_a_response_without_tokens_has_no_value(build_model, make_rollouts, unsharded, tmp_path):
    """Given data may hold an empty response: it must neither crash a rank nor pass for a sure one."""
    rollouts = [*make_rollouts(3), Rollout("q999", 0, [5, 6, 7], [], "", "stop", 0)]
    shown = make_rollouts(4, seed=9)
    names = [*TOKEN, "embedding", "nait"]
    found = columns_of(build_model(), rollouts, names, tmp_path, unsharded, reference=shown)
    for name in [*TOKEN, "nait"]:
        assert np.isnan(found[name]).tolist() == [False, False, False, True]
    assert not found["embedding"][3].any() and found["embedding"][:3].all()


def test_low_precision_weights_are_read_in_float32(build_model, make_rollouts, unsharded, tmp_path):
    """bfloat16 weights: logits accumulate in float32, so that only the states' own rounding is left."""
    rollouts = make_rollouts(6)
    exact = columns_of(build_model(), rollouts, TOKEN, tmp_path / "a", unsharded)
    rough = columns_of(build_model(dtype=torch.bfloat16), rollouts, TOKEN, tmp_path / "b", unsharded)
    for name in TOKEN:
        assert np.allclose(rough[name], exact[name], atol=0.15) and not np.array_equal(rough[name], exact[name])


def test_logits_of_the_prompt_are_never_computed(build_model, make_rollouts, unsharded, tmp_path, monkeypatch):
    """The head sees one position a sequence, our products only the response's, a chunk at a time."""
    from nopsd.signals import statistics

    model, rollouts, rows = build_model(), make_rollouts(5), []
    real = statistics.project
    monkeypatch.setattr(statistics, "project", lambda h, w, b: rows.append(len(h)) or real(h, w, b))
    model.lm_head.register_forward_hook(lambda _m, inputs, _o: rows.append(("head", inputs[0].shape[1])))
    columns_of(model, rollouts, TOKEN, tmp_path, unsharded)
    heads = [r[1] for r in rows if isinstance(r, tuple)]
    chunks = [r for r in rows if not isinstance(r, tuple)]
    assert set(heads) == {1} and max(chunks) <= CONFIG.logit_chunk
    assert sum(chunks) == sum(len(r.response_ids) for r in rollouts)


def test_a_head_that_does_more_than_we_know_is_refused(build_model, make_rollouts, unsharded, tmp_path):
    """Silently wrong logits would select other questions; the model's own last logit tells."""
    model = build_model()
    model.lm_head.register_forward_hook(lambda _m, _i, output: output * 1.7)
    with pytest.raises(UserError, match="Qwen3ForCausalLM makes its logits in a way not known here"):
        columns_of(model, make_rollouts(2), ["seq_nll"], tmp_path, unsharded)


def test_a_reference_without_direction_is_refused(build_model, make_rollouts, unsharded, tmp_path):
    """Responses of one token have no difference between last and first: every score would be 0."""
    shown = [Rollout(f"{i}", 0, [5, 6], [7 + i], "", "stop", 0) for i in range(4)]
    with pytest.raises(DataError, match="they show no direction"):
        columns_of(build_model(), make_rollouts(2), ["nait"], tmp_path, unsharded, reference=shown)


def test_no_rollouts_are_refused(build_model, unsharded, tmp_path):
    with pytest.raises(DataError, match="no rollouts to read signals off"):
        columns_of(build_model(), [], ["seq_nll"], tmp_path, unsharded)
