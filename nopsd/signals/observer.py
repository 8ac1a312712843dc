"""One forward pass over a batch of responses, and what is read off it on the way.

In: a (ZeRO-3) engine, rollouts, the columns wanted. Out: one row a rollout. Under ZeRO-3 the output weight may be
read only inside the head's own forward, so token statistics are formed in a pre-hook of the head that was
registered after DeepSpeed's own. The model itself computes logits of the last position only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError
from nopsd.neurons.activity import Block, LayerActivity
from nopsd.neurons.adapters import find_sites, watch
from nopsd.neurons.batches import Batch, input_ids
from nopsd.rollout.types import Rollout
from nopsd.signals.needs import FROM_LOGITS, FROM_STATES
from nopsd.signals.states import Way, watch_ends
from nopsd.signals.statistics import NAMES, kl_of_states, logit_form, project, token_statistics

Columns = dict[str, np.ndarray]
See = Callable[[torch.Tensor, nn.Module], None]
# How far our logits may be from the model's own, relative to its greatest: its products may be rounded to its dtype.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
LOW_PRECISION_TOLERANCE = 0.05


class Observer:
    """Reads columns off forward passes; every method is collective under ZeRO-3 (an idle rank calls `idle`)."""

    def __init__(
        self, engine: Any, ranks: Ranks, chunk: int, value: str = "act_fn", mlp_adapter: str | None = None
    ) -> None:
        self.engine, self.ranks, self.chunk, self.value = engine, ranks, chunk, value
        self.mlp_adapter = mlp_adapter
        self.lm = engine.module
        self.form = logit_form(self.lm.config)
        self.own: torch.Tensor | None = None  # our logits of the last position, while they are to be checked
        self.checked = False

    def measure(
        self,
        rollouts: Sequence[Rollout],
        batch: Batch,
        columns: Collection[str],
        directions: Sequence[np.ndarray] = (),
    ) -> Columns:
        """Run a batch and read columns off its forward pass.

        Args:
            rollouts: All responses.
            batch: Numbers of those that run, B of them.
            columns: Names.
            directions: Of `nait`: v_l of each layer.

        Returns:
            float32 [B] of each column; `embedding` [B, H], `representation` [B, 2H], `trajectory` [B, L · 64].
        """
        members = [rollouts[i] for i in batch]
        of_states = FROM_STATES & set(columns)
        found: Columns = {name: np.full(len(batch), np.nan) for name in set(columns) - of_states - {"embedding"}}
        way = Way(members)

        def see(hidden_BTH: torch.Tensor, head: nn.Module) -> None:
            if "embedding" in columns:
                found["embedding"] = _mean_states(hidden_BTH, members)
            if FROM_LOGITS & set(columns):
                self._check_form(hidden_BTH, head)
                for row, rollout in enumerate(members):
                    means = dict(zip(NAMES, self._token_means(hidden_BTH[row], rollout, head)))
                    means["mean_logp"] = -means["seq_nll"]
                    for name in FROM_LOGITS & set(columns):
                        found[name][row] = means[name]

        with ExitStack() as stack:
            stack.enter_context(watch_outputs(self.lm, see))
            if "nait" in columns:
                scores = np.array([0.0 if r.response_ids else np.nan for r in members])
                found["nait"] = scores
                sites = find_sites(self.lm, self.mlp_adapter)
                stack.enter_context(watch(sites, self.value, lambda a: self._align(a, members, directions, scores)))
            if of_states:
                stack.enter_context(watch_ends(find_sites(self.lm, self.mlp_adapter).layers, way))
            self._forward(input_ids(rollouts, batch))
        found |= {name: way.column(name) for name in of_states}
        return {name: column.astype(np.float32) for name, column in found.items()}

    def differences(self, rollouts: Sequence[Rollout], batch: Batch) -> Columns:
        """Δ of each layer, named by the layer's number: [B, F_l] float32."""
        found: Columns = {}
        members = [rollouts[i] for i in batch]
        sites = find_sites(self.lm, self.mlp_adapter)

        def consume(activity: LayerActivity) -> None:
            delta = np.zeros((len(members), activity.width), dtype=np.float32)
            for row, rollout in enumerate(members):
                first = row * activity.shape[1] + len(rollout.prompt_ids)
                last = first + len(rollout.response_ids) - 1
                for block in activity.blocks:
                    values = _values_at(block, last) - _values_at(block, first)
                    delta[row, block.first : block.first + len(values)] = values
            found[str(activity.layer)] = delta

        with watch(sites, self.value, consume):
            self._forward(input_ids(rollouts, batch))
        return found

    def shifts(self, rollouts: Sequence[Rollout], demonstrated: Sequence[Rollout], batch: Batch) -> np.ndarray:
        """Mean over the response of KL(p ‖ q), p behind its own prompt, q behind the one with demonstrations.

        Args:
            rollouts: All responses.
            demonstrated: The same responses behind prompts with demonstrations.
            batch: Numbers of those that run, B of them.

        Returns:
            Nats, [B] float32; NaN for a response without a token. Two forward passes: an idle rank idles twice.
        """
        members, shown = [rollouts[i] for i in batch], [demonstrated[i] for i in batch]
        alone: list[torch.Tensor] = []
        found = np.full(len(batch), np.nan)

        def keep(hidden_BTH: torch.Tensor, head: nn.Module) -> None:
            self._check_form(hidden_BTH, head)
            alone.extend(hidden_BTH[row, _predicting(rollout)].clone() for row, rollout in enumerate(members))

        def compare(hidden_BTH: torch.Tensor, head: nn.Module) -> None:
            for row, rollout in enumerate(shown):
                if rollout.response_ids:
                    states = hidden_BTH[row, _predicting(rollout)]
                    kl = kl_of_states(alone[row], states, head.weight, _bias(head), self.form, self.chunk)
                    found[row] = float(kl.double().mean())

        for see, responses in ((keep, rollouts), (compare, demonstrated)):
            with watch_outputs(self.lm, see):
                self._forward(input_ids(responses, batch))
        return found.astype(np.float32)

    def idle(self) -> None:
        """Take part in the others' collectives without reading anything."""
        self._forward(torch.zeros(1, 2, dtype=torch.long))

    def _token_means(self, hidden_TH: torch.Tensor, rollout: Rollout, head: nn.Module) -> list[float]:
        if not rollout.response_ids:
            return [float("nan")] * len(NAMES)
        targets = torch.tensor(rollout.response_ids, device=hidden_TH.device)
        states = hidden_TH[_predicting(rollout)]
        per_token = token_statistics(states, targets, head.weight, _bias(head), self.form, self.chunk)
        result: list[float] = per_token.double().mean(1).tolist()
        return result

    def _align(
        self, activity: LayerActivity, members: Sequence[Rollout], directions: Sequence[np.ndarray], scores: np.ndarray
    ) -> None:
        """Add this layer's share of each row's score."""
        for row, rollout in enumerate(members):
            size = len(rollout.response_ids)
            start = row * activity.shape[1] + len(rollout.prompt_ids)
            for block in activity.blocks if size else ():
                total = self._sum(block, block.rows(start, start + size))
                aimed = directions[activity.layer][block.first : block.first + len(total)]
                scores[row] += float(total @ aimed) / size

    def _sum(self, block: Block, rows: slice) -> np.ndarray:
        """[F_b] float64: the block's values, summed over its `rows`."""
        total = torch.zeros(block.width, dtype=torch.float64)
        for start in range(rows.start, rows.stop, self.chunk):
            piece = block.values(slice(start, min(start + self.chunk, rows.stop)))
            total += piece.float().sum(0).double().cpu()
        result: np.ndarray = total.numpy()
        return result

    def _check_form(self, hidden_BTH: torch.Tensor, head: nn.Module) -> None:
        """Once: keep our logits of the last position, which the model computes too; see `_forward`."""
        if not self.checked:
            self.own = self.form(project(hidden_BTH[:, -1], head.weight, _bias(head))).cpu()

    def _forward(self, ids_BT: torch.Tensor) -> None:
        # Through the engine's root, where ZeRO-3 starts its trace of the modules. No mask: padding is on the right,
        # and a causal model does not look there.
        self.own = None
        with torch.no_grad():
            output = self.engine(input_ids=ids_BT.to(self.ranks.device), use_cache=False, logits_to_keep=1)
        if self.own is not None:
            theirs = output.logits[:, -1]
            tolerance = TOLERANCE.get(theirs.dtype, LOW_PRECISION_TOLERANCE)
            apart = (self.own - theirs.float().cpu()).abs().max() / theirs.float().abs().max().cpu()
            if not apart <= tolerance:
                raise UserError(
                    f"model.path: {type(self.lm).__name__} makes its logits in a way not known here (off by "
                    f"{float(apart):.2g}): name it in logit_form of nopsd/signals/statistics.py"
                )
            self.checked = True


@contextmanager
def watch_outputs(lm: nn.Module, see: See) -> Iterator[None]:
    """While open, every forward pass calls `see(final hidden states [B, T, H], head)` inside the head's forward."""
    caught: list[torch.Tensor] = []
    head = lm.get_output_embeddings()
    handles = [
        lm.base_model.register_forward_hook(lambda _m, _i, output: caught.append(output.last_hidden_state)),
        head.register_forward_pre_hook(lambda module, _inputs: see(caught.pop(), module)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _predicting(rollout: Rollout) -> slice:
    """The positions that predict the response's tokens."""
    first = len(rollout.prompt_ids) - 1
    return slice(first, first + len(rollout.response_ids))


def _mean_states(hidden_BTH: torch.Tensor, members: Sequence[Rollout]) -> np.ndarray:
    """[B, H]: means over the positions of the response's own tokens; 0 where there is none."""
    means = np.zeros((len(members), hidden_BTH.shape[2]))
    for row, rollout in enumerate(members):
        if rollout.response_ids:
            start = len(rollout.prompt_ids)
            states = hidden_BTH[row, start : start + len(rollout.response_ids)]
            means[row] = (states.float().sum(0).double() / len(rollout.response_ids)).cpu().numpy()
    return means


def _values_at(block: Block, position: int) -> np.ndarray:
    """[F_b]; 0 where the block (a mixture's expert) did not see the position."""
    rows = block.rows(position, position + 1)
    if rows.stop == rows.start:
        return np.zeros(block.width, dtype=np.float32)
    result: np.ndarray = block.values(rows)[0].float().cpu().numpy()
    return result


def _bias(head: nn.Module) -> torch.Tensor | None:
    return getattr(head, "bias", None)
