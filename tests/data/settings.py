"""The data settings of a configuration, for tests of sources."""

from nopsd.config import load_config


def data(*overrides):
    return load_config("lab", list(overrides)).data
