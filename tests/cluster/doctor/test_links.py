"""Links between hosts: measured here on loopback by two real processes; slow and broken ones are found."""

import subprocess
import sys

import pytest

from nopsd.cluster.doctor.links import ALL_PAIRS, compare_links, measure_pairs, pairs


def start(_host):
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "nopsd.cluster.doctor.link"]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.engine
def test_two_ends_measure_their_link():
    links, findings = measure_pairs({"a": "127.0.0.1", "b": "127.0.0.1"}, start)
    assert links["a - b"]["gib_per_s"] > 0 and links["a - b"]["latency_ms"] > 0
    assert [f.level for f in findings] == ["ok"]


def test_an_end_that_fails_is_reported_with_its_error():
    def broken(_host):
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", "raise SystemExit('no route')"]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    links, (finding,) = measure_pairs({"a": "10.0.0.1", "b": "10.0.0.2"}, broken)
    assert links == {} and finding.level == "error"
    assert "no connection between a (10.0.0.1) and b (10.0.0.2)" in finding.message


def test_a_slow_link_is_found_and_many_hosts_are_measured_from_the_first():
    fast, slow = {"gib_per_s": 10.0, "latency_ms": 0.1}, {"gib_per_s": 1.0, "latency_ms": 0.1}
    (finding,) = compare_links({"a - b": fast, "a - c": fast, "b - c": slow})
    assert (finding.host, finding.level) == ("b - c", "warning")
    hosts = [f"n{i}" for i in range(ALL_PAIRS + 1)]
    assert len(pairs(hosts[:ALL_PAIRS])) == ALL_PAIRS * (ALL_PAIRS - 1) / 2
    assert pairs(hosts) == [("n0", other) for other in hosts[1:]]
