"""Keys: if these fail, a secret lies in a shared folder, or on a command line."""

from dataclasses import replace

from nopsd.config import Config
from nopsd.keys import SERVER_KEY_VARIABLE, is_secret, new_key, server_key, without_keys, write_private


def test_the_configured_key_comes_before_the_environments(monkeypatch):
    monkeypatch.setenv(SERVER_KEY_VARIABLE, "environment")
    assert server_key("config") == "config" and server_key() == "environment"


def test_keys_are_long_and_different():
    assert len({new_key() for _ in range(100)}) == 100 and len(new_key()) >= 43


def test_secrets_are_known_by_their_variables_names():
    assert is_secret(SERVER_KEY_VARIABLE) and is_secret("HF_TOKEN") and not is_secret("NCCL_DEBUG")


def test_a_shared_configuration_has_no_key():
    config = Config()
    config = replace(config, server=replace(config.server, api_key="secret"))
    assert "secret" not in repr(without_keys(config))


def test_a_private_file_is_the_owners_alone_and_replaced_whole(tmp_path):
    file = tmp_path / "folder" / "launch.json"
    write_private(file, "first")
    write_private(file, "second")
    assert file.read_text() == "second" and file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
