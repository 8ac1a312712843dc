"""`server.args`: if these fail, a typo costs the start of a server, or an option breaks what a run relies on."""

import pytest

from nopsd.cluster.servers.vllm_args import OWNED, refuse_owned
from nopsd.cluster.servers.vllm_command import check_server_args, server_command
from nopsd.config import ServerConfig, load_config
from nopsd.errors import ConfigError


def test_an_option_reaches_the_command_line():
    config = load_config("lab", ["server.args=[--quantization,fp8]"]).server
    assert server_command(config, "m", "float32", 1, "cpu")[-2:] == ["--quantization", "fp8"]


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("--max-model-len=8", "server.max_model_len"),
        ("--max_model_len", "server.max_model_len"),
        ("--tensor-par", "server.tensor_parallel"),
        ("-tp", "server.tensor_parallel"),
        ("--no-enable-prefix-caching", "leave it out"),
        ("--weight-transfer-config.backend", "server.weight_sync"),
        ("--trust-remote-code", "model.trust_remote_code"),
        ("--config", "leave it out"),
        *((name, "server.args") for name in OWNED),
    ],
)
def test_what_the_run_relies_on_is_refused_in_every_spelling(word, instead):
    with pytest.raises(ConfigError, match=instead):
        refuse_owned(["--quantization", "fp8", word], "cpu")


def test_what_only_the_cpu_build_must_have_is_the_users_on_a_gpu():
    refuse_owned(["--enforce-eager", "--model-impl", "transformers", "--max-num-batched-tokens=99"], "cuda")


@pytest.mark.engine
def test_vllms_own_parser_reads_them_before_anything_starts():
    """Its options are not listed here: its own parser, in a process of its own, knows them."""
    check_server_args(ServerConfig(args=["--max-num-batched-tokens", "512"]), "cpu")
    with pytest.raises(ConfigError, match=r"server.args=\['--qantization', 'fp8'\]: vLLM refuses .*--qantization"):
        check_server_args(ServerConfig(args=["--qantization", "fp8"]), "cpu")


def test_they_mean_nothing_to_a_server_that_runs_already():
    with pytest.raises(ConfigError, match=r"server\.args .* server\.url names a running one"):
        load_config("lab", ["server.args=[--quantization,fp8]", "server.url=http://a:1"])
