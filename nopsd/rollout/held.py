"""What a rollout server says of the weights that it read: answered by the plug-in, asked for by the client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Of a model's config.json: what must be equal before a server can load another model's weights in place
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class HeldWeights:
    """`source`: the folder or hub id that was read last. `hash`: of its files as in `nopsd.models`, None if unknown.

    `shape`: the served config's values of SHAPE. `dtype`: the served number format.
    """

    source: str
    hash: str | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"  # the coarsest, where it is unknown
