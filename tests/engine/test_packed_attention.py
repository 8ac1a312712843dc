"""Packed rows against one sequence at a time, and sequences behind a stored context against whole ones."""

from __future__ import annotations

import pytest
import torch

from nopsd.config import LoraConfig
from nopsd.engine.lora import add_lora
from nopsd.engine.memory import checkpoint_activations, tile_mlps
from nopsd.engine.packed_attention import Context, Segments, has_varlen, inputs_of, use_packed_attention
from tests.models import qwen3

LENGTHS = (5, 1, 9)


def tiny(**other: object) -> torch.nn.Module:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
    return qwen3(**{**sizes, **heads, "initializer_range": 0.02, "pad_token_id": None, **other}).double()


@pytest.fixture(scope="module")
def alone() -> tuple[torch.nn.Module, list[torch.Tensor], list[torch.Tensor]]:
    """A model without packing, some sequences, and their hidden states."""
    model = tiny()
    sequences = [torch.randint(64, (n,)) for n in LENGTHS]
    with torch.no_grad():
        states = [model.base_model(input_ids=s[None]).last_hidden_state[0] for s in sequences]
    return model, sequences, states


def packed_copy(model: torch.nn.Module) -> torch.nn.Module:
    copy = tiny()
    copy.load_state_dict(model.state_dict())
    use_packed_attention(copy)
    return copy


def test_a_packed_row_equals_its_sequences(alone: tuple) -> None:
    """Else sequences of one row would read each other, or stand at wrong positions."""
    model, sequences, states = alone
    with torch.no_grad():
        row = packed_copy(model).base_model(**inputs_of(torch.cat(sequences)[None], Segments(LENGTHS)))
    torch.testing.assert_close(row.last_hidden_state[0], torch.cat(states), rtol=0, atol=1e-12)


def test_without_segments_nothing_changes(alone: tuple) -> None:
    """Else the same model could not be exported, probed or scored in plain rectangles."""
    model, sequences, states = alone
    with torch.no_grad():
        found = packed_copy(model).base_model(input_ids=sequences[2][None]).last_hidden_state[0]
    torch.testing.assert_close(found, states[2], rtol=0, atol=1e-12)


def test_gradients_of_a_packed_row(alone: tuple) -> None:
    """Else packing would train something else, with right losses."""
    model, sequences, _ = alone
    weights = [torch.randn(n, 32, dtype=torch.float64) for n in LENGTHS]
    packed = packed_copy(model)
    row = packed.base_model(**inputs_of(torch.cat(sequences)[None], Segments(LENGTHS))).last_hidden_state[0]
    (row * torch.cat(weights)).sum().backward()
    plain = packed_copy(model)
    for s, w in zip(sequences, weights):
        (plain.base_model(input_ids=s[None]).last_hidden_state[0] * w).sum().backward()
    for (name, p), q in zip(packed.base_model.named_parameters(), plain.base_model.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-11, msg=name)


def test_behind_a_stored_context(alone: tuple) -> None:
    """Else a teacher that reuses its prompt's keys and values would be another teacher."""
    model, sequences, states = alone
    packed = packed_copy(model)
    cuts, contexts = (3, 0, 6), tuple(Context() for _ in LENGTHS)
    heads = [s[:cut] for s, cut in zip(sequences, cuts) if cut]
    with torch.no_grad():
        kept = tuple(c for c, cut in zip(contexts, cuts) if cut)
        packed.base_model(**inputs_of(torch.cat(heads)[None], Segments((3, 6), recorded=kept)))
        before = tuple(c if cut else None for c, cut in zip(contexts, cuts))
        tails = Segments((2, 1, 3), contexts=before)
        row = packed.base_model(**inputs_of(torch.cat([s[c:] for s, c in zip(sequences, cuts)])[None], tails))
    expected = torch.cat([s[c:] for s, c in zip(states, cuts)])
    torch.testing.assert_close(row.last_hidden_state[0], expected, rtol=0, atol=1e-12)
    assert contexts[2].tokens == 6 and contexts[2].nbytes == 3 * 2 * 2 * 6 * 8 * 8


@pytest.mark.parametrize("window", [1, 4, 6, 20])
def test_a_sliding_window_in_a_packed_row_and_behind_a_context(window: int) -> None:
    """Else it would silently become full attention. Gradients follow from the same masks."""
    settings = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1}
    plain, packed = tiny(**settings), tiny(**settings)
    packed.load_state_dict(plain.state_dict())
    use_packed_attention(packed)
    sequences = [torch.randint(64, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    with torch.no_grad():
        states = [plain.base_model(input_ids=s[None]).last_hidden_state[0] for s in sequences]
        row = packed.base_model(**inputs_of(torch.cat(sequences)[None], Segments(LENGTHS))).last_hidden_state[0]
        rectangle = packed.base_model(input_ids=sequences[2][None]).last_hidden_state[0]
        context = Context()
        packed.base_model(**inputs_of(sequences[2][None, :7], Segments((7,), recorded=(context,))))
        tail = packed.base_model(**inputs_of(sequences[2][None, 7:], Segments((2,), contexts=(context,))))
    torch.testing.assert_close(row, torch.cat(states), rtol=0, atol=1e-12)
    torch.testing.assert_close(rectangle, states[2], rtol=0, atol=1e-12)
    torch.testing.assert_close(tail.last_hidden_state[0], states[2][7:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("saving", ["none", "checkpointing", "tiles", "both"])
def test_gradients_of_a_packed_row_with_adapters_and_saved_memory(alone: tuple, saving: str) -> None:
    """Else a layer computed again in the backward would miss `segments` and read across sequences."""
    _, sequences, _ = alone
    weights = [torch.randn(n, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) for n in LENGTHS]

    def gradients(pack: bool, saving: str) -> dict[str, torch.Tensor]:
        model = packed_copy(alone[0]).train()
        add_lora(model, LoraConfig(r=2), seed=3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # born as 0, which would hide A
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
        if saving in ("checkpointing", "both"):
            checkpoint_activations(model)
        if saving in ("tiles", "both"):
            tile_mlps(model, 4)
        rows = [torch.cat(sequences)] if pack else sequences
        for ids, weight in zip(rows, [torch.cat(weights)] if pack else weights):
            inputs = inputs_of(ids[None], Segments(LENGTHS) if pack else None)
            (model.base_model(**inputs).last_hidden_state[0] * weight).sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    found, expected = gradients(True, saving), gradients(False, "none")
    assert len(expected) == 3 * 7 * 2
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-11, msg=name)


def test_the_kernel_is_asked_only_for_what_it_takes() -> None:
    """It raises on other types, and is on GPUs alone."""
    assert not has_varlen(torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16))
    assert not has_varlen(torch.zeros(1, 2, 3, 64, device="meta", dtype=torch.float32))


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="the variable-length kernel needs a GPU of compute capability 8.0",
)
def test_the_kernel_computes_what_sdpa_does() -> None:
    """Rows, gradients, grouped heads, and fewer queries than keys, whose causal mask must stand at the right end."""
    from nopsd.engine.packed_attention import _one, _varlen

    torch.manual_seed(0)
    for lengths, before in (((5, 1, 9), (0, 0, 0)), ((5, 1, 9), (7, 0, 130)), ((1, 1), (64, 3)), ((300,), (1500,))):
        contexts = tuple(Context(tokens=c) if c else None for c in before)
        seen = [c + t for c, t in zip(before, lengths)]
        shapes = ((4, sum(lengths), 64), (2, sum(seen), 64), (2, sum(seen), 64))
        wide = [torch.randn(shape, device="cuda", requires_grad=True) for shape in shapes]
        half = [t.detach().bfloat16().requires_grad_() for t in wide]
        out_SAD = _varlen(*half, Segments(lengths, contexts), None)
        parts = zip(wide[0].split(lengths, 1), wide[1].split(seen, 1), wide[2].split(seen, 1))
        expected_SAD = torch.cat([_one(q, k, v, None, 0.0, None) for q, k, v in parts], 1).transpose(0, 1)
        torch.testing.assert_close(out_SAD.float(), expected_SAD, rtol=2e-2, atol=2e-2)
        gradient = torch.randn_like(expected_SAD)
        expected_SAD.backward(gradient)
        out_SAD.backward(gradient.bfloat16())
        for found, reference in zip(half, wide):
            torch.testing.assert_close(found.grad.float(), reference.grad, rtol=4e-2, atol=4e-2)
