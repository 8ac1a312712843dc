"""Places of tracking.to: refused before anything is computed if they can't be, and each gets the same rows."""

import sys
from types import SimpleNamespace

import pytest

from nopsd.config import load_config
from nopsd.errors import ConfigError
from nopsd.train.tracking.base import PACKAGES, check_places, open_sinks, run_name, settings


def config_of(tmp_path, places, *more):
    return load_config("lab", [f"run_dir={tmp_path / 'mine'}", f"tracking.to=[{places}]", *more])


@pytest.mark.parametrize("place", ["wandb", "trackio", "mlflow"])
def test_what_is_not_installed_is_refused_with_its_command(tmp_path, place, monkeypatch):
    monkeypatch.setattr("nopsd.train.tracking.base.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{place} is not installed: pip install nopsd\[{place}\]"):
        check_places(config_of(tmp_path, place))


def test_unknown_places_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="tracking.to=visdom: use one of tensorboard, wandb, trackio, mlflow"):
        check_places(config_of(tmp_path, "visdom"))
    check_places(config_of(tmp_path, ""))


def test_no_key_leaves_the_machine(tmp_path):
    """Broken if a server's key stands on a tracker's page."""
    found = settings(config_of(tmp_path, "", "server.api_key=sk-secret"))
    assert "sk-secret" not in repr(found) and found["train.steps"] == 150


class Told:
    """Stands for wandb's and trackio's modules: what a run is made with and told."""

    def __init__(self):
        self.made, self.rows, self.finished = None, [], False

    def init(self, **how):
        self.made = how
        return SimpleNamespace(log=lambda row, step: self.rows.append((step, row)), finish=self.finish)

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("place", ["wandb", "trackio"])
def test_a_run_is_named_told_and_finished(tmp_path, place, monkeypatch):
    """Against a stand-in of the client: what the real ones take was tried by hand in their offline modes."""
    module = Told()
    monkeypatch.setitem(sys.modules, place, module)
    config = config_of(tmp_path, place, "tracking.project=p", "tracking.name=n")
    (sink,) = open_sinks(config, tmp_path, 0)
    sink.scalars(3, {"loss/loss": 0.5})
    sink.close()
    assert (module.made["project"], module.made["name"], module.made["resume"]) == ("p", "n", "allow")
    assert module.rows == [(3, {"loss/loss": 0.5})] and module.finished
    assert module.made["config"]["method"] == "nopsd"


def test_the_runs_folder_names_it_where_nobody_does(tmp_path):
    assert run_name(config_of(tmp_path, "")) == "mine" and set(PACKAGES) == {
        "tensorboard",
        "wandb",
        "trackio",
        "mlflow",
    }
