"""Presets: YAML files of settings, each on top of those of its `base:`."""

from __future__ import annotations

import difflib
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from yaml import YAMLError

from nopsd.config.schema import all_keys
from nopsd.config.values import Plain, read_yaml
from nopsd.errors import ConfigError
from nopsd.files import flatten

PRESETS = Path(__file__).parent / "presets"
RENAMED = {"rollout_zs": "zero_shot"}  # sections that had another name
FOLDERS = ("", "paper/", "small/", "hosts/", "one_gpu/", "data/")  # of presets; method/ holds those of `method=`
BASE = "base"  # of a preset: the preset that it starts from


class Layer(NamedTuple):
    """Settings as they are written, by dotted key, and where."""

    settings: dict[str, Any]
    where: str

    @property
    def method(self) -> str | None:
        """The method that they name."""
        return str(self.settings["method"]) if "method" in self.settings else None


def preset_names() -> list[str]:
    """Names for --preset: those of nopsd/config/presets, and FOLDER/NAME."""
    found = [path for folder in FOLDERS for path in PRESETS.glob(f"{folder}*.yaml")]
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in found)


def preset_layers(preset: str) -> list[Layer]:
    """A preset's settings behind those of its `base:`, of that one's base, and so on; one layer a file.

    A preset is for the method of its base unless it names another. `preset` and `base:` are names of `preset_names()`
    or YAML files, a base's file relative to the preset's. Raises ConfigError for a preset that isn't there, a key that
    isn't one, and bases in a circle.
    """
    paths, layers = [_path_of(preset)], list[Layer]()
    while True:
        layer = read_layer(paths[-1])
        layers.insert(0, layer)
        if (base := layer.settings.pop(BASE, None)) is None:
            break
        paths.append(_base_path(str(base), paths))
    for below, above in pairwise(layers):
        if below.method and not above.method:
            above.settings["method"] = Plain(below.method)
    return layers


def read_layer(path: Path) -> Layer:
    """A YAML file's settings. Raises ConfigError for unreadable YAML and for keys that the schema doesn't have."""
    try:
        settings = settings_in(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if settings is None:
        raise ConfigError(f"{path}: the top level must be a mapping of keys")
    layer = Layer({**settings}, str(path))
    refuse_unknown(layer)
    return layer


@lru_cache(maxsize=64)
def settings_in(text: str) -> dict[str, Any] | None:
    """A YAML text's dotted keys; None if it is no mapping. The same presets are read again for each row of a plan."""
    tree = read_yaml(text)
    return flatten(tree or {}) if isinstance(tree, dict | None) else None


def refuse_unknown(layer: Layer) -> None:
    """ConfigError for a key that the schema doesn't have, with the nearest one that it has."""
    valid = [key.name for key in all_keys()]
    for name in layer.settings:
        if name in valid or name == BASE:
            continue
        if inside := next((key for key in valid if key.startswith(f"{name}.")), None):
            raise ConfigError(f"{layer.where}: {name} is a section and takes no value: set its keys, such as {inside}")
        section, _, rest = name.partition(".")
        near = [renamed] if (renamed := f"{RENAMED.get(section)}.{rest}") in valid else []
        near = near or difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
        near = near or [key for key in valid if key.split(".")[-1] == name.split(".")[-1]][:1]
        hint = f"; did you mean {near[0]}?" if near else "; `nopsd config` lists every key"
        raise ConfigError(f"{layer.where}: unknown key {name}{hint}")


def _path_of(preset: str) -> Path:
    path = Path(preset).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"preset file {preset} does not exist")
        return path
    if preset not in preset_names():
        near = difflib.get_close_matches(preset, preset_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(preset_names())}"
        raise ConfigError(f"unknown preset {preset}; {hint}")
    return PRESETS / f"{preset}.yaml"


def _base_path(base: str, paths: list[Path]) -> Path:
    """The file of the last path's `base:`. `paths`: it, and those that are based on it."""
    try:
        is_file = base.endswith((".yaml", ".yml"))
        path = _path_of(str(paths[-1].parent / base) if is_file else base)
    except ConfigError as error:
        raise ConfigError(f"{paths[-1]}: {BASE}: {base}: {error}") from error
    if path.resolve() in {above.resolve() for above in paths}:
        raise ConfigError(f"{paths[-1]}: {BASE}: {base}: a preset can't be based on itself")
    return path
