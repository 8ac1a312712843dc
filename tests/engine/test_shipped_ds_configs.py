"""Each file of ds_configs: strict JSON, keys that DeepSpeed knows, ZeRO-3, and a README that explains every key."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from deepspeed.runtime import constants
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig

FOLDER = Path(__file__).resolve().parents[2] / "ds_configs"
FILES = sorted(FOLDER.glob("*.json"))
NAMES = {
    "student_cpu",
    "student_gpu",
    "student_gpu_offload",
    "student_gpu_nvme",
    "student_gpu_hpz",
    "student_gpu_zeropp",
    "teacher_cpu",
    "teacher_gpu",
    "teacher_gpu_offload",
}
OFFLOADED = {"student_gpu_offload": "cpu", "student_gpu_nvme": "nvme"}  # optimizer states
WEIGHTS_OFFLOADED = {*OFFLOADED, "teacher_gpu_offload"}
HOST = {"zero_hpz_partition_size": 8, "nvme_path": "/nvme"}
FILLED_IN = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3, "gradient_clipping": 1.0}
TOP_LEVEL = {value for name, value in vars(constants).items() if name.isupper() and isinstance(value, str)} | {
    "zero_optimization",
    "bf16",
    "wall_clock_breakdown",
}


def load(path: Path) -> dict[str, Any]:
    """The file as strict JSON that names no key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), f"{path.name}: a key stands twice: {names}"
        return dict(pairs)

    return json.loads(path.read_text(), object_pairs_hook=once)


def model_keys(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def dotted(tree: dict[str, Any], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, value in tree.items():
        keys |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return keys


def test_every_named_file_is_there():
    assert {path.stem for path in FILES} == NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_keys_are_deepspeeds_own(path):
    """A misspelt key would be ignored by DeepSpeed, and its default used, without a word."""
    config = load(path)
    zero = config["zero_optimization"]
    assert set(config) <= TOP_LEVEL
    assert set(zero) <= model_keys(DeepSpeedZeroConfig)
    assert set(config.get("bf16", {})) <= model_keys(DeepSpeedBF16Config)
    assert set(config.get("data_types", {})) <= {constants.GRAD_ACCUM_DTYPE}
    assert set(zero.get("offload_optimizer", {})) <= model_keys(DeepSpeedZeroOffloadOptimizerConfig)
    assert set(zero.get("offload_param", {})) <= model_keys(DeepSpeedZeroOffloadParamConfig)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_deepspeed_reads_it_once_filled_in(path):
    """DeepSpeed's own reader accepts the file and finds in it what the file says."""
    config = {key: FILLED_IN[key] if value == "auto" else value for key, value in load(path).items()}
    if "bf16" in config:
        assert config["bf16"] == {"enabled": "auto"}
        config["bf16"] = {"enabled": True}
    for node in (zero := config["zero_optimization"], *(zero[k] for k in zero if k.startswith("offload_"))):
        node |= {key: HOST[key] for key, value in node.items() if value == "auto"}
    read = DeepSpeedConfig(config)
    assert read.zero_optimization_stage == 3
    assert read.train_micro_batch_size_per_gpu == 2
    assert read.bfloat16_config.enabled is ("gpu" in path.stem)
    assert read.zero_config.overlap_comm is config["zero_optimization"]["overlap_comm"]
    threshold = config["zero_optimization"]["stage3_param_persistence_threshold"]
    assert read.zero_config.param_persistence_threshold == threshold
    if path.stem.startswith("student"):
        assert (read.gradient_accumulation_steps, read.gradient_clipping) == (3, 1.0)
        assert read.zero_allow_untested_optimizer is True
    optimizer, weights = read.zero_config.offload_optimizer, read.zero_config.offload_param
    assert (optimizer.device if optimizer else None) == OFFLOADED.get(path.stem)
    assert (weights.device if weights else None) == ("cpu" if path.stem in WEIGHTS_OFFLOADED else None)
    assert read.zero_force_ds_cpu_optimizer is (path.stem not in OFFLOADED)
    assert (read.zero_config.zero_hpz_partition_size > 1) is (path.stem in ("student_gpu_hpz", "student_gpu_zeropp"))
    quantized = (read.zero_config.zero_quantized_weights, read.zero_config.zero_quantized_gradients)
    assert quantized == ((path.stem == "student_gpu_zeropp"),) * 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_optimizer_in_the_file(path):
    """An optimizer block would replace the AdamW that nopsd builds from train.*, or give a teacher one."""
    config = load(path)
    assert not {"optimizer", "scheduler"} & set(config)
    autos = {key for key, value in config.items() if value == "auto"}
    assert autos == (set(FILLED_IN) if path.stem.startswith("student") else {"train_micro_batch_size_per_gpu"})


@pytest.mark.parametrize("name", ["student_cpu", "teacher_cpu"])
def test_cpu_files_shard_a_small_model_for_real(name):
    """With DeepSpeed's default threshold every matrix of the lab's model would stay whole on every rank."""
    zero = load(FOLDER / f"{name}.json")["zero_optimization"]
    assert zero["stage3_param_persistence_threshold"] == 0
    assert zero["overlap_comm"] is False


def test_readme_explains_exactly_the_keys_in_use():
    keys = (FOLDER / "README.md").read_text().split("## Every key")[1]
    explained = set(re.findall(r"^\| `([a-z0-9_.]+)` \|", keys, re.M))
    used = set().union(*(dotted(load(path)) for path in FILES))
    assert explained == used
