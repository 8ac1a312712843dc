"""Collectives that count what they send, so that an exchange's size can be compared with its formula.

In: `Ranks`. Out: `CountingRanks`, usable in their place; `Traffic` holds the bytes that this rank has contributed to
collectives, under the names that callers give them. A group of one sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nopsd.engine.distributed import Ranks


@dataclass
class Traffic:
    """Bytes this rank has contributed, by the exchange's name."""

    sent: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, size: int) -> None:
        self.sent[name] = self.sent.get(name, 0) + size


@dataclass(frozen=True)
class CountingRanks(Ranks):
    """`Ranks` whose tensor collectives add to `traffic` under `name`."""

    traffic: Traffic = field(default_factory=Traffic)
    name: str = "other"

    @classmethod
    def over(cls, ranks: Ranks, traffic: Traffic) -> CountingRanks:
        return cls(ranks.rank, ranks.world, ranks.device, traffic)

    def named(self, name: str) -> CountingRanks:
        """The same group and counter, counting under this name."""
        return replace(self, name=name)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._count(tensor)
        return super().gather(tensor)

    def _all_reduce(self, tensor: torch.Tensor, op: Any) -> torch.Tensor:
        self._count(tensor)
        return super()._all_reduce(tensor, op)

    def _count(self, tensor: torch.Tensor) -> None:
        if self.world > 1:
            self.traffic.add(self.name, tensor.numel() * tensor.element_size())
