"""The Triton kernels against the torch path on the same tokens, under Triton's interpreter: no GPU is needed.

Triton is no dependency of a CPU install: it lies in the peers' environment (tests/setup_peers.sh). They show that the
formulas are right and that Triton compiles them for each kind of GPU; not how fast they are there.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nopsd.config import Config, DistillConfig
from nopsd.config.distill_rules import check_distill
from nopsd.errors import ConfigError
from nopsd.train.losses import full_support
from nopsd.train.losses.full_support import kernel_of
from tests.programs import run_peer

KINDS = [{"divergence": "reverse_kl"}, {"divergence": "forward_kl"}, {"divergence": "jsd", "beta": 0.3}]
CLIPS = {"token_clip": 8.0, "is_clip": 1.5, "mask_high_entropy": 5.0}
# keys, tokens, vocabulary, its padding, dtype: less than a block, just over one, odd sizes, no tokens
CASES: list[tuple[dict[str, Any], int, int, int, torch.dtype]] = [
    *(
        (kind | {"temperature": tau}, 7, size, pad, dtype)
        for kind in KINDS
        for tau in (1.0, 1.7)
        for size, pad, dtype in ((333, 0, torch.float64), (2049, 5, torch.float64), (4099, 3, torch.float32))
    ),
    *((kind | CLIPS, 6, 500, 12, torch.float64) for kind in KINDS),
    *((kind, 0, 100, 0, torch.float32) for kind in KINDS),
    *((kind, 2, 151_936, 0, torch.float64) for kind in KINDS),  # Qwen3's
]
CAPABILITIES = [80, 90, 100]  # A100, H100, B200
KERNELS = ["_sums", "_mixture_sums", "_reverse_gradient", "_forward_gradient", "_jsd_gradient"]


def given(n: int, size: int, pad: int, dtype: torch.dtype) -> dict[str, Any]:
    """Hidden states and weights of both sides; rows past `size` hold what must not count."""
    generator, h = torch.Generator().manual_seed(n + size), 6

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    weight, teacher_weight = draw(size + pad, h), draw(size + pad, h)
    weight[size:], teacher_weight[size:] = -torch.inf, 1e4
    hidden = draw(n, h)
    return {
        "hidden": hidden,
        "teacher": hidden + draw(n, h),
        "weight": weight,
        "teacher_weight": teacher_weight,
        "token_weight": torch.rand(n, generator=generator) + 0.1,
        "vocab_size": size,
        "target": torch.randint(size, (n,), generator=generator),
        "served": -5 - 5 * torch.rand(n, generator=generator),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    script = Path(__file__).with_name("triton_reference.py")
    cases = [(keys, given(*shape)) for keys, *shape in CASES]
    return list(run_peer("triton", script, cases, tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1"))


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{c[0]}-{c[1]}x{c[2]}+{c[3]}-{c[4]}" for c in CASES])
def test_loss_gradients_and_statistics_equal_the_torch_path(found: list[Any], case: int):
    """A wrong mask, sum or slope in a kernel would train another objective on GPUs than on CPUs."""
    by_torch, by_triton = found[case]["torch"], found[case]["triton"]
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if CASES[case][4] == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    assert CASES[case][1] == 0 or by_torch["loss"] > 0.01
    for name, wanted in by_torch.items():
        torch.testing.assert_close(by_triton[name], wanted, **tolerance, msg=lambda m, name=name: f"{name}: {m}")


def test_every_kernel_compiles_for_each_kind_of_gpu(tmp_path: Path) -> None:
    """What Triton or its ptxas refuses would end a run on that GPU at its first step."""
    script = Path(__file__).with_name("triton_compile.py")
    cache = str(tmp_path / "cache")  # else what an earlier version made would pass
    found = run_peer("triton", script, CAPABILITIES, tmp_path, TRITON_CACHE_DIR=cache)
    assert set(found) == {(kernel, capability) for kernel in KERNELS for capability in CAPABILITIES}
    for (_, capability), (target, binary) in found.items():
        assert target.startswith(f"sm_{capability}") and binary == b"\x7fELF"


@pytest.mark.parametrize(
    "keys",
    [
        {"support": "topk"},
        {"pointwise_clip": 0.1},
        {"target": "pmi"},
        {"contrast": "random_ctx"},
        {"kl_base_coef": 0.1},
        {"divergence": "sampled_rkl"},
    ],
    ids=str,
)
def test_an_objective_the_kernels_have_no_code_for_is_refused_by_name_and_falls_back_under_auto(keys: dict[str, Any]):
    """Named before anything is loaded; auto must not compute another objective instead."""
    for kernel in ("triton", "numba"):
        with pytest.raises(ConfigError, match=f"kernel={kernel} has no code for distill.{next(iter(keys))}="):
            check_distill(Config(distill=DistillConfig(kernel=kernel, **keys)))
    assert kernel_of(DistillConfig(**keys), torch.zeros(1), 1 << 40) is None


def test_auto_takes_triton_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pretended device. numba computes on CPUs alone, and torch's path reads the logits once for each sum."""
    like: Any = SimpleNamespace(is_cuda=True, device=torch.device("cuda"), dtype=torch.float32)
    monkeypatch.setattr(full_support, "find_spec", lambda name: object())
    for keys in KINDS:
        assert kernel_of(DistillConfig(**keys), like, 1 << 30) == "triton"
    assert kernel_of(DistillConfig(kernel="triton"), like, 1) == "triton"
    monkeypatch.setattr(full_support, "find_spec", lambda name: None)
    assert kernel_of(DistillConfig(), like, 1 << 30) == "torch"
    with pytest.raises(ConfigError, match="triton needs triton"):
        kernel_of(DistillConfig(kernel="triton"), like, 1)


def test_the_kernel_that_auto_takes(monkeypatch: pytest.MonkeyPatch):
    """Triton never off a GPU; compiling only where there is enough to compute; torch for what the CPU kernel lacks."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    like = torch.zeros(1)
    assert kernel_of(DistillConfig(), like, 1000) == "torch"
    assert kernel_of(DistillConfig(), like, 1 << 30) == "numba"
    assert kernel_of(DistillConfig(divergence="jsd"), like, 1 << 30) == "torch"
    assert kernel_of(DistillConfig(divergence="jsd", beta=1.0), like, 1 << 30) == "numba"
    assert kernel_of(DistillConfig(), like.double(), 1 << 30) == "torch"
    with pytest.raises(ConfigError, match="triton needs a GPU"):
        kernel_of(DistillConfig(kernel="triton"), like, 1)
    with pytest.raises(ConfigError, match=r"numba takes float32 on a CPU, and this is torch\.float64"):
        kernel_of(DistillConfig(kernel="numba"), like.double(), 1)
