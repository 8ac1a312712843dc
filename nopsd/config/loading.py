"""Loading and saving of a configuration: defaults, a method's settings, a preset, `key=value` overrides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nopsd.config.methods import METHODS, is_foreign
from nopsd.config.preset import PRESETS, Layer, preset_layers, read_layer, refuse_unknown
from nopsd.config.rules import validate
from nopsd.config.schema import RUNTIME_ONLY, Config, all_keys
from nopsd.errors import ConfigError

COMMAND_LINE = "command line"
# Keys of `train` that say one thing in two ways: the one set later counts.
REPLACES = {"steps": "epochs", "warmup": "warmup_ratio"}


def load_config(preset: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """The validated configuration. Later ones win: defaults, the method's own settings, preset, overrides.

    A preset that is for another method comes before the method's settings. A section's seed that nobody sets is `seed`.
    Raises ConfigError.
    """
    layers = preset_layers(preset) if preset else []
    layers.append(_command_line(list(overrides)))
    method, ordered = _with_method(layers)
    config = _defaults()
    for layer in ordered:
        config = _merge(config, layer)
    _reset_foreign(config, method, layers)
    loaded: Config = OmegaConf.to_object(config)
    validate(loaded)
    return loaded


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `load_config` reads.

    A section's seed that equals `seed` is written as following it, so that `seed=` on top of a saved configuration
    means the same as without one.
    """
    structured = OmegaConf.structured(config)
    for key in all_keys():
        if key.follows and OmegaConf.select(structured, key.name) == OmegaConf.select(structured, key.follows):
            OmegaConf.update(structured, key.name, key.default)
    return str(OmegaConf.to_yaml(structured))


def to_plain(config: Any) -> dict[str, Any]:
    """A config section (or the whole) as plain dictionaries and lists."""
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def shaping(config: Config, section: str) -> dict[str, Any]:
    """A section's plain values, less its runtime-only keys: those that results depend on."""
    values = to_plain(getattr(config, section))
    return {name: value for name, value in values.items() if f"{section}.{name}" not in RUNTIME_ONLY}


def shaping_keys(section: str) -> tuple[str, ...]:
    """The dotted keys of a section that results depend on."""
    return tuple(f"{section}.{name}" for name in shaping(Config(), section))


def _command_line(overrides: list[str]) -> Layer:
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"override {item!r}: write key=value")
    layer = Layer(OmegaConf.from_dotlist(overrides), COMMAND_LINE)
    refuse_unknown(layer)
    return layer


def _defaults() -> DictConfig:
    config = OmegaConf.structured(Config)
    for key in all_keys():
        if key.follows:
            OmegaConf.update(config, key.name, key.default)
    return config


def _with_method(layers: list[Layer]) -> tuple[str, list[Layer]]:
    """The method that the layers name last, and the layers with its settings among them.

    Its settings come first, or after the last layer that is for another method.
    """
    names = [layer.method for layer in layers]
    method = next((name for name in reversed(names) if name is not None), Config.method)
    path = PRESETS / "method" / f"{method}.yaml"
    if not path.is_file():  # an unknown method: `validate` refuses it
        return method, layers
    others = [place for place, name in enumerate(names) if name not in (None, method)]
    first = others[-1] + 1 if others else 0
    return method, [*layers[:first], read_layer(path), *layers[first:]]


def _merge(config: DictConfig, layer: Layer) -> DictConfig:
    try:
        merged: DictConfig = OmegaConf.merge(config, layer.settings)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(f"{layer.where}: {key}: {str(error).splitlines()[0]}") from error
    given = layer.settings.get("train") or {}
    for count, share in REPLACES.items():
        if count in given and share not in given:
            merged.train[share] = None
    return merged


def _reset_foreign(config: DictConfig, method: str, layers: list[Layer]) -> None:
    """Keys that mean nothing to the method back to their defaults, where a preset for another method set them.

    ConfigError if a preset for this method, or the command line, set one.
    """
    if method not in METHODS:
        return
    set_by = {
        name: layer.where
        for layer in layers
        if layer.where == COMMAND_LINE or layer.method == method
        for name in layer.keys
    }
    for key in all_keys():
        value = OmegaConf.select(config, key.name)
        if value == key.default or not is_foreign(method, key.name):
            continue
        if key.name in set_by:
            raise ConfigError(
                f"{set_by[key.name]}: {key.name}={value} has no meaning for method={method} "
                f"({METHODS[method].does}): leave it out"
            )
        OmegaConf.update(config, key.name, key.default)
