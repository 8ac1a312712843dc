"""Run by the interpreter that has triton: every kernel of the fused loss compiled for GPUs that need not be there.

python triton_compile.py IN.pt OUT.pt     in: compute capabilities (80); out: per kernel and capability its PTX's target
and the first bytes of what Triton's own ptxas makes of it

Logits are float32, as the loss gives them; a row is as long as Qwen3's vocabulary.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nopsd.train.losses import triton_kernel

CONSTANTS = {
    "INVERSE": 1 / 1.7,
    "BLOCK": triton_kernel.BLOCK,
    "LOG_BETA": math.log(0.3),
    "LOG_REST": math.log(0.7),
}
INTEGERS = ("stride", "teacher_stride", "size")


def kernels() -> dict[str, Any]:
    """Those that are launched: they take the logits of a student."""
    found = {name: value for name, value in vars(triton_kernel).items() if isinstance(value, triton.JITFunction)}
    return {name: value for name, value in found.items() if "student" in value.arg_names}


def compiled(kernel: Any, capability: int) -> tuple[str, bytes]:
    types = {name: "constexpr" if name in CONSTANTS else "*fp32" for name in kernel.arg_names}
    types |= {name: "i32" for name in INTEGERS if name in types}
    constants = {(place,): CONSTANTS[name] for place, name in enumerate(kernel.arg_names) if name in CONSTANTS}
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(
        ASTSource(kernel, types, constants), target=target, options={"num_warps": triton_kernel.WARPS}
    )
    (line,) = [line for line in made.asm["ptx"].splitlines() if line.startswith(".target")]
    return line.split()[1], made.asm["cubin"][:4]


def main() -> None:
    capabilities = torch.load(sys.argv[1], weights_only=True)
    found = {
        (name, capability): compiled(kernel, capability)
        for name, kernel in kernels().items()
        for capability in capabilities
    }
    torch.save(found, sys.argv[2])


if __name__ == "__main__":
    main()
