"""An output layer that computes a loss in place of logits, and what else reads hidden states at given rows (SPEC §6.4).

Under ZeRO-3 a weight has 0 elements except while its own module runs forward or backward. A loss computed
outside `lm_head` therefore sees an empty weight, in the forward and again in the backward. Here the loss runs
*as* `lm_head`'s forward, so the engine's own hooks gather the weight both times.

No attention mask is needed anywhere here: sequences lie end to end (`engine.packed_attention`), or are padded on the
right, where attention is causal and no real token ever sees a padded one.

Shapes: B sequences (packed: 1), T positions (prompt, response, padding), N response tokens of the batch, H hidden,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nopsd.engine.packed_attention import Segments, inputs_of
from nopsd.errors import ConfigError

# Config keys of models whose logits are more than hidden · weightᵀ (Gemma, Granite, Cohere).
NOT_LINEAR = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class LossHead(nn.Linear):
    """A bias-free `lm_head` that can also give a loss. Holds the very weight Parameter of the one it replaces."""

    def __init__(self, lm_head: nn.Linear) -> None:
        # on `meta`: the weight made here is thrown away for the model's own
        super().__init__(lm_head.in_features, lm_head.out_features, bias=False, device="meta")
        self.weight = lm_head.weight

    # Under ZeRO-3 pass `loss_inputs` by name: the hooks look through positional arguments alone.
    def forward(self, hidden: Tensor, loss_inputs: Any = None) -> Any:  # type: ignore[override]
        """Logits of `hidden`; with `loss_inputs`, what `loss` gives for rows `hidden` [N, H]."""
        return super().forward(hidden) if loss_inputs is None else self.loss(hidden, loss_inputs)

    def loss(self, hidden_NH: Tensor, inputs: Any) -> Any:
        raise NotImplementedError


def replace_head(lm: Any, kind: type[LossHead], make: Callable[[nn.Linear], LossHead]) -> LossHead:
    """Put `make(lm_head)` in the place of a causal LM's `lm_head`, before `deepspeed.initialize`; tied weights stay
    tied. One that is of this `kind` already is left.

    ConfigError if the model's logits are not hidden · weightᵀ (a bias, soft-capping, a scale).
    """
    old = lm.get_output_embeddings()
    if isinstance(old, kind):
        return old
    name = type(lm).__name__
    if not isinstance(old, nn.Linear):
        raise ConfigError(f"{name} has no linear lm_head ({type(old).__name__}): use a plain causal language model")
    if old.bias is not None:
        raise ConfigError(f"{name}'s lm_head has a bias: the fused loss takes heads without one")
    for key in NOT_LINEAR:
        if getattr(lm.config, key, None) not in (None, 1, 1.0):
            raise ConfigError(f"{name}'s config sets {key}: the fused loss takes models with plain linear logits")
    head = make(old)
    head.train(old.training)
    lm.set_output_embeddings(head)
    return head


@torch.no_grad()
def response_hidden(model: nn.Module, input_ids_BT: Tensor, rows_N: Tensor, segments: Segments | None = None) -> Tensor:
    """A frozen model's final hidden states `[N, H]` at `rows_N`: no gradient, no logits.

    `model`: a causal LM or a DeepSpeed engine around one. It is run from its root, as ZeRO-3's parameter
    trace wants, with zero positions for `lm_head`; the hidden states are taken as they pass.
    """
    lm = model.module if hasattr(model, "module") else model
    caught: list[Tensor] = []
    hook = lm.base_model.register_forward_hook(lambda _module, _args, output: caught.append(output.last_hidden_state))
    try:
        nothing = torch.empty(0, dtype=torch.int64, device=input_ids_BT.device)
        model(**inputs_of(input_ids_BT, segments), logits_to_keep=nothing)
    finally:
        hook.remove()
    return caught[0].flatten(0, 1)[rows_N]


@contextmanager
def gathered_weight(model: nn.Module) -> Iterator[Tensor]:
    """The whole output weight `[V, H]` of a causal LM or of an engine around one, for as long as the block lasts.

    Every rank must enter. What the fused losses compute with it is done in the forward, so the block may
    end before the backward.
    """
    lm = model.module if hasattr(model, "module") else model
    weight = lm.get_output_embeddings().weight
    gather: Any = nullcontext()
    if hasattr(weight, "ds_id"):
        import deepspeed

        gather = deepspeed.zero.GatheredParameters([weight])
    with gather:
        yield weight  # the Parameter itself: a detached alias would keep the whole weight alive afterwards
