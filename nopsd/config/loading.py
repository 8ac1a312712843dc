"""Loading and saving of a configuration: defaults, a method's settings, a preset, `key=value` overrides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import yaml

from nopsd.config.methods import METHODS, is_foreign
from nopsd.config.preset import PRESETS, Layer, preset_layers, read_layer, refuse_unknown, settings_in
from nopsd.config.rules import validate, value_of
from nopsd.config.schema import RUNTIME_ONLY, Config, all_keys
from nopsd.config.values import Plain, Reference, escaped, from_command_line, has_reference, parse, resolved
from nopsd.errors import ConfigError
from nopsd.gpus import visible_gpus

COMMAND_LINE = "command line"
KEYS = {key.name: key for key in all_keys()}
CPU_RANKS = 2  # so that the lab shards over ranks everywhere
# Keys that say one thing in two ways: the one set later counts.
REPLACES = {
    "train.steps": "train.epochs",
    "train.warmup": "train.warmup_ratio",
    "select.fraction": "select.count",
}


def load_config(preset: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """The validated configuration of a run.

    Later ones win: defaults, the method's own settings, preset, overrides. A preset that is for another method comes
    before the method's settings. A section's seed that nobody sets is `seed`.

    Args:
        preset: A name of `preset_names()`, or a YAML file such as a run folder's config.yaml; None: defaults alone.
        overrides: `key=value`, as on the command line.

    Raises:
        ConfigError: An unknown key, a value that a key can't take, or keys that contradict each other; the message
            names file and key, and the remedy.
    """
    layers = preset_layers(preset) if preset else []
    layers.append(_command_line(list(overrides)))
    method, ordered = _with_method(layers)
    values: dict[str, Any] = {key.name: Reference(key.default) if key.follows else key.default for key in all_keys()}
    for layer in ordered:
        _merge(values, layer)
    _reset_foreign(values, method, layers)
    loaded = _config_of(values)
    if loaded.dist.ranks == 0:
        loaded.dist.ranks = _ranks_of_this_host(loaded)
    if loaded.rollout.colocate and loaded.server.weight_sync == "auto":
        loaded.server.weight_sync = "gloo"  # some of the servers share rank 0's devices, which nccl refuses
    validate(loaded)
    return loaded


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `load_config` reads.

    A section's seed that equals `seed` is written as following it, so that `seed=` on top of a saved configuration
    means the same as without one.
    """
    tree: dict[str, Any] = {}
    for key in all_keys():
        value = value_of(config, key.name)
        *sections, last = key.name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        follows = key.follows and value == value_of(config, key.follows)
        node[last] = key.default if follows else escaped(value, KEYS)
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def to_plain(config: Any) -> dict[str, Any]:
    """A config section (or the whole) as plain dictionaries and lists."""
    return dataclasses.asdict(config)


def shaping(config: Config, section: str) -> dict[str, Any]:
    """A section's plain values, less its runtime-only keys: those that results depend on."""
    values = to_plain(getattr(config, section))
    return {name: value for name, value in values.items() if f"{section}.{name}" not in RUNTIME_ONLY}


def shaping_keys(section: str) -> tuple[str, ...]:
    """The dotted keys of a section that results depend on."""
    return tuple(f"{section}.{name}" for name in shaping(Config(), section))


def _ranks_of_this_host(config: Config) -> int:
    """One a visible GPU, CPU_RANKS without; whole groups, and none that would get no sequence of a step."""
    ranks, together = len(visible_gpus()) or CPU_RANKS, config.dist.sequence_parallel
    if not 1 <= together <= ranks:
        return ranks  # `validate` refuses it
    sequences = max(1, config.train.batch * config.train.n)
    return min(ranks // together, sequences) * together


def _command_line(overrides: list[str]) -> Layer:
    settings: dict[str, Any] = {}
    for item in overrides:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"override {item!r}: write key=value")
        settings[name] = from_command_line(KEYS[name], text) if name in KEYS else Plain(text)
    layer = Layer(settings, COMMAND_LINE)
    refuse_unknown(layer)
    return layer


def _config_of(values: Mapping[str, Any]) -> Config:
    """The typed configuration, references resolved."""
    config = Config()
    for name, value in resolved(values, KEYS).items():
        *sections, last = name.split(".")
        setattr(reduce(getattr, sections, config), last, value)
    return config


def _with_method(layers: list[Layer]) -> tuple[str, list[Layer]]:
    """The method that the layers name last, and the layers with its settings among them.

    Its settings come first, or after the last layer that is for another method.
    """
    names = [layer.method for layer in layers]
    method = next((name for name in reversed(names) if name is not None), Config.method)
    path = PRESETS / "method" / f"{method}.yaml"
    if path in PRESETS.glob("method/*.yaml"):  # a name may be no file's
        own = read_layer(path)
    elif method in METHODS:
        own = _settings_of(method)
    else:  # `validate` refuses it
        return method, layers
    others = [place for place, name in enumerate(names) if name not in (None, method)]
    first = others[-1] + 1 if others else 0
    return method, [*layers[:first], own, *layers[first:]]


def _settings_of(method: str) -> Layer:
    """The defaults of a method of a user's own."""
    layer = Layer({**(settings_in(yaml.safe_dump({**METHODS[method].settings})) or {})}, f"method {method}")
    refuse_unknown(layer)
    return layer


def _merge(values: dict[str, Any], layer: Layer) -> None:
    for name, raw in layer.settings.items():
        try:
            values[name] = Reference(raw) if has_reference(raw, KEYS) else parse(KEYS[name], raw)
        except ConfigError as error:
            raise ConfigError(f"{layer.where}: {error}") from error
    for always, instead in REPLACES.items():
        if always in layer.settings and instead not in layer.settings:
            values[instead] = None


def _reset_foreign(values: dict[str, Any], method: str, layers: list[Layer]) -> None:
    """Keys that mean nothing to the method back to their defaults, where a preset for another method set them.

    ConfigError if a preset for this method, or the command line, set one.
    """
    if method not in METHODS:
        return
    set_by = {
        name: layer.where
        for layer in layers
        if layer.where == COMMAND_LINE or layer.method == method
        for name in layer.settings
    }
    for key in all_keys():
        value = values[key.name]
        if value in (key.default, Reference(key.default)) or not is_foreign(method, key.name):
            continue
        if key.name in set_by:
            raise ConfigError(
                f"{set_by[key.name]}: {key.name}={value} has no meaning for method={method} "
                f"({METHODS[method].does}): leave it out"
            )
        values[key.name] = Reference(key.default) if key.follows else key.default
