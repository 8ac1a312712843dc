"""A GGUF file as the model: if these fail, a run trains and serves weights that are not the file's."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from nopsd import gguf_folder
from nopsd.config import ModelConfig
from nopsd.errors import UserError
from nopsd.gguf_folder import folder_of, made_folder
from nopsd.models import resolve_model

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS = 2, 64, 96, 4, 2
WORDS = ["<pad>", "<end>", "a", "b", "c", "d", "ab", "cd"]
VOCABULARY = len(WORDS)
Q8 = gguf.GGMLQuantizationType.Q8_0


def tensors(seed: int) -> dict[str, np.ndarray]:
    """A Qwen2's weights by their names in GGUF."""
    draw = np.random.default_rng(seed)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name, shape in {
            "attn_norm.weight": (HIDDEN,),
            "ffn_norm.weight": (HIDDEN,),
            "attn_q.weight": (HIDDEN, HIDDEN),
            "attn_q.bias": (HIDDEN,),
            "attn_k.weight": (kv, HIDDEN),
            "attn_k.bias": (kv,),
            "attn_v.weight": (kv, HIDDEN),
            "attn_v.bias": (kv,),
            "attn_output.weight": (HIDDEN, HIDDEN),
            "ffn_gate.weight": (INNER, HIDDEN),
            "ffn_up.weight": (INNER, HIDDEN),
            "ffn_down.weight": (HIDDEN, INNER),
        }.items():
            shapes[f"blk.{layer}.{name}"] = shape
    return {name: draw.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(
    file: Path, seed: int = 0, architecture: str = "qwen2", more: dict[str, tuple[np.ndarray, Any]] | None = None
) -> Path:
    """A tied Qwen2 with 8-bit matrices, written by gguf's own writer. `more`: matrices beside these or in their place,
    each with its quantisation."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (VOCABULARY - 2))
    writer.add_token_merges(["a b", "c d"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    kinds: dict[str, tuple[np.ndarray, Any]] = {n: (value, Q8) for n, value in tensors(seed).items()} | (more or {})
    for name, (value, kind) in kinds.items():
        if value.ndim == 2:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return write_gguf(tmp_path / "small.gguf")


def load(where: Path, **options: Any) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options).eval()


def test_the_folder_is_what_transformers_reads_from_the_file(file: Path) -> None:
    """Every weight and the logits, bit by bit; and the matrices are gguf's own dequantised ones."""
    found = resolve_model(ModelConfig(path=str(file)))
    assert found.window == 256 and len(found.hash) == 64
    own, read = load(found.path), load(file.parent, gguf_file=file.name)
    expected = read.state_dict()
    assert own.state_dict().keys() == expected.keys() and len(expected) > 20
    for name, weight in own.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    down = quantize(tensors(0)["blk.1.ffn_down.weight"], Q8)
    assert np.array_equal(own.state_dict()["model.layers.1.mlp.down_proj.weight"].numpy(), dequantize(down, Q8))
    ids = torch.tensor([[2, 3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.equal(own(ids).logits, read(ids).logits)


def test_an_embedding_that_is_stored_twice_is_one_matrix(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen2.5-Coder-0.5B's Q4_K_M file is so: trained as two matrices, it took 17 GiB where 13 are enough."""
    embedding, coarse = tensors(0)["token_embd.weight"], gguf.GGMLQuantizationType.Q5_0
    write_gguf(file, more={"token_embd.weight": (embedding, coarse), "output.weight": (embedding, Q8)})
    own = load(made_folder(str(file)))
    assert own.config.tie_word_embeddings and own.get_input_embeddings().weight is own.get_output_embeddings().weight
    assert np.array_equal(own.get_output_embeddings().weight.detach().numpy(), dequantize(quantize(embedding, Q8), Q8))
    assert "quantised again" in capsys.readouterr().out


def test_an_output_weight_of_its_own_stays_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tensors(1)["token_embd.weight"]
    write_gguf(file, more={"output.weight": (output, Q8)})
    own = load(made_folder(str(file)))
    assert not own.config.tie_word_embeddings and "quantised again" not in capsys.readouterr().out
    read = load(file.parent, gguf_file=file.name)
    assert torch.equal(own.get_output_embeddings().weight, read.get_output_embeddings().weight)
    assert torch.equal(own.get_input_embeddings().weight, read.get_input_embeddings().weight)


def test_the_tokenizer_and_its_template_come_along(file: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made_folder(str(file)))
    assert tokenizer.encode("abcd", add_special_tokens=False) == [6, 7]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"
    assert tokenizer.eos_token == "<end>"


def test_it_is_made_once_and_found_by_content(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another name or place too; other weights are another folder with another hash."""
    first = resolve_model(ModelConfig(path=str(file)))
    other = resolve_model(ModelConfig(path=str(write_gguf(tmp_path / "other.gguf", seed=1))))
    assert other.hash != first.hash and other.path != first.path
    monkeypatch.setattr(gguf_folder, "_convert", lambda *_: pytest.fail("made a second time"))
    assert resolve_model(ModelConfig(path=str(file))) == first
    moved = tmp_path / "elsewhere" / "small.gguf"
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    assert resolve_model(ModelConfig(path=str(moved))) == first


def test_two_commands_at_once_make_it_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that was killed half-way leaves nothing that is taken for the model."""
    made: list[Path] = []

    def slowly(source: Path, part: Path) -> None:
        assert not part.exists(), "what a killed command left"
        made.append(part)
        part.mkdir()
        time.sleep(0.3)
        (part / "config.json").write_text("{}")

    left = folder_of(file).with_name(f".{folder_of(file).name}.part")
    left.mkdir(parents=True)
    (left / "config.json").write_text("half")
    monkeypatch.setattr(gguf_folder, "_convert", slowly)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(made_folder(str(file)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(set(found)) == 1 and (found[0] / "config.json").read_text() == "{}"


@pytest.mark.parametrize("content", [b"GGUF", b"no such thing", b""])
def test_what_cannot_be_read_is_refused_in_a_line(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"small.gguf can't be read by transformers: .+; give a Hugging Face folder"
    ) as e:
        resolve_model(ModelConfig(path=str(file)))
    assert "\n" not in str(e.value) and not folder_of(file).exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing.gguf: no such file"):
        resolve_model(ModelConfig(path=str(tmp_path / "missing.gguf")))
