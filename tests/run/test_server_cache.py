"""The servers of a comparison are kept from run to run."""

from types import SimpleNamespace

from nopsd.config import load_config
from nopsd.run import server_cache as kept


def test_servers_are_kept_while_their_settings_last(monkeypatch, tmp_path):
    """Breaks if every run starts servers anew, or one is served by another model's."""
    opened = []

    class FakeSession:
        def __init__(self, config):
            opened.append(config.model.path)
            self.closed = False

        def client(self):
            return SimpleNamespace(of=opened[-1])

        def close(self):
            self.closed = True

    monkeypatch.setattr(kept, "Session", FakeSession)
    a, b, other = (load_config("lab", [key]) for key in ("train.lr=1", "select.fraction=0.5", "model.path=else"))
    with kept.ServerCache(tmp_path) as servers:
        assert servers.client(a).of == servers.client(b).of == "lab" and opened == ["lab"]
        servers.client(other)
        assert opened == ["lab", "else"]
