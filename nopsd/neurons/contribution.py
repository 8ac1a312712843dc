"""A neuron's direct contribution to a generated token (SPEC §3.2, paper Eq. 2-3). Pure.

    S[c, i] = k[c, i] * (w_out_i . e_{y_c})
"""

from __future__ import annotations

import torch


def contribution(values_CF: torch.Tensor, token_rows_CH: torch.Tensor, down_HF: torch.Tensor) -> torch.Tensor:
    """Signed scores S [C, F] in float32, whatever the inputs' dtype.

    `values_CF`: neuron values at C positions; `token_rows_CH`: unembedding row of each position's token;
    `down_HF`: `down_proj.weight`, column i being neuron i's output direction. No norm is folded in.
    """
    return values_CF.float() * (token_rows_CH.float() @ down_HF.float())
