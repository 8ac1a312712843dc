"""Defaults, then a preset, then `key=value` overrides; unknown and ill-typed keys are refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nopsd.config.rules import validate
from nopsd.config.schema import Config
from nopsd.errors import ConfigError

PRESETS = Path(__file__).parents[1] / "presets"


def all_keys(node: DictConfig | None = None, prefix: str = "") -> list[str]:
    """Every dotted leaf key of the configuration."""
    node = OmegaConf.structured(Config) if node is None else node
    keys: list[str] = []
    for name in node:
        child = node._get_node(name)
        dotted = f"{prefix}{name}"
        keys += all_keys(child, dotted + ".") if isinstance(child, DictConfig) else [dotted]
    return keys


def _refuse_unknown(keys: Iterable[str], where: str) -> None:
    valid = all_keys()
    sections = {k.split(".")[0] for k in valid if "." in k}
    for key in keys:
        if key in valid or key in sections:
            continue
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
        near = near or [k for k in valid if k.split(".")[-1] == key.split(".")[-1]][:1]
        hint = f"; did you mean {near[0]}?" if near else "; `nopsd config` lists every key"
        raise ConfigError(f"{where}: unknown key {key}{hint}")


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix[:-1]]
    return [k for name, child in node.items() for k in _flat(child, f"{prefix}{name}.")]


def _merge(base: DictConfig, layer: DictConfig, where: str) -> DictConfig:
    plain = OmegaConf.to_container(layer)
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: the top level must be a mapping of keys")
    _refuse_unknown(_flat(plain), where)
    try:
        return OmegaConf.merge(base, layer)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(f"{where}: {key}: {str(error).splitlines()[0]}") from error


def preset_names() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def _preset_path(preset: str) -> Path:
    path = Path(preset)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"preset file {preset} does not exist")
        return path
    if preset not in preset_names():
        near = difflib.get_close_matches(preset, preset_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(preset_names())}"
        raise ConfigError(f"unknown preset {preset}; {hint}")
    return PRESETS / f"{preset}.yaml"


def load_config(preset: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """The validated configuration: defaults < preset < overrides. Raises ConfigError."""
    config = OmegaConf.structured(Config)
    if preset:
        path = _preset_path(preset)
        try:
            layer = OmegaConf.load(path)
        except Exception as error:  # yaml's errors share no base class with OmegaConf's
            raise ConfigError(f"{path}: not readable as YAML: {str(error).splitlines()[0]}") from error
        config = _merge(config, layer, str(path))  # type: ignore[arg-type]
    overrides = list(overrides)
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"override {item!r}: write key=value")
    config = _merge(config, OmegaConf.from_dotlist(overrides), "command line")
    typed: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    validate(typed)
    return typed


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def to_plain(config: Any) -> dict[str, Any]:
    """A config section (or the whole) as plain dictionaries and lists."""
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(plain, dict)
    return plain
