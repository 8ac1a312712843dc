"""What a step used of the machine: the most memory of any rank, the GPUs' utilisation, the wait in the servers' queue.

memory/peak_gib     GiB that the fullest rank held at most in the step: PyTorch's on a GPU, the process's on a CPU
speed/mfu           floating-point operations of the student's model in the step over what the GPUs could do in
                    time/student in bfloat16 (PaLM's model FLOPs utilisation, arXiv 2204.02311: recomputed activations
                    don't count). Only on GPUs of a known peak, in bfloat16, and not of mixtures of experts
speed/queue_s       mean seconds that a request of the step waited at its server before it was computed
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nopsd.engine.distributed import Ranks
from nopsd.train.batches import Example

GIB = 2**30
# FLOP/s of dense bfloat16 products, from NVIDIA's data sheets, by what the device's name holds; the first that fits.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
BACKWARD = 3  # forward and backward cost three forwards
Queue = Callable[[], dict[str, tuple[float, float]]]  # by server: seconds waited and requests, since its start


class Usage:
    """Of one step after the other: `begin`, then `numbers`. Used by all ranks together."""

    def __init__(self, lm: Any, dtype: str, ranks: Ranks, queue: Queue | None = None) -> None:
        """`queue`: on rank 0, None where nothing is sampled."""
        self.ranks, self._queue = ranks, queue
        self._waited: dict[str, tuple[float, float]] = {}
        self.on_gpu = ranks.device.type == "cuda"
        self.peak = (
            peak_flops(torch.cuda.get_device_name(ranks.device)) if self.on_gpu and dtype == "bfloat16" else None
        )
        self.model = Arithmetic.of(lm) if self.peak else None

    def begin(self) -> None:
        """Before the step."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.ranks.device)
        else:
            with contextlib.suppress(OSError):  # where that is forbidden the peak is the process's own
                Path("/proc/self/clear_refs").write_text("5")
        if self._queue is not None:
            self._waited = self._queue()

    def numbers(self, examples: Sequence[Example], student_s: float) -> dict[str, float]:
        """Of the step. Collective.

        Args:
            examples: Of all ranks.
            student_s: Wall seconds of the student's forward and backward, and of the optimizer.
        """
        if self.on_gpu:
            own = float(torch.cuda.max_memory_allocated(self.ranks.device))
        else:
            peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            own = 1024.0 * int(peak[1]) if peak else 0.0
        used = torch.tensor([own], dtype=torch.float64, device=self.ranks.device)
        found = {"memory/peak_gib": float(self.ranks.all_max(used)) / GIB}
        if self.model is not None and self.peak and student_s > 0:
            lengths = [len(e.student_prompt) + len(e.response) for e in examples]
            done = BACKWARD * sum(map(self.model.forward, lengths))
            found["speed/mfu"] = done / (student_s * self.ranks.world * self.peak)
        if self._queue is not None:
            now = self._queue()
            both = [(now[url], self._waited[url]) for url in now.keys() & self._waited.keys()]
            requests = sum(after[1] - before[1] for after, before in both)
            if requests > 0:
                found["speed/queue_s"] = sum(after[0] - before[0] for after, before in both) / requests
        return found


def peak_flops(device: str) -> float | None:
    """A device's dense bfloat16 peak by its name; None if it isn't known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


class Arithmetic:
    """Floating-point operations of a model: 2 a weight that a token is multiplied by, and causal attention's."""

    def __init__(self, multiplied: int, layers: int, width: int) -> None:
        self.multiplied, self.layers, self.width = multiplied, layers, width

    @classmethod
    def of(cls, lm: Any) -> Arithmetic | None:
        """None for a mixture of experts, of whose weights a token meets a part."""
        config = lm.config.get_text_config()
        if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            return None
        sizes = {id(p): getattr(p, "ds_numel", p.numel()) for p in lm.parameters()}
        inputs, outputs = lm.get_input_embeddings(), lm.get_output_embeddings()
        tied = outputs is not None and inputs.weight is outputs.weight
        looked_up = 0 if tied else sizes[id(inputs.weight)]
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        return cls(sum(sizes.values()) - looked_up, config.num_hidden_layers, width)

    def forward(self, tokens: int) -> float:
        """Of one sequence; a causal position sees half of the sequence on average."""
        return 2.0 * self.multiplied * tokens + 2.0 * self.layers * self.width * tokens * tokens
