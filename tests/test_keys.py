"""Keys: if these fail, a secret lies in a shared folder, or on a command line."""

from dataclasses import replace

from nopsd.config import Config
from nopsd.config.schema import all_keys
from nopsd.keys import (
    SERVER_KEY_VARIABLE,
    is_secret,
    new_key,
    redacted,
    redacted_words,
    server_key,
    without_keys,
    without_secrets,
    write_private,
)


def test_the_configured_key_comes_before_the_environments(monkeypatch):
    monkeypatch.setenv(SERVER_KEY_VARIABLE, "environment")
    assert server_key("config") == "config" and server_key() == "environment"


def test_keys_are_long_and_different():
    assert len({new_key() for _ in range(100)}) == 100 and len(new_key()) >= 43


def test_secrets_are_known_by_their_names():
    secret = (
        *(SERVER_KEY_VARIABLE, "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"),
        *("AWS_SESSION_TOKEN", "server.api_key", "apiKey", "GOOGLE_APPLICATION_CREDENTIALS", "DB_PASSWD"),
    )
    assert [name for name in secret if not is_secret(name)] == []
    others = ("NCCL_DEBUG", "PWD", "PATH", "TOKENIZERS_PARALLELISM", "KEYBOARD", *(key.name for key in all_keys()))
    assert [name for name in others if is_secret(name)] == ["server.api_key"]


def test_processes_are_given_no_secret_but_what_they_need():
    given = {"HF_TOKEN": "a", "OPENAI_API_KEY": "b", "VLLM_API_KEY": "c", "PATH": "d", SERVER_KEY_VARIABLE: "e"}
    assert set(without_secrets(given)) == {"HF_TOKEN", "PATH", SERVER_KEY_VARIABLE}
    assert "OPENAI_API_KEY" in without_secrets({**given, "NOPSD_PASS": "OPENAI_API_KEY,OTHER"})


def test_what_is_recorded_has_no_secret():
    words = ["nopsd", "run", "server.api_key=HUSH", "server.url=http://me:HUSH@host:1", "train.lr=1", "--x_token=HUSH"]
    shown = redacted_words(words)
    assert "HUSH" not in repr(shown) and shown[:3] == ["nopsd", "run", "server.api_key=(withheld)"]
    assert shown[4] == "train.lr=1" and "host:1" in shown[3]
    tree = {"a": {"api_key": "HUSH", "keys": ["HUSH"]}, "urls": ["http://u:HUSH@h"], "tokens": 3, "max_tokens": 4}
    assert "HUSH" not in repr(redacted(tree)) and redacted(tree)["tokens"] == 3


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
