"""What hosts' facts mean before ranks are started: a missed difference costs a hang on paid devices."""

from copy import deepcopy

import pytest

from nopsd.cluster.findings import ERROR, OK, WARNING, names, shared_folder, versions

HOST = {
    "python": "3.11.7",
    "packages": {"torch": "2.8.0", "deepspeed": "0.17"},
    "source": "abc",
    "names": {"a": ["10.0.0.1"], "b": ["10.0.0.2"]},
    "folders": {"run_dir": {"path": "/shared/run", "writable": True}},
    "token": "t",
}


def facts(**changed):
    """Two equal hosts, the second with these facts changed."""
    return {"a": deepcopy(HOST), "b": {**deepcopy(HOST), **changed}}


def test_equal_hosts_give_one_row_that_says_so():
    for found in (versions(facts()), names(facts()), shared_folder(facts(), "t")):
        assert [(f.host, f.level) for f in found] == [("all", OK)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"python": "3.12.1"}, "Python is 3.12.1, on the head 3.11.7"),
        ({"packages": {"torch": "2.7.1", "deepspeed": "0.17"}}, "torch is 2.7.1, on the head 2.8.0"),
        ({"packages": {"torch": "2.8.0"}}, "deepspeed is not installed, on the head 0.17"),
        ({"packages": {**HOST["packages"], "apex": "1"}}, "apex is 1, on the head none"),
        ({"source": "def"}, "nopsd's source is def, on the head abc"),
    ],
)
def test_what_differs_from_the_head_is_named_with_both(changed, words):
    (found,) = versions(facts(**changed))
    assert (found.host, found.level) == ("b", ERROR) and words in found.message and "setup_env.sh" in found.message
    assert versions(facts(python="3.11.2"))[0].level == OK  # a patch release is the same Python


@pytest.mark.parametrize(
    ("seen", "level", "words"),
    [
        ({"a": [], "b": ["10.0.0.2"]}, ERROR, "can't resolve a: add it to DNS"),
        ({"a": ["127.0.1.1"], "b": ["10.0.0.2"]}, ERROR, "resolves a to itself (127.0.1.1)"),
        ({"a": ["10.0.0.1"], "b": ["127.0.1.1"]}, WARNING, "its own name means 127.0.1.1"),
    ],
)
def test_names_that_lead_nowhere_or_to_the_host_itself(seen, level, words):
    (found,) = names(facts(names=seen))
    assert (found.host, found.level) == ("b", level) and words in found.message


def test_a_run_folder_of_its_own_or_without_write_access():
    """Each host would write its part of the artefacts where no other finds it."""
    (other,) = shared_folder(facts(token=None), "t")
    closed = {"run_dir": {"path": "/shared/run", "writable": False}}
    (unwritable,) = shared_folder(facts(folders=closed), "t")
    assert (other.host, other.level) == (unwritable.host, unwritable.level) == ("b", ERROR)
    assert "is not the head's folder" in other.message and "can't be written there" in unwritable.message
