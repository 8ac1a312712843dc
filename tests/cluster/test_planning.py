"""The address of rank 0: if it fails, ranks on other hosts are sent to a loopback address."""

from nopsd.cluster import planning


def test_the_first_host_by_its_address(monkeypatch):
    """Ranks must not be sent to 127.0.1.1, which is what many hosts know themselves by."""
    table = {"a": ["10.0.0.1", "fe80::1"], "b": ["10.0.0.2"], "me": ["127.0.1.1"], "nobody": []}
    monkeypatch.setattr(planning, "resolve", table.__getitem__)
    monkeypatch.setattr(planning.socket, "gethostname", lambda: "me")
    monkeypatch.setattr(planning, "address_towards", lambda host: f"the one towards {host}")
    assert planning._as_seen_here(["a", "b"]) == "10.0.0.1"
    assert planning._as_seen_here(["me", "b"]) == "the one towards b"
    assert planning._as_seen_here(["me", "nobody"]) == "me" and planning._as_seen_here(["nobody", "b"]) == "nobody"
