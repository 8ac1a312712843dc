"""A family's model in small: same code, same kinds of layers and attention settings, a few thousand weights.

In: a model's Transformers config. Out: a causal language model of the same class, with random weights. What its
layers do with positions, windows and neighbours can then be tried in a tenth of a second, before any real weight is
read. Windows and the positions at which RoPE changes are scaled down, so that a dozen tokens cross them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

VOCABULARY, WINDOW, HEADS, WIDTH = 64, 4, 4, 16
ROPE_CHANGES = 8  # tokens after which longrope and dynamic RoPE take other frequencies
POSITIONS = 64
SOFTCAP = 0.5
LAYERS = 4  # where no list says of what kind the layers are

WINDOWS = (
    "sliding_window attention_chunk_size window_size local_attention attention_window_size sliding_window_size "
    "keep_window_size index_topk"
)
# config keys by what they mean, over all of Transformers' decoders; the numbers fit together
SIZES = (
    (
        VOCABULARY,
        "vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size ngram_vocab_size_base "
        "encoder_hash_byte_group_vocab",
    ),
    (
        HEADS,
        "num_attention_heads n_head n_heads num_heads swa_num_attention_heads decoder_attention_heads "
        "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads attention_heads "
        "linear_num_value_heads linear_num_heads",
    ),
    (
        2,
        "num_key_value_heads num_kv_heads swa_num_key_value_heads num_query_groups kv_n_heads linear_num_key_heads "
        "index_n_heads num_experts_per_tok num_experts_per_token moe_topk moe_k top_k n_group num_expert_group "
        "encoder_layers num_encoder_layers",
    ),
    (1, "n_shared_experts num_shared_experts moe_num_shared_experts topk_group first_k_dense_replace mamba_n_groups"),
    (
        8,
        "num_experts n_routed_experts num_local_experts moe_num_experts qk_rope_head_dim rotary_dim mamba_d_state "
        "ssm_state_size mamba_n_heads",
    ),
    (
        WIDTH,
        "head_dim global_head_dim swa_head_dim attention_head_dim kv_channels dim_head d_kv d_head qk_nope_head_dim "
        "v_head_dim q_lora_rank kv_lora_rank o_lora_rank index_head_dim linear_key_head_dim linear_value_head_dim "
        "linear_head_dim mamba_head_dim mamba_d_head hidden_size_per_layer_input laurel_rank gated_norm_rank "
        "adapter_rank mamba_dt_rank time_step_rank ple_embed_dim",
    ),
    (
        HEADS * WIDTH,
        "hidden_size n_embd d_model embedding_size input_embedding_size output_embedding_size emb_dim "
        "word_embed_proj_dim attention_hidden_size lru_width backbone_hidden_size embedding_dim",
    ),
    (
        96,
        "intermediate_size intermediate_size_mlp moe_intermediate_size ffn_dim ffn_hidden_size n_inner "
        "shared_expert_intermediate_size shared_intermediate_size moe_shared_expert_intermediate_size dff d_inner "
        "expert_ffn_hidden_size dense_intermediate_size decoder_ffn_dim encoder_ffn_dim dim_ff d_ff feed_forward_size "
        "block_ffn_dim",
    ),
    (WINDOW, WINDOWS),
    (
        POSITIONS,
        "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length seq_length model_max_length "
        "context_length max_target_positions",
    ),
    (2 * HEADS * WIDTH, "mamba_d_ssm"),
    (ROPE_CHANGES, "original_max_position_embeddings"),
)
SMALL = {name: size for size, names in SIZES for name in names.split()}
# of a sequence's length, beyond which a model computes something else
THRESHOLDS = {*WINDOWS.split(), "original_max_position_embeddings"}
DEPTHS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_blocks",
)
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")


def tiny_config(config: Any, longest: int | None = None) -> Any:
    """A copy of a Transformers config with small sizes, its nested ones too.

    `longest`: tokens of the longest sequence that the real model will read: what lies beyond does so in small too.
    """
    small = copy.deepcopy(config)
    _shrink(small, longest or 1 << 62)
    return small


def tiny_model(config: Any, longest: int | None = None, seed: int = 0) -> Any:
    """A causal language model of the config's class, in float32 and eval mode. Leaves torch's random state as it was.

    `longest` as of `tiny_config`. Whatever the model's code raises on sizes that don't fit together comes through.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(config, longest), dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in model.parameters():  # as initialised, much is 0, or too small to show a difference
                weight.add_(torch.randn_like(weight), alpha=0.2 if weight.dim() > 1 else 0.1)
    return model


def _shrink(config: Any, longest: int) -> None:
    before = dict(_items(config))
    depth, kept = _depth(before)
    for name, value in before.items():
        if isinstance(value, dict) and "rope" in name:
            _set(config, name, _small_rope(value, before, longest))
        elif isinstance(value, list) and depth and len(value) == depth:
            _set(config, name, value[:kept])
        elif name == "per_layer_config" and isinstance(value, dict):
            _set(config, name, {layer: own for layer, own in value.items() if int(layer) < kept})
        elif isinstance(value, dict) or hasattr(value, "to_dict"):
            _shrink(value, longest)
        elif name == "attn_logit_softcapping" and value:
            _set(config, name, SOFTCAP)
        elif name == "head_dim" and value is None:  # else some families' code takes it as a number
            _set(config, name, WIDTH)
        elif isinstance(value, int) and not isinstance(value, bool):
            _set(config, name, min(value, _size(name, kept, value, longest)))
    _keep_ratios(config, before, longest)


def _size(name: str, layers: int, value: int, longest: int) -> int:
    """The largest value of a key."""
    if name in DEPTHS:
        return layers
    if name in THRESHOLDS and value >= longest:
        return POSITIONS
    return VOCABULARY - 1 if name in TOKENS else SMALL.get(name, value)


def _depth(fields: dict[str, Any]) -> tuple[int, int]:
    """Layers of the model, and how many of the first ones have a layer of each kind among them."""
    depth = next((fields[name] for name in DEPTHS if isinstance(fields.get(name), int)), 0)
    lists = [value for value in fields.values() if isinstance(value, list) and len(value) == depth > 0]
    if fields.get("num_kv_shared_layers"):  # the last ones read the keys of certain ones before them
        return depth, depth
    if not lists:
        return depth, min(depth, LAYERS)
    kinds = [str(kind) for kind in zip(*lists)]
    return depth, max(min(2, depth), *(kinds.index(kind) + 1 for kind in set(kinds)))


def _keep_ratios(config: Any, before: dict[str, Any], longest: int) -> None:
    """Sizes that follow from others: of latent attention's heads, of a state space's, of a dynamic RoPE."""
    if before.get("num_key_value_heads") == before.get("num_attention_heads") is not None:
        _set(config, "num_key_value_heads", HEADS)
    fields = dict(_items(config))
    rope_dim, plain_dim = fields.get("qk_rope_head_dim"), fields.get("qk_nope_head_dim")
    if isinstance(rope_dim, int) and isinstance(plain_dim, int):
        for name in ("head_dim", "qk_head_dim"):
            if isinstance(before.get(name), int):
                rotated = before[name] == before["qk_rope_head_dim"]
                _set(config, name, rope_dim if rotated else rope_dim + plain_dim)
    if "state_size" in fields and isinstance(fields.get("num_heads"), int):
        _set(config, "num_heads", fields["expand"] * fields["hidden_size"] // fields["head_dim"])
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if "dynamic" in str(rope.get("rope_type", rope.get("type", ""))):
        within = before.get("max_position_embeddings", 0) >= longest
        _set(config, "max_position_embeddings", POSITIONS if within else ROPE_CHANGES)


def _small_rope(rope: dict[str, Any], fields: dict[str, Any], longest: int) -> dict[str, Any]:
    """RoPE's parameters for heads of WIDTH, whose frequencies change after ROPE_CHANGES tokens."""
    small: dict[str, Any] = {}
    share = rope.get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 1.0
    pairs = int(WIDTH * share) // 2
    for name, value in rope.items():
        if isinstance(value, dict):  # by kind of layer
            small[name] = _small_rope(value, fields, longest)
        elif name == "original_max_position_embeddings" and isinstance(value, int):
            small[name] = min(value, POSITIONS if value >= longest else ROPE_CHANGES)
        elif name in ("short_factor", "long_factor"):
            small[name] = value[:pairs]
        elif name == "mrope_section":
            small[name] = [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]
        else:
            small[name] = value
    return small


def _items(config: Any) -> list[tuple[str, Any]]:
    return list((config if isinstance(config, dict) else vars(config)).items())


def _set(config: Any, name: str, value: Any) -> None:
    if isinstance(config, dict):
        config[name] = value
    else:
        setattr(config, name, value)
