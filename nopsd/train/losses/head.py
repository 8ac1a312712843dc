"""An output layer that computes a loss in place of logits, the student's with the fused divergence, and what else reads
hidden states at given rows.

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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nopsd.config import DistillConfig
from nopsd.engine.family_check import config_of, family_limits
from nopsd.engine.packed_attention import Segments, inputs_of
from nopsd.engine.tiny import tiny_model
from nopsd.errors import ConfigError
from nopsd.train.losses.fused_linear import DistillInputs, FusedResult, fused_linear_divergence

# Config keys of models whose logits are more than hidden · weightᵀ (Gemma, Granite, Cohere).
NOT_LINEAR = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class LossHead(nn.Linear):  # type: ignore[misc]
    """A bias-free `lm_head` whose `forward(hidden, loss_inputs=…)` also gives a loss. Holds the very weight Parameter
    of the one it replaces. Under ZeRO-3 pass `loss_inputs` by name: the hooks look through positional arguments alone.
    """

    def __init__(self, lm_head: nn.Linear) -> None:
        # on `meta`: the weight made here is thrown away for the model's own
        super().__init__(lm_head.in_features, lm_head.out_features, bias=False, device="meta")
        self.weight = lm_head.weight


def check_head(lm: Any) -> None:
    """ConfigError if the model's logits are not hidden · weightᵀ (a bias, soft-capping, a scale)."""
    head, name = lm.get_output_embeddings(), type(lm).__name__
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"{name} has no linear lm_head ({type(head).__name__}): use a plain causal language model")
    if head.bias is not None:
        raise ConfigError(f"{name}'s lm_head has a bias: the fused loss takes heads without one")
    for key in NOT_LINEAR:
        if getattr(lm.config, key, None) not in (None, 1, 1.0):
            raise ConfigError(f"{name}'s config sets {key}: the fused loss takes models with plain linear logits")


def check_family_head(model_path: Path, trust_remote_code: bool) -> None:
    """`check_head` by the model's config alone, before its weights are read, and on the family in small.

    ConfigError too for what no known key says: the family's forward does more with its head.
    """
    if family_limits(str(model_path), trust_remote_code).tried:
        lm = tiny_model(config_of(str(model_path), trust_remote_code))
        check_head(lm)
        if not is_linear(lm):
            raise ConfigError(
                f"{type(lm).__name__}'s logits are more than its lm_head of the hidden states: "
                "the fused loss takes models with plain linear logits"
            )


@torch.no_grad()  # type: ignore[untyped-decorator]
def is_linear(lm: Any) -> bool:
    """Whether a small model's logits are its last hidden states times its head's weights."""
    ids_1T = torch.arange(1, 9)[None]
    hidden_1TH = lm.base_model(input_ids=ids_1T, use_cache=False).last_hidden_state
    logits_1TV = lm(input_ids=ids_1T, use_cache=False).logits
    return bool(torch.allclose(hidden_1TH @ lm.get_output_embeddings().weight.T, logits_1TV, rtol=1e-3, atol=1e-3))


def replace_head(lm: Any, kind: type[LossHead], make: Callable[[nn.Linear], LossHead]) -> LossHead:
    """Replace a causal LM's `lm_head`, before `deepspeed.initialize`; tied weights stay tied.

    Args:
        lm: The model.
        kind: One that is of this kind already is left.
        make: Makes the new head of the old one.

    Raises:
        ConfigError: The model's logits are not hidden · weightᵀ (a bias, soft-capping, a scale).
    """
    old = lm.get_output_embeddings()
    if isinstance(old, kind):
        return old
    check_head(lm)
    head = make(old)
    head.train(old.training)
    lm.set_output_embeddings(head)
    return head


@torch.no_grad()  # type: ignore[untyped-decorator]
def response_hidden(model: nn.Module, input_ids_BT: Tensor, rows_N: Tensor, segments: Segments | None = None) -> Tensor:
    """A frozen model's final hidden states, without gradient or logits.

    Args:
        model: A causal LM, or a DeepSpeed engine around one. It is run from its root, as ZeRO-3's parameter trace
            wants, with zero positions for `lm_head`; the hidden states are taken as they pass.
        input_ids_BT: Token ids.
        rows_N: Flat indices in B·T of the positions that are wanted.
        segments: The sequences of a packed row.

    Returns:
        [N, H].
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


class DistillHead(LossHead):
    """`lm_head` with the fused divergence inside."""

    def __init__(self, lm_head: nn.Linear, config: DistillConfig, vocab_size: int | None = None) -> None:
        super().__init__(lm_head)
        self.config = config
        self.vocab_size = vocab_size

    def forward(self, hidden_NH: Tensor, loss_inputs: DistillInputs | None = None) -> Tensor | FusedResult:
        """Logits; with `loss_inputs` the loss."""
        if loss_inputs is None:
            logits: Tensor = super().forward(hidden_NH)
            return logits
        return fused_linear_divergence(hidden_NH, self.weight, loss_inputs, self.config, self.vocab_size)


class DistillModel(nn.Module):  # type: ignore[misc]
    """A causal LM as a DeepSpeed engine's module: in a batch, out the distillation loss.

    `engine(**batch)` gives a FusedResult; `engine.backward(result.loss)`. Its parameters are named `lm.…`.
    """

    def __init__(self, lm: Any, config: DistillConfig, vocab_size: int | None = None) -> None:
        super().__init__()
        self.lm = lm
        replace_head(lm, DistillHead, lambda old: DistillHead(old, config, vocab_size))

    def forward(
        self,
        input_ids_BT: Tensor,
        rows_N: Tensor,
        loss_inputs: DistillInputs | None = None,
        segments: Segments | None = None,
    ) -> FusedResult | Tensor:
        """The loss over positions of a batch.

        Args:
            input_ids_BT: Token ids. A rank without tokens passes any one id and no rows.
            rows_N: Flat indices in B·T: P−1 … P+T−2 of each sequence predict its response of T tokens.
            loss_inputs: What the loss reads at these rows; None: return the hidden states [N, H] and no loss, for a
                teacher that is the student itself.
            segments: The sequences of a packed row.
        """
        hidden_BTH = self.lm.base_model(**inputs_of(input_ids_BT, segments)).last_hidden_state
        hidden_NH, head = hidden_BTH.flatten(0, 1)[rows_N], self.lm.get_output_embeddings()
        if loss_inputs is None:
            head(hidden_NH[:0])  # ZeRO-3 wants to see the modules in one and the same order
            return hidden_NH
        result: FusedResult = head(hidden_NH, loss_inputs=loss_inputs)
        return result
