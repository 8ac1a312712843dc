"""A causal LM as an engine's module whose forward is a loss of sampled tokens' log-probs.

In: a micro-batch's ids and the rows that predict its response tokens. Out: a TokenResult; or, without a loss, what the
model thinks of each token. Shapes as in `head`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nopsd.engine.packed_attention import Segments, inputs_of
from nopsd.engine.products import tile_rows
from nopsd.signals.statistics import token_statistics
from nopsd.train.losses.head import LossHead, replace_head
from nopsd.train.losses.token_loss import LossOf, TokenResult, fused_linear_token_loss


@dataclass(frozen=True)
class TokenInputs:
    """What the head needs beside the hidden states, row by row. `loss_of` None: statistics alone."""

    target_N: Tensor
    token_weight_N: Tensor
    loss_of: LossOf | None


class TokenLossHead(LossHead):
    """`lm_head` with the fused token loss inside. `chunk`: tokens a tile."""

    def __init__(self, lm_head: nn.Linear, chunk: int | None = None) -> None:
        super().__init__(lm_head)
        self.chunk = chunk

    def forward(self, hidden_NH: Tensor, loss_inputs: TokenInputs | None = None) -> TokenResult | Tensor:
        """Logits; with `loss_inputs` the loss, or statistics."""
        if loss_inputs is None:
            logits: Tensor = super().forward(hidden_NH)
            return logits
        target_N, loss_of = loss_inputs.target_N, loss_inputs.loss_of
        if loss_of is None:
            return statistics_of(hidden_NH, target_N, self.weight, self.chunk)
        return fused_linear_token_loss(
            hidden_NH, self.weight, target_N, loss_inputs.token_weight_N, loss_of, self.chunk
        )


class TokenLossModel(nn.Module):  # type: ignore[misc]
    """`engine(**batch)` gives a TokenResult, or statistics `[3, N]`. Its parameters are named `lm.…`."""

    def __init__(self, lm: Any, chunk: int | None = None) -> None:
        super().__init__()
        self.lm = lm
        replace_head(lm, TokenLossHead, lambda old: TokenLossHead(old, chunk))

    def forward(
        self,
        input_ids_BT: Tensor,
        rows_N: Tensor,
        target_N: Tensor,
        token_weight_N: Tensor,
        loss_of: LossOf | None = None,
        segments: Segments | None = None,
    ) -> TokenResult | Tensor:
        """The loss over positions of a batch.

        Args:
            input_ids_BT: Token ids.
            rows_N: Flat indices in B·T: P−1 … P+T−2 of each sequence predict its response of T tokens.
            target_N: The response's ids.
            token_weight_N: What each token counts.
            loss_of: From log-probs to values and slopes; None: statistics of the tokens alone.
            segments: The sequences of a packed row.
        """
        hidden_BTH = self.lm.base_model(**inputs_of(input_ids_BT, segments)).last_hidden_state
        inputs = TokenInputs(target_N, token_weight_N, loss_of)
        found: TokenResult | Tensor = self.lm.get_output_embeddings()(
            hidden_BTH.flatten(0, 1)[rows_N], loss_inputs=inputs
        )
        return found


def statistics_of(hidden_NH: Tensor, target_N: Tensor, weight_VH: Tensor, chunk: int | None = None) -> Tensor:
    """Entropy, self-certainty and −log p of the targets at each position.

    Args:
        hidden_NH: Final hidden states.
        target_N: Token ids.
        weight_VH: The output head's.
        chunk: Positions at a time; None: as the device likes.

    Returns:
        float32 [3, N], in nats, rows as in `nopsd.signals.statistics.NAMES`.
    """
    size = tile_rows(chunk, hidden_NH.device)
    return token_statistics(hidden_NH, target_N, weight_VH, None, lambda z_CV: z_CV, size)
