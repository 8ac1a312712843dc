"""Every means of saving memory is started on 2 real ranks and trains as the plain run does, or says why it can't."""

import json
from pathlib import Path

import pytest
import torch

from nopsd.config import DistConfig
from nopsd.engine.ds_config import FOLDERS, RunSettings, host_values, load_ds_config
from nopsd.errors import ConfigError
from tests.models import save_small

HERE = Path(__file__).parent
# The JSON file, keys of `train`, and how many ranks share a sequence. hpz last: its group stays for the process.
CASES = {
    "plain": ["student_cpu.json", {}],
    "padded_long": ["student_cpu.json", {"packing": False, "gradient_checkpointing": True, "mlp_tile": 8}, 2],
    "checkpointed": ["student_cpu.json", {"gradient_checkpointing": True}],
    "tiled": ["student_cpu.json", {"mlp_tile": 8}],
    "ulysses": ["student_cpu.json", {}, 2],
    "long": ["student_cpu.json", {"gradient_checkpointing": True, "mlp_tile": 8}, 2],
    "lora": ["student_cpu.json", {"lora": {"r": 2}}],
    "lora_long": ["student_cpu.json", {"lora": {"r": 2}, "gradient_checkpointing": True, "mlp_tile": 8}, 2],
    "gpu": ["student_gpu.json", {}],
    "offload": ["student_gpu_offload.json", {}],
    "hpz": ["student_gpu_hpz.json", {}],
}
TEACHERS = {
    "teacher_cpu": "teacher_cpu.json",
    "teacher_gpu": "teacher_gpu.json",
    "teacher_offload": "teacher_gpu_offload.json",
}
SAME_ARITHMETIC = ("checkpointed", "gpu", "offload", "hpz")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("model"))


def start(run_ranks, cases, model, out, teachers=()):
    """What each case left on rank 0 of 2."""
    (out / "nvme").mkdir()
    job = {"model": str(model), "out": str(out), "nvme": str(out / "nvme"), "cases": cases, "teachers": dict(teachers)}
    run_ranks(HERE / "worker_presets.py", job, 2, timeout=900)
    return {case: torch.load(out / f"{case}-2.pt", weights_only=True) for case in (*cases, *dict(teachers))}


@pytest.fixture(scope="module")
def started(model, tmp_path_factory, run_ranks):
    return start(run_ranks, CASES, model, tmp_path_factory.mktemp("presets"), TEACHERS)


def reference(model):
    """Losses of two AdamW steps and the first gradient, in float64 on the whole model: no DeepSpeed, no shards."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-2, weight_decay=0.0)
    generator, losses, gradients = torch.Generator().manual_seed(3), [], {}
    batches = [torch.randint(1, 300, (2, length), generator=generator) for length in (13, 7, 21, 10)]
    for _ in range(2):
        total = torch.zeros((), dtype=torch.float64)
        for ids in batches:
            logits = lm(input_ids=ids, use_cache=False).logits[:, :-1]
            for row, targets in zip(logits, ids[:, 1:]):
                total = total - sum(row.log_softmax(-1)[i, token] for i, token in enumerate(targets))
        (total / 51).backward()
        gradients = gradients or {n: p.grad.clone() for n, p in lm.named_parameters()}
        losses.append(float(total.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses, gradients


@pytest.mark.engine
def test_the_plain_run_is_right(started, model):
    """All else is compared with it."""
    losses, gradients = reference(model)
    assert started["plain"]["losses"] == pytest.approx(losses, rel=1e-5)
    for name, gradient in started["plain"]["gradients"].items():
        torch.testing.assert_close(gradient.double(), gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.engine
@pytest.mark.parametrize("case", [name for name in CASES if name not in ("plain", "lora")])
def test_it_trains_as_the_plain_run(started, case):
    """Saving memory must not change what is learnt. Equal bits where the arithmetic is the same."""
    found, plain = started[case], started["lora" if case.startswith("lora") else "plain"]
    assert found["sharded"]
    exact = {"rtol": 0.0, "atol": 0.0} if case in SAME_ARITHMETIC else {"rtol": 1e-4, "atol": 1e-6}
    assert found["losses"] == pytest.approx(plain["losses"], rel=0 if case in SAME_ARITHMETIC else 1e-5)
    assert found["gradients"].keys() == plain["gradients"].keys()
    assert len(plain["gradients"]) == (2 * 14 if case.startswith("lora") else 24)  # A and B of 14 layers; all weights
    for name, gradient in plain["gradients"].items():
        torch.testing.assert_close(found["gradients"][name], gradient, **exact, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.engine
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_frozen_model_computes_the_same_under_each_file(started, model, teacher):
    """Where its weights rest can't be seen on a CPU; that the files start, and shard, can."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        logits = torch.cat([lm(input_ids=ids[None]).logits for ids in torch.arange(1, 20).split((12, 7))], 1)
    found = started[teacher]
    torch.testing.assert_close(found["logits"], logits, rtol=0, atol=1e-5)
    assert torch.equal(found["logits"], started["teacher_cpu"]["logits"]) and found["sharded"]


@pytest.mark.engine
def test_each_means_was_really_at_work(started):
    """A key that does nothing would pass every comparison above."""
    calls = {case: started[case]["calls"] for case in CASES}  # of one MLP's first layer on rank 0
    assert calls["plain"] == 2 + 1  # micro-batches of the first step and of the second
    assert calls["checkpointed"] == 2 * calls["plain"]
    tiles = 4 + 6 + 9  # of 26, 42 and 68 rows, at 8 a tile; the other rank has fewer rows and as many tiles
    assert calls["tiled"] == 2 * tiles  # and again in the backward
    assert calls["ulysses"] == 4 + 1  # every rank works on all four batches
    assert calls["long"] == calls["lora_long"] == 3 * (2 + 1 + 3 + 2 + 7)  # rows 13, 7, 21, 10; 51 of all
    assert calls["padded_long"] == 2 * 3 * (2 + 1 + 3 + 2)  # rows 14, 8, 22, 10
    assert started["offload"]["resting"] == ["not-nvme"]
    assert [case for case in CASES if started[case]["secondary"]] == ["hpz"]


@pytest.mark.engine
@pytest.mark.skipif(not torch.cuda.is_available(), reason="DeepSpeed's ZeRO++ quantizer is a CUDA kernel")
def test_quantised_zeropp_trains_about_as_the_plain_run(model, tmp_path, run_ranks):
    """Rounded to 8 and 4 bits, so near, not equal."""
    found = start(run_ranks, {"plain": CASES["plain"], "zeropp": ["student_gpu_zeropp.json", {}]}, model, tmp_path)
    assert found["zeropp"]["losses"] == pytest.approx(found["plain"]["losses"], rel=0.05)


def can_swap():
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return AsyncIOBuilder().is_compatible(verbose=False)


@pytest.mark.engine
@pytest.mark.soak
@pytest.mark.skipif(not can_swap(), reason="DeepSpeed's async_io needs libaio-dev, which this machine lacks")
def test_nvme_trains_as_the_plain_run(tmp_path, run_ranks):
    """Soak for the minutes that g++ takes over async_io. DeepSpeed swaps tensors from 1 MiB on: hence the size."""
    model = save_small(tmp_path / "model", vocab_size=4200, hidden_size=128)
    found = start(run_ranks, {"plain": CASES["plain"], "nvme": ["student_gpu_nvme.json", {}]}, model, tmp_path)
    plain, nvme = found["plain"], found["nvme"]
    assert nvme["losses"] == plain["losses"]
    assert all(torch.equal(nvme["gradients"][name], gradient) for name, gradient in plain["gradients"].items())
    assert list((tmp_path / "nvme").rglob("optimizer/rank*/*.swp"))


def test_weights_on_nvme_are_refused(tmp_path):
    """A swapped-out shard is an empty float16 tensor: what nopsd reads of it would be nothing."""
    zero = {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": str(tmp_path)}}
    (tmp_path / "own.json").write_text(json.dumps({"zero_optimization": zero}))
    with pytest.raises(ConfigError, match=r"own.json: zero_optimization.offload_param.device=nvme.*use cpu"):
        load_ds_config(str(tmp_path / "own.json"), "student", "gpu", RunSettings(1, 1.0, "float32"))


def preset(name, device="gpu", **dist):
    settings = RunSettings(1, 1.0, "float32", host=host_values(DistConfig(**dist)))
    return load_ds_config(str(FOLDERS[0] / name), "student", device, settings)


def test_what_the_host_must_say_is_filled_or_asked_for(tmp_path, monkeypatch):
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self, verbose=False: True)
    zero = preset("student_gpu_nvme.json", nvme_path=str(tmp_path))["zero_optimization"]
    assert zero["offload_optimizer"]["nvme_path"] == str(tmp_path)
    assert preset("student_gpu_zeropp.json", ranks=4)["zero_optimization"]["zero_hpz_partition_size"] == 4
    with pytest.raises(ConfigError, match=r"student_gpu_nvme.json.*nvme_path.*set dist.nvme_path"):
        preset("student_gpu_nvme.json")
    with pytest.raises(ConfigError, match=r"nvme_path=.*/absent is no absolute path of a folder"):
        preset("student_gpu_nvme.json", nvme_path=str(tmp_path / "absent"))


def test_what_cannot_start_here_is_refused_before_the_model_is_read(tmp_path, monkeypatch):
    """DeepSpeed fails later, naming neither key nor remedy."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    with pytest.raises(ConfigError, match=r"zero_quantized_weights: DeepSpeed's quantizer runs on GPUs alone"):
        preset("student_gpu_zeropp.json", device="cpu")
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self, verbose=False: False)
    with pytest.raises(ConfigError, match=r"device=nvme needs libaio"):
        preset("student_gpu_nvme.json", nvme_path=str(tmp_path))
