"""Which MLP neurons a training may move, and what holds the rest: their gradients are 0 before any rank sees them.

In: neuron sets of the selected questions, or of other ones. Out: a mask over all M neurons (id l·F + i), and hooks on
the student's parameters. A neuron is a row of the gate and up projections and a column of the down projection. With a
gradient of exactly 0, no weight decay and no other part in AdamW's update a weight stays what it is to the bit, in
float32's and in bfloat16's master copy alike; the gradient's norm, by which it is clipped, is of what is learned alone.

    selected   learned: neurons in at least `share` of the selected questions' sets; all else in the model is held
    score      as many neurons, of the largest sum of contributions over the selected questions
    random     as many neurons, drawn
    protect    held: neurons in at least `share` of the sets of another run's questions; all else is learned
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nopsd.config import NeuronMaskConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError, DataError
from nopsd.neurons.adapters import find_sites
from nopsd.neurons.adapters.gated import GatedMlp
from nopsd.neurons.store import NeuronSets


def neuron_mask(sets: NeuronSets, uids: Sequence[str] | None, config: NeuronMaskConfig, ranks: Ranks) -> np.ndarray:
    """Learned neurons, bool [M], equal on all ranks. Collective.

    Args:
        sets: This rank's share of the questions.
        uids: Those of them that count; None: all.
        config: `learn`, `share`, `seed`.
        ranks: All that train.

    Raises:
        DataError: No neuron would be learned, or all would be.
    """
    neurons = sum(sets.header["widths"])
    wanted = set(sets.uids if uids is None else uids)
    rows = [row for row, uid in enumerate(sets.uids) if uid in wanted]
    ids, scores = sets.ids[rows], sets.scores[rows].astype(np.float64)
    kept = ids >= 0
    counts = np.bincount(ids[kept], minlength=neurons).astype(np.float64)
    sums = np.bincount(ids[kept], weights=scores[kept], minlength=neurons)
    total = ranks.all_sum(torch.from_numpy(np.stack([counts, sums, np.full(neurons, len(rows))])).to(ranks.device))
    counts, sums, questions = total.cpu().numpy()
    common = (counts > 0) & (counts >= config.share * questions)
    learned = {"selected": common, "protect": ~common}.get(str(config.learn))
    if learned is None:
        learned = np.zeros(neurons, dtype=bool)
        order = np.argsort(-sums, kind="stable")
        if config.learn == "random":
            order = np.random.default_rng(config.seed).permutation(neurons)
        learned[order[: common.sum()]] = True
    if not learned.any() or learned.all():
        raise DataError(
            f"train.neurons.learn={config.learn} with train.neurons.share={config.share:g} leaves "
            f"{'nothing' if not learned.any() else 'everything'} to be learned: change train.neurons.share"
        )
    return learned


def hold(lm: nn.Module, learned: np.ndarray, others: bool, own_adapter: str | None = None) -> None:
    """From now on the gradients of all neurons but these are 0, on every rank and at every backward pass.

    Args:
        lm: The student, of gated MLPs, its parameters sharded by ZeRO-3 or not.
        learned: bool [M].
        others: Learn all other parameters too (attention, norms, embeddings, biases of down projections).
        own_adapter: `model.mlp_adapter`.

    Raises:
        ConfigError: Its MLPs are of another form, or of another number of neurons.
    """
    sites = find_sites(lm, own_adapter)
    if sum(sites.widths) != len(learned):
        raise ConfigError(f"train.neurons: {len(learned)} neurons are stored, and the model has {sum(sites.widths)}")
    held: dict[nn.Parameter, Callable[[Tensor], Tensor]] = {}
    first = 0
    for site, width in zip(sites.mlps, sites.widths):
        if not isinstance(site, GatedMlp):
            raise ConfigError(f"train.neurons needs gated MLPs, and the model has {type(site).__name__}")
        mask_F = torch.from_numpy(~learned[first : first + width])
        held |= _of_site(site, mask_F)
        first += width
    for parameter in lm.parameters():
        if parameter.requires_grad and (parameter in held or not others):
            parameter.register_hook(held.get(parameter, torch.zeros_like))


def _of_site(site: GatedMlp, mask_F: Tensor) -> dict[nn.Parameter, Callable[[Tensor], Tensor]]:
    def rows(mask: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda grad: grad.masked_fill(mask.to(grad.device).view(-1, *[1] * (grad.dim() - 1)), 0.0)

    def columns(grad: Tensor) -> Tensor:
        return grad.masked_fill(mask_F.to(grad.device), 0.0)

    found: dict[nn.Parameter, Callable[[Tensor], Tensor]] = {site.down.weight: columns}
    both = torch.cat([mask_F, mask_F])
    inner: list[tuple[Any, Tensor]] = [(site.gate, mask_F), (site.up, mask_F), (site.fused, both)]
    for module, mask in inner:
        if module is not None:
            found |= {p: rows(mask) for p in (module.weight, getattr(module, "bias", None)) if p is not None}
    return found
