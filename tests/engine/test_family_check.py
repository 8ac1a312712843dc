"""Every decoder of Transformers is computed rightly packed, padded and split, or refused by name before a run starts.

If these fail, a run trains on hidden states that are not the model's, and ends with exit 0. docs/families.md is what
is found here. The forms on real ranks: test_families_on_ranks.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from nopsd.config import Config, load_config
from nopsd.engine import packed_attention
from nopsd.engine.family_check import check_scoring, check_training, judge
from nopsd.engine.tiny import tiny_config, tiny_model
from nopsd.errors import ConfigError
from tests.engine import families

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
# One of each kind of attention, position or mixing, and whether it is right "packed", only "padded", or not even that.
KINDS = {
    "llama": "packed",
    "gpt2": "packed",  # learned positions
    "mistral": "packed",  # a window outside of layer_types
    "mixtral with a window": "packed",
    "starcoder2 with a window": "packed",
    "phi3 with a window": "packed",
    "gemma3_text": "packed",  # windows by layer
    "qwen3 with windows": "packed",
    "deepseek_v3": "packed",  # latent attention
    "phimoe with a window": "padded",  # its window is in the mask alone
    "gemma2": "padded",  # soft-capped attention, which SDPA leaves out
    "gpt_oss": "padded",  # attention sinks
    "bloom": "padded",  # ALiBi
    "mpt": "padded",
    "falcon": "padded",
    "xglm": "padded",  # sinusoidal positions of its own
    "openai-gpt": "padded",
    "stablelm": "padded",
    "mamba": "padded",  # a recurrence
    "qwen3_5_text": "padded",  # linear attention
    "llama with dynamic RoPE": "no",
    "phi3 with longrope": "no",
    "bert": "no",  # looks ahead
}


def kind_of(name: str, longest: int | None = None) -> str:
    limits = judge(families.config_of(name), longest)
    return "no" if limits.padded else "padded" if limits.packed else "packed"


@pytest.mark.parametrize("name", KINDS)
def test_one_of_each_kind(name: str) -> None:
    """Found by comparing logits with one sequence's at a time, under plain attention."""
    assert kind_of(name) == KINDS[name]


def test_short_sequences_are_not_refused_for_what_begins_further_on() -> None:
    """Phi-3's and Phi-4's longrope and Phi-MoE's window change nothing within 2,000 tokens."""
    for name in ("phi3 with longrope", "llama with dynamic RoPE", "phimoe with a window"):
        assert kind_of(name, longest=2000) == "packed"
    assert kind_of("phi3 with longrope", longest=5000) == "no"


def test_a_window_that_is_not_heeded_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that was: packing took each layer for full attention. The check must have the power to find it."""
    right = packed_attention._one

    def without_window(*args: object) -> torch.Tensor:
        return right(*args[:-1], None)

    monkeypatch.setattr(packed_attention, "_one", without_window)
    for name in ("mistral", "mixtral with a window", "starcoder2 with a window", "phi3 with a window", "gemma3_text"):
        assert "logits are off" in judge(families.config_of(name)).packed, name


def test_the_tiny_model_keeps_what_matters() -> None:
    """Else a family would be tried without its windows, its kinds of layers or its experts."""
    gemma = tiny_config(families.config_of("gemma3_text"))
    assert set(gemma.layer_types) == {"sliding_attention", "full_attention"} and gemma.sliding_window == 4
    assert len(gemma.layer_types) == gemma.num_hidden_layers == 6
    phi = tiny_config(families.config_of("phi3 with longrope"))
    assert phi.rope_parameters["original_max_position_embeddings"] == 8
    assert len(phi.rope_parameters["long_factor"]) == 8
    moe = tiny_config(families.config_of("qwen3_moe"))
    assert moe.num_experts == 8 and moe.num_experts_per_tok == 2
    original = families.config_of("llama")
    tiny_config(original)
    assert original.hidden_size == 4096


def test_trying_a_family_leaves_the_random_state_alone() -> None:
    """Else a run's numbers would depend on whether the check ran."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    judge(families.config_of("llama"))
    assert torch.equal(torch.random.get_rng_state(), before)
    one, other = (tiny_model(families.config_of("llama")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def saved(name: str, folder: Path) -> Path:
    """A folder with a family's config and nothing else: what is refused from it is refused before weights are read."""
    families.config_of(name).save_pretrained(folder)
    return folder


def run_config(*settings: str) -> Config:
    long = ["server.max_model_len=8192", "context.max_prompt=6000", "train.max_response=2000"]
    return load_config("lab", [*long, *settings])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bloom", [], "sequences of bloom can't be packed .*: set train.packing=false"),
        ("gpt_oss", ["dist.ranks=2", "dist.sequence_parallel=2", "train.packing=false"], "gpt_oss can't be split over"),
        ("deepseek_v3", ["dist.ranks=2", "dist.sequence_parallel=2"], "deepseek_v3 can't be split .*of one width"),
        ("phi3 with longrope", [], "sequences of phi3 can't be computed in a batch.*choose another model"),
        ("bert", ["train.packing=false"], "sequences of bert can't be computed in a batch"),
        ("opt", [], "opt can't be trained .*choose another model"),
        ("phimoe", ["train.lora.r=4"], "train.lora: phimoe doesn't run with adapters.*train.lora.targets"),
    ],
)
def test_what_is_wrong_is_refused_by_name_with_a_remedy(
    name: str, settings: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_training(saved(name, tmp_path), run_config(*settings))


def test_what_is_right_is_not_refused(tmp_path: Path) -> None:
    check_training(saved("mistral", tmp_path / "a"), run_config("dist.ranks=2", "dist.sequence_parallel=2"))
    check_training(saved("bloom", tmp_path / "b"), run_config("train.packing=false"))
    check_scoring(saved("opt", tmp_path / "c"), run_config())


def rows_of_the_page() -> dict[str, dict[str, str]]:
    """family -> its cells in docs/families.md."""
    rows = {}
    for line in re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.M):
        names, *row = line.split(" | ")
        if len(row) == len(families.COLUMNS) and names != "family":
            rows |= {name: dict(zip(families.COLUMNS, row, strict=True)) for name in names.split(", ")}
    return rows


@pytest.mark.parametrize("name", ["llama", "mistral", "bloom", "gemma2", "opt", "qwen3_moe", "mamba"])
def test_the_page_says_what_is_found(name: str) -> None:
    """A user chooses a model by it."""
    assert rows_of_the_page()[name] == families.cells(name)


def test_the_page_names_every_decoder() -> None:
    """A new release of Transformers brings new ones: `python -m tests.engine.families` makes the table again."""
    assert set(rows_of_the_page()) == set(families.all_families())


@pytest.mark.soak
def test_every_decoder_is_right_or_refused() -> None:
    """All of them: the page's cells, each tried anew."""
    page = rows_of_the_page()
    found = {name: families.cells(name) for name in families.all_families()}
    assert {name: row for name, row in found.items() if page[name] != row} == {}
