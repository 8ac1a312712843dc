"""How sure a model is of each token of its response, from the final hidden states. Pure.

    token_entropy    -Σ_v p log p                                 lower: surer
    self_certainty   KL(U || p) = logsumexp(z) - mean(z) - log V  higher: surer
    seq_nll          -log p(y_t)

p = softmax(z) at temperature 1 over the whole vocabulary. z exists for `chunk` positions at a time, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from nopsd.engine import products

NAMES = ("token_entropy", "self_certainty", "seq_nll")
LogitForm = Callable[[torch.Tensor], torch.Tensor]


def token_statistics(
    hidden_TH: torch.Tensor,
    targets_T: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    form: LogitForm,
    chunk: int,
) -> torch.Tensor:
    """Statistics of the next token at each position, from hidden states in tiles.

    Args:
        hidden_TH: States that predict `targets_T`.
        targets_T: The sampled ids.
        weight_VH: The output weight.
        bias_V: Its bias, if there is one.
        form: What else makes logits of the products (`logit_form`).
        chunk: Positions whose logits are in memory at once.

    Returns:
        Nats, [3, T] float32, rows as in `NAMES`.
    """
    found = torch.empty(len(NAMES), len(targets_T), dtype=torch.float32, device=hidden_TH.device)
    for start in range(0, len(targets_T), chunk):
        piece = slice(start, start + chunk)
        z_CV = form(project(hidden_TH[piece], weight_VH, bias_V))
        lse_C, mean_C = z_CV.logsumexp(-1), z_CV.mean(-1)
        log_p_CV = z_CV.sub_(lse_C[:, None])
        found[2, piece] = -log_p_CV.gather(-1, targets_T[piece, None])[:, 0]
        found[0, piece] = -torch.einsum("cv,cv->c", log_p_CV.exp(), log_p_CV)
        found[1, piece] = lse_C - mean_C - math.log(z_CV.shape[-1])
    return found


def kl_of_states(
    student_TH: torch.Tensor,
    teacher_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    form: LogitForm,
    chunk: int,
) -> torch.Tensor:
    """KL(p ‖ q) of the next token at each position, nats [T] float32; p of the student's states, q of the teacher's.

    The other arguments are those of `token_statistics`.
    """
    found = torch.empty(len(student_TH), dtype=torch.float32, device=student_TH.device)
    for start in range(0, len(student_TH), chunk):
        piece = slice(start, start + chunk)
        log_p_CV = form(project(student_TH[piece], weight_VH, bias_V)).log_softmax(-1)
        log_q_CV = form(project(teacher_TH[piece], weight_VH, bias_V)).log_softmax(-1)
        found[piece] = torch.einsum("cv,cv->c", log_p_CV.exp(), log_p_CV - log_q_CV)
    return found


def project(hidden_CH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None) -> torch.Tensor:
    """hidden · weightᵀ + bias as float32 [C, V], accumulated in float32 whatever the weight's dtype."""
    z_CV = torch.empty(len(hidden_CH), len(weight_VH), dtype=torch.float32, device=hidden_CH.device)
    products.project(hidden_CH, weight_VH, z_CV)
    return z_CV if bias_V is None else z_CV.add_(bias_V.float())


def logit_form(model_config: Any) -> LogitForm:
    """What the model does to hidden · weightᵀ: Cohere scales it up, Granite down, Gemma bounds it softly."""
    config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def form(z_CV: torch.Tensor) -> torch.Tensor:
        z_CV = z_CV.mul_(scale) if scale != 1 else z_CV
        return z_CV.div_(cap).tanh_().mul_(cap) if cap else z_CV

    return form
