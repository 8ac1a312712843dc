"""bfloat16 end to end: served, trained and teacher's log-probs are as near to float32 as plain transformers' are.

If this fails, something is rounded that transformers and vLLM don't round (RoPE's frequencies were), and far positions
learn from noise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nopsd.cluster.servers.local import start_server
from nopsd.config import DataConfig, PromptConfig, ServerConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.sources import load_splits
from nopsd.rollout.logprob_gap import bound_of, gap_of

HERE = Path(__file__).parent
POSITIONS = 3_000
NOT_WORSE = 1.2  # times plain transformers' own mean gap


def load_policies() -> ModuleType:
    spec = importlib.util.spec_from_file_location("policies", HERE.parent / "rollout" / "policies.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


policies = load_policies()


def long_samples(folder: Path, model: Any, data: DataConfig, count: int, tokens: int) -> Any:
    """Samples that end at position 3,000, after a row of other questions' prompts."""
    renderer = PromptRenderer(load_tokenizer(folder), PromptConfig(enable_thinking=False))
    prompts = [renderer.student(q) for q in load_splits(data).pool[:200]]
    rows = [sum(prompts[7 * i :], [])[: POSITIONS - tokens] for i in range(count)]
    return policies.sample(model, rows, tokens)


def of_engines(folder: Path, samples: Any, out: Path) -> dict[str, Tensor]:
    pairs = [(s[:n].tolist(), s[n:].tolist()) for s, n in zip(samples.sequences, samples.lengths)]
    torch.save(pairs, out / "samples.pt")
    job = {"model": str(folder), "samples": str(out / "samples.pt"), "out": str(out / "found.pt")}
    (out / "job.json").write_text(json.dumps(job))
    launch = HERE.parent / "engine" / "worker_ranks.py"
    command = [sys.executable, "-W", "ignore", launch, HERE / "worker_bf16.py", out / "job.json", "1"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    found: dict[str, Tensor] = torch.load(out / "found.pt", weights_only=True)
    return found


def of_server(folder: Path, samples: Any, out: Path, head: str | None) -> Tensor:
    server = ServerConfig(max_model_len=POSITIONS + 8, max_num_seqs=4, kv_cache_mib=512, head_dtype=head)
    with start_server(server, str(folder), "bfloat16", out / "server.log") as running, running.client() as client:
        sequences = zip(samples.sequences, samples.lengths)
        prompts, responses = zip(*((s[:n].tolist(), s[n:].tolist()) for s, n in sequences))
        return torch.tensor([value for row in client.score(list(prompts), list(responses)) for value in row])


def gaps(
    folder: Path, data: DataConfig, out: Path, count: int, tokens: int, float32_head: bool = False
) -> dict[str, Tensor]:
    """|Δ log p| of each role, and of plain transformers in bfloat16, against float32."""
    exact = policies.load(folder, "float32")
    samples = long_samples(folder, exact, data, count, tokens)
    truth = samples.logprobs(exact)
    plain = samples.logprobs(policies.load(folder, "bfloat16"), "server")
    found = of_engines(folder, samples, out)
    found["served"] = of_server(folder, samples, out, None)
    if float32_head:
        found["served, float32 head"] = of_server(folder, samples, out, "float32")
    sound = gap_of(found["served"], found["student"])
    assert not bound_of(("bfloat16",), exact.config.num_hidden_layers).passed_by(sound), sound
    return {"plain": plain - truth, **{role: own - truth for role, own in found.items()}}


def check(found: dict[str, Tensor]) -> None:
    means = {role: float(gap.abs().mean()) for role, gap in found.items()}
    print({role: (round(mean, 5), round(float(found[role].abs().max()), 3)) for role, mean in means.items()})
    assert means["plain"] > 1e-4  # bfloat16 at all
    assert all(mean <= NOT_WORSE * means["plain"] for mean in means.values()), means


@pytest.mark.engine
@pytest.mark.slow
def test_the_lab_models_roles_in_bfloat16_are_as_near_to_float32_as_transformers(
    lab_model_dir: Path, tmp_path: Path
) -> None:
    check(gaps(lab_model_dir, DataConfig(), tmp_path, count=4, tokens=200))


@pytest.mark.engine
@pytest.mark.soak
def test_a_real_models_roles_too(shared_data: Path, tmp_path: Path) -> None:
    """NOPSD_REAL_MODEL: a folder with SmolLM2-135M-Instruct or another small model of a window of 3,000 or more."""
    folder = os.environ.get("NOPSD_REAL_MODEL")
    if not folder:
        pytest.skip("NOPSD_REAL_MODEL names no model folder")
    data = DataConfig(name="sciknoweval", path=str(shared_data / "sciknoweval_biology_mcq4.jsonl.gz"), domain="Biology")
    check(gaps(Path(folder), data, tmp_path, count=4, tokens=128, float32_head=True))
