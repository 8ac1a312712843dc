"""Hosts, addresses and URLs of a configuration: broken if one is found out after the rollouts, or reaches a shell."""

import pytest

from nopsd.config import load_config
from nopsd.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rollout.hosts=[ubuntu@node2]", "names a user"),
        ("rollout.hosts=[node2:22]", "names a port"),
        ("rollout.hosts=['-oProxyCommand=x']", "no host name"),
        ("rollout.hosts=['a;b']", "no host name"),
        ("rollout.hosts=[0.0.0.0]", "rollout.hosts: '0.0.0.0' means every interface"),
        ("rollout.hosts=['0x0']", "every interface"),
        ("dist.master_addr=$(reboot)", "dist.master_addr"),
        ("dist.master_addr=0", "dist.master_addr"),
        ("dist.master_addr=a b", "dist.master_addr"),
        ("rollout.hosts=[a, b, a]", "rollout.hosts: a is there twice"),
        ("server.url=http://0.0.0.0:80", "means every interface"),
        ("rollout.urls=['http://[::]:80']", "means every interface"),
        ("server.url='http://a b:80'", "is no host"),
        ("server.host=0x0", "every interface"),
        ("server.host=::0", "every interface"),
        ("server.port=70000", "at most 65535"),
        ("server.url=http://host:99999", "server.url"),
        ("rollout.urls=['http://a:1','b:2']", "rollout.urls=b:2"),
    ],
)
def test_what_is_no_host_address_or_url_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config("lab", [setting])


def test_the_last_of_several_ports_counts():
    with pytest.raises(ConfigError, match="beyond 65535"):
        load_config("lab", ["server.port=65535", "rollout.servers_per_host=2"])


@pytest.mark.parametrize(
    "setting",
    [
        "rollout.hosts=[node2, node-3.lan]",
        "dist.master_addr=10.0.0.1",
        "dist.master_addr=fd00::1",
        "dist.master_addr=node1.svc.cluster.local",
        "server.host=::1",
        "server.url='http://a:1,http://b:2'",
    ],
)
def test_what_is_one_is_taken(setting):
    load_config("lab", [setting])
