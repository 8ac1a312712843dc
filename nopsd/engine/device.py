"""The device that this machine computes on."""

from __future__ import annotations

import os


def device() -> str:
    """`cuda` where PyTorch sees a GPU and nobody asked for the CPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu" else "cpu"
