"""DeepSpeed's JSON: read it, fill its "auto" values from the run's config, raise on contradictions.

In: a path, or null for `ds_configs/{role}_{cpu|gpu}.json` (beside the package in a checkout, inside it when
installed); the run's own values. Out: the dictionary for `deepspeed.initialize`. Keys that begin with "_" are
comments. A key that the run's config also sets may be "auto", absent, or equal to it; anything else is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nopsd
from nopsd.config import Config, DistConfig
from nopsd.errors import ConfigError

_PACKAGE = Path(nopsd.__file__).resolve().parent
FOLDERS = (_PACKAGE.parent / "ds_configs", _PACKAGE / "ds_configs")
_NAMES = {  # the main config's name of what DeepSpeed calls otherwise
    "train_micro_batch_size_per_gpu": "train.micro",
    "gradient_accumulation_steps": "nopsd, which counts each step's micro-batches itself,",
    "gradient_clipping": "train.clip",
    "bf16.enabled": "model.dtype",
    "fp16.enabled": "model.dtype",
    "zero_optimization.offload_optimizer.nvme_path": "dist.nvme_path",
    "zero_optimization.zero_hpz_partition_size": "dist.ranks, or the slots of dist.hostfile",
}
RANKS_OF_HOST = "NOPSD_RANKS_OF_HOST"  # set by a launch on several hosts
_OWN = ("gradient_accumulation_steps",)  # set by no key: the plan of each step decides it (nopsd.train.planning)


@dataclass(frozen=True)
class RunSettings:
    """The run's values that the JSON must agree with. `host` (from `host_values`) fills "auto" alone: the JSON may say
    otherwise."""

    micro_batch: int
    clip: float
    dtype: str
    accumulation: int = 1  # the training loop itself marks the last micro-batch of a step
    host: Mapping[str, Any] = field(default_factory=dict)


def load_ds_config(path: str | None, role: str, device: str, settings: RunSettings) -> dict[str, Any]:
    """The DeepSpeed configuration of a role, with every "auto" filled.

    Args:
        path: A DeepSpeed JSON; None: that of ds_configs for the device.
        role: `student` or `teacher`.
        device: `cpu` or `gpu`.
        settings: What "auto" is filled from.

    Raises:
        ConfigError: A key contradicts our own configuration, or the file can't be read; file and key are named.
    """
    file = _found(Path(path)) if path else _default_file(role, device)
    config: dict[str, Any] = _without_comments(_read(file))
    required: dict[str, Any] = {
        "bf16.enabled": settings.dtype == "bfloat16",
        "train_micro_batch_size_per_gpu": settings.micro_batch,
    }
    if role == "student":
        required |= {"gradient_accumulation_steps": settings.accumulation, "gradient_clipping": settings.clip}
    else:
        _refuse_training_keys(config, file)
    for key, value in required.items():
        _settle(config, key, value, file, required=True)
    _settle(config, "fp16.enabled", False, file, required=False)
    for key, value in settings.host.items():
        _fill_auto(config, key, value)
    _refuse_unfilled(config, file)
    _refuse_what_cannot_start(config, file, device)
    return config


def role_config(config: Config, role: str, device: str, ranks_of_host: int | None = None) -> dict[str, Any]:
    """The student's or the teacher's DeepSpeed configuration of a run on `cpu` or `gpu`, filled, or ConfigError.

    Args:
        ranks_of_host: how many ranks each host has; None in a rank, whose launcher says it.
    """
    path = config.dist.student_config if role == "student" else config.dist.teacher_config
    train, host = config.train, host_values(config.dist, ranks_of_host)
    return load_ds_config(path, role, device, RunSettings(train.micro, train.clip, config.model.dtype, host=host))


def role_configs(
    config: Config, device: str, ranks_of_host: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The student's and the teacher's."""
    return role_config(config, "student", device, ranks_of_host), role_config(config, "teacher", device, ranks_of_host)


def host_values(config: DistConfig, ranks_of_host: int | None = None) -> dict[str, Any]:
    """What a DeepSpeed JSON leaves "auto" because it is the host's: its NVMe folder, how many ranks it runs.

    A launched rank reads how many from RANKS_OF_HOST, which our launch sets on all hosts alike, or from DeepSpeed's
    own LOCAL_SIZE.
    """
    stated = os.environ.get(RANKS_OF_HOST) or os.environ.get("LOCAL_SIZE") or config.ranks
    values: dict[str, Any] = {"zero_optimization.zero_hpz_partition_size": ranks_of_host or int(stated)}
    if config.nvme_path:
        values["zero_optimization.offload_optimizer.nvme_path"] = config.nvme_path
    return values


def built_operator(ds_config: Mapping[str, Any]) -> str | None:
    """The setting, if one has DeepSpeed compile an operator for the GPU at first use."""
    zero = ds_config.get("zero_optimization", {})
    if zero.get("offload_optimizer", {}).get("device") == "nvme":
        return "offload_optimizer.device=nvme"
    return next((key for key, value in zero.items() if key.startswith("zero_quantized_") and value), None)


def zero_stage(ds_config: Mapping[str, Any]) -> int:
    """The ZeRO stage a configuration asks for; 0 without one."""
    return int(ds_config.get("zero_optimization", {}).get("stage", 0))


def _found(path: Path) -> Path:
    """The file as it is given; if there is none and it reads ds_configs/NAME, the one of that name that we ship."""
    shipped = [folder / path.name for folder in FOLDERS if path.parent.name == "ds_configs"]
    return next((file for file in [path, *shipped] if file.is_file()), path)


def _default_file(role: str, device: str) -> Path:
    if role not in ("student", "teacher"):
        raise ValueError(f"role {role!r}: use 'student' or 'teacher'")
    name = f"{role}_{'cpu' if device == 'cpu' else 'gpu'}.json"
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"ds_configs/{name} is neither in {FOLDERS[0]} nor in {FOLDERS[1]}: reinstall nopsd")


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"DeepSpeed configuration {file} does not exist: correct dist.student_config or dist.teacher_config"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}: line {error.lineno} is not JSON ({error.msg})") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: the top level must be an object")
    return config


def _without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_comments(v) for k, v in value.items() if not k.startswith("_")}
    return value


def _refuse_training_keys(config: dict[str, Any], file: Path) -> None:
    for key in ("optimizer", "scheduler"):
        if key in config:
            raise ConfigError(f"{file}: {key}: a frozen teacher has none; remove the key")
    for key in ("gradient_accumulation_steps", "gradient_clipping"):
        if config.get(key) == "auto":
            del config[key]


def _settle(config: dict[str, Any], key: str, value: Any, file: Path, required: bool) -> None:
    """Put `value` where the key is "auto" (or absent and required); refuse another stated value."""
    *parents, leaf = key.split(".")
    node = config
    for name in parents:
        if name not in node and not required:
            return
        node = node.setdefault(name, {})
    if leaf not in node and not required:
        return
    present = node.get(leaf, "auto")
    if present != "auto" and present != value:
        remedy = "" if key in _OWN else f", or change {_NAMES.get(key, 'the main config')}"
        raise ConfigError(
            f"{file}: {key}={present} contradicts the main config ({_NAMES.get(key, key)} gives {value}): "
            f'write "auto" there{remedy}'
        )
    node[leaf] = value


def _fill_auto(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node = config
    for name in parents:
        node = node.get(name, {})
    if node.get(leaf) == "auto":
        node[leaf] = value


def _refuse_unfilled(config: Mapping[str, Any], file: Path, prefix: str = "") -> None:
    for key, value in config.items():
        if isinstance(value, dict):
            _refuse_unfilled(value, file, f"{prefix}{key}.")
        elif value == "auto":
            source = _NAMES.get(f"{prefix}{key}")
            remedy = f"set {source}, or state a value" if source else "state a value"
            raise ConfigError(f'{file}: {prefix}{key}="auto" has nothing to fill it from: {remedy}')


def _refuse_what_cannot_start(config: Mapping[str, Any], file: Path, device: str) -> None:
    """DeepSpeed itself would fail later, while the model's weights are read, and with a less helpful message."""
    zero = config.get("zero_optimization", {})
    for key, value in zero.items():
        if device == "cpu" and key.startswith("zero_quantized_") and value:
            where = f"{file}: zero_optimization.{key}"
            raise ConfigError(f"{where}: DeepSpeed's quantizer runs on GPUs alone: set it to false")
    if zero.get("offload_param", {}).get("device") == "nvme":
        raise ConfigError(f"{file}: zero_optimization.offload_param.device=nvme: nopsd reads shards itself: use cpu")
    if zero.get("offload_optimizer", {}).get("device") == "nvme":
        folder = Path(zero["offload_optimizer"].get("nvme_path") or "")
        _check_nvme(folder, f"{file}: zero_optimization.offload_optimizer")


def _check_nvme(folder: Path, where: str) -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not folder.is_absolute() or not folder.is_dir():
        raise ConfigError(f"{where}.nvme_path={folder} is no absolute path of a folder: set dist.nvme_path")
    if not AsyncIOBuilder().is_compatible():
        raise ConfigError(f"{where}.device=nvme needs libaio and its headers: install libaio-dev, or use device=cpu")
