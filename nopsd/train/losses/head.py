"""The student's output layer with the fused loss inside it, and the rows of hidden states it is fed (SPEC §6.1, §6.4).

The loss runs *as* `lm_head`'s forward, for the reason that `nopsd.train.losses.loss_head` gives.

Shapes: B sequences (packed: 1), T positions (prompt, response, padding), N response tokens of the batch, H hidden,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nopsd.config import DistillConfig
from nopsd.engine.packed_attention import Segments, inputs_of
from nopsd.train.losses.fused_linear import FusedResult, fused_linear_divergence
from nopsd.train.losses.loss_head import LossHead, gathered_weight, replace_head, response_hidden

__all__ = ["DistillHead", "DistillInputs", "DistillModel", "gathered_weight", "install_head", "response_hidden"]


@dataclass
class DistillInputs:
    """What the head needs beside the student's hidden states, row by row."""

    teacher_hidden_NH: Tensor
    teacher_weight_VH: Tensor | None  # whole; under ZeRO-3 inside `gathered_weight`. None: the student's own
    token_weight_N: Tensor  # loss = Σ token_weight · divergence
    target_N: Tensor | None = None  # sampled ids, for the statistics
    with_statistics: bool = True
    served_N: Tensor | None = None  # the server's log-probs of the targets, for is_clip
    aux_hidden: Mapping[str, Tensor] | None = None  # of the teacher's weights on other prompts (`targets.auxiliaries`)
    # A second teacher's hidden states and weight (None: the student's own), and its share of the logits.
    teacher_mix: tuple[Tensor, Tensor | None, float] | None = None


class DistillHead(LossHead):
    """`lm_head` with the fused divergence inside."""

    def __init__(self, lm_head: nn.Linear, config: DistillConfig, vocab_size: int | None = None) -> None:
        super().__init__(lm_head)
        self.config = config
        self.vocab_size = vocab_size

    def loss(self, hidden_NH: Tensor, inputs: DistillInputs) -> FusedResult:
        mix, taught_VH = inputs.teacher_mix, self._or_own(inputs.teacher_weight_VH)
        return fused_linear_divergence(
            hidden_NH,
            self.weight,
            inputs.teacher_hidden_NH,
            taught_VH,
            inputs.token_weight_N,
            self.config,
            target_N=inputs.target_N,
            served_N=inputs.served_N,
            aux={name: (hidden_NH, taught_VH) for name, hidden_NH in (inputs.aux_hidden or {}).items()},
            teacher_mix=mix and (mix[0], self._or_own(mix[1]), mix[2]),
            vocab_size=self.vocab_size,
            with_statistics=inputs.with_statistics,
        )

    def _or_own(self, weight_VH: Tensor | None) -> Tensor:
        return self.weight if weight_VH is None else weight_VH


def install_head(lm: nn.Module, config: DistillConfig, vocab_size: int | None = None) -> DistillHead:
    """Replace a causal LM's `lm_head` by a DistillHead, before `deepspeed.initialize`. Tied weights stay tied.

    ConfigError if the model's logits are not hidden · weightᵀ (a bias, soft-capping, a scale).
    """
    head = replace_head(lm, DistillHead, lambda old: DistillHead(old, config, vocab_size))
    assert isinstance(head, DistillHead)
    return head


class DistillModel(nn.Module):
    """A causal LM as a DeepSpeed engine's module: in a batch, out the distillation loss.

    `engine(**batch)` gives a FusedResult; `engine.backward(result.loss)`. Its parameters are named `lm.…`.
    """

    def __init__(self, lm: nn.Module, config: DistillConfig, vocab_size: int | None = None) -> None:
        super().__init__()
        self.lm = lm
        install_head(lm, config, vocab_size)

    def forward(
        self,
        input_ids_BT: Tensor,
        rows_N: Tensor,
        teacher_hidden_NH: Tensor,
        teacher_weight_VH: Tensor | None,
        token_weight_N: Tensor,
        target_N: Tensor | None = None,
        with_statistics: bool = True,
        served_N: Tensor | None = None,
        aux_hidden: Mapping[str, Tensor] | None = None,
        teacher_mix: tuple[Tensor, Tensor | None, float] | None = None,
        states_only: bool = False,
        segments: Segments | None = None,
    ) -> FusedResult | Tensor:
        """Loss over the positions `rows_N`, flat indices in B·T: P−1 … P+T−2 of each sequence predict its response.

        A rank without tokens passes any one id and no rows. `states_only`: the hidden states `[N, H]` and no loss,
        for a teacher that is the student itself. `segments`: the sequences of a packed row.
        """
        hidden_BTH = self.lm.base_model(**inputs_of(input_ids_BT, segments)).last_hidden_state
        inputs = DistillInputs(
            teacher_hidden_NH,
            teacher_weight_VH,
            token_weight_N,
            target_N,
            with_statistics,
            served_N,
            aux_hidden,
            teacher_mix,
        )
        hidden_NH, head = hidden_BTH.flatten(0, 1)[rows_N], self.lm.get_output_embeddings()
        if states_only:
            head(hidden_NH[:0])  # ZeRO-3 wants to see the modules in one and the same order
            return hidden_NH
        return head(hidden_NH, loss_inputs=inputs)
