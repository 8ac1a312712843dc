"""Defaults, a method's settings, a preset, `key=value` overrides; unknown and ill-typed keys are refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nopsd.config.method_rules import is_foreign
from nopsd.config.methods import METHODS
from nopsd.config.rules import validate
from nopsd.config.schema import Config
from nopsd.errors import ConfigError
from nopsd.files import flatten

PRESETS = Path(__file__).parent / "presets"
COMMAND_LINE = "command line"
BASE = "base"  # of a preset: the preset that it starts from
INSTEAD = {"steps": "epochs", "warmup": "warmup_ratio"}  # of `train`: one given later puts the other out of force
SEEDS = ("train.seed", "select.seed", "context.seed", "eval.seed")
FOLLOWS_SEED = "${seed}"
Layer = tuple[DictConfig, str]  # settings, and where they stand


def all_keys(node: DictConfig | None = None, prefix: str = "") -> list[str]:
    """Every dotted leaf key of the configuration."""
    node = OmegaConf.structured(Config) if node is None else node
    keys: list[str] = []
    for name in node:
        child = node._get_node(name)
        dotted = f"{prefix}{name}"
        keys += all_keys(child, dotted + ".") if isinstance(child, DictConfig) else [dotted]
    return keys


def _default_config() -> DictConfig:
    """The schema's defaults; a section's seed is the run's unless it is set."""
    config = OmegaConf.structured(Config)
    for key in SEEDS:
        OmegaConf.update(config, key, FOLLOWS_SEED)
    return config


@cache
def _defaults() -> dict[str, Any]:
    return _values(_default_config())


def _refuse_unknown(keys: Iterable[str], where: str) -> None:
    valid = list(_defaults())
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
    given = plain.get("train") or {}
    try:
        merged: DictConfig = OmegaConf.merge(base, layer)  # type: ignore[assignment]
        for count, ratio in INSTEAD.items():
            if count in given and ratio not in given:
                merged.train[ratio] = None
        return merged
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(f"{where}: {key}: {str(error).splitlines()[0]}") from error


def preset_names() -> list[str]:
    """Names for --preset: those of nopsd/config/presets, and paper/NAME."""
    named = [*PRESETS.glob("*.yaml"), *PRESETS.glob("paper/*.yaml")]
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in named)


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


def _read_yaml(path: Path) -> DictConfig:
    try:
        return OmegaConf.load(path)  # type: ignore[return-value]
    except Exception as error:  # yaml's errors share no base class with OmegaConf's
        raise ConfigError(f"{path}: not readable as YAML: {str(error).splitlines()[0]}") from error


def _preset_layer(preset: str) -> Layer:
    """A preset's settings over those of its `base:`, of that one's base, and so on. ConfigError for a circle."""
    path = _preset_path(preset)
    layer, seen = _read_preset(path), [path]
    while (base := layer.pop(BASE, None)) is not None:
        try:
            path = _preset_path(str(base) if str(base) in preset_names() else str(seen[-1].parent / str(base)))
        except ConfigError as error:
            raise ConfigError(f"{seen[-1]}: {BASE}: {base}: {error}") from error
        if path in seen:
            raise ConfigError(
                f"{seen[-1]}: {BASE}: {base} is based on this preset itself: {' > '.join(map(str, seen))}"
            )
        seen.append(path)
        layer = _over(_read_preset(path), layer)
    return layer, str(seen[0])


def _read_preset(path: Path) -> DictConfig:
    layer = _read_yaml(path)
    plain = OmegaConf.to_container(layer)
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of keys")
    _refuse_unknown(_flat({key: value for key, value in plain.items() if key != BASE}), str(path))
    return layer


def _over(base: DictConfig, layer: DictConfig) -> DictConfig:
    """`layer` over `base`; a count that `layer` sets puts the base's share of the same out of force."""
    given = layer.get("train") or {}
    for count, ratio in INSTEAD.items():
        if count in given and ratio not in given and "train" in base:
            base.train.pop(ratio, None)
    merged: DictConfig = OmegaConf.merge(base, layer)  # type: ignore[assignment]
    return merged


def _with_method(layers: list[Layer]) -> tuple[str, list[Layer]]:
    """The method that the layers name last, and the layers with what it sets among them: first, or behind the last
    one that names another method, for that was written for the other."""
    names = [_named(layer) for layer, _ in layers]
    method = next((name for name in reversed(names) if name is not None), Config.method)
    path = PRESETS / "method" / f"{method}.yaml"
    if not path.is_file():  # an unknown method: `validate` refuses it
        return method, layers
    others = [place for place, name in enumerate(names) if name not in (None, method)]
    first = others[-1] + 1 if others else 0
    return method, [*layers[:first], (_read_yaml(path), str(path)), *layers[first:]]


def _named(layer: DictConfig) -> str | None:
    return str(layer["method"]) if isinstance(layer, DictConfig) and "method" in layer else None


def _without_foreign(config: DictConfig, method: str, layers: list[Layer]) -> DictConfig:
    """Keys that mean nothing to the method at their defaults, where a preset that doesn't name the method set them;
    ConfigError if one that does, or the command line, did."""
    if method not in METHODS:
        return config
    set_by = {
        key: where
        for layer, where in layers
        if where == COMMAND_LINE or _named(layer) == method
        for key in _flat(OmegaConf.to_container(layer))
    }
    default = _defaults()
    for key, value in _values(config).items():
        if value == default[key] or not is_foreign(method, key):
            continue
        if key in set_by:
            raise ConfigError(
                f"{set_by[key]}: {key}={value} has no meaning for method={method} ({METHODS[method].does}): "
                "leave it out"
            )
        OmegaConf.update(config, key, default[key])
    return config


def _values(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return flatten({str(name): value for name, value in plain.items()})


def load_config(preset: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """The validated configuration: defaults < the method's own settings < preset < overrides; a preset that names
    another method comes before the method's settings. Raises ConfigError."""
    layers: list[Layer] = [_preset_layer(preset)] if preset else []
    overrides = list(overrides)
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"override {item!r}: write key=value")
    layers.append((OmegaConf.from_dotlist(overrides), COMMAND_LINE))
    method, ordered = _with_method(layers)
    config = _default_config()
    for layer, where in ordered:
        config = _merge(config, layer, where)
    typed: Config = OmegaConf.to_object(_without_foreign(config, method, layers))  # type: ignore[assignment]
    validate(typed)
    return typed


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `load_config` reads. A section's seed that is the run's follows it there too, so
    that `seed=` on top of a saved configuration means the same as without one."""
    structured = OmegaConf.structured(config)
    for key in SEEDS:
        if OmegaConf.select(structured, key) == config.seed:
            OmegaConf.update(structured, key, FOLLOWS_SEED)
    return OmegaConf.to_yaml(structured)


def to_plain(config: Any) -> dict[str, Any]:
    """A config section (or the whole) as plain dictionaries and lists."""
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(plain, dict)
    return plain
