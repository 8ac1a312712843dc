"""Sizes of the Qwen3 models that have presets, so that memory is estimated before anything is fetched.

Numbers are those of the models' published config.json.
"""

from __future__ import annotations

from nopsd.cluster.doctor.memory import ModelShape

VOCABULARY = 151_936
HEAD_WIDTH, KV_HEADS = 128, 8


def dense(layers: int, hidden: int, mlp: int, heads: int, tied: bool) -> ModelShape:
    """A dense Qwen3: gated MLPs, grouped queries, norms of queries and keys, no biases.

    Args:
        layers: Number of them.
        hidden: Width of the residual stream.
        mlp: Neurons of a layer.
        heads: Of queries; each is HEAD_WIDTH wide.
        tied: Input and output embeddings are one matrix.
    """
    queries, keys = heads * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH
    attention = ((hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden))
    linears = (*attention, (hidden, mlp), (hidden, mlp), (mlp, hidden))
    layer = sum(i * o for i, o in linears) + 2 * hidden + 2 * HEAD_WIDTH
    head = VOCABULARY * hidden
    return ModelShape(
        parameters=layers * layer + hidden + head * (1 if tied else 2),
        largest_layer=max(layer, head),
        layers=layers,
        hidden=hidden,
        mlp=mlp,
        heads=heads,
        kv_heads=KV_HEADS,
        head_width=HEAD_WIDTH,
        vocabulary=VOCABULARY,
        linears=linears,
    )


# By preset, smallest first: what `nopsd init` chooses of.
SHAPES = {
    "paper/qwen3_0_6b": dense(28, 1024, 3072, 16, tied=True),
    "paper/qwen3_1_7b": dense(28, 2048, 6144, 16, tied=True),
    "paper/biology": dense(36, 2560, 9728, 32, tied=True),
    "paper/qwen3_8b": dense(36, 4096, 12288, 32, tied=False),
    "paper/qwen3_14b": dense(40, 5120, 17408, 40, tied=False),
    "paper/qwen3_32b": dense(64, 5120, 25600, 64, tied=False),
}
