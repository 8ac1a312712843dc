"""Users' own selectors and retrievers: by import path and by entry point, refused before anything expensive."""

import sys
from pathlib import Path

import numpy as np
import pytest

from nopsd.config import SelectConfig, load_config
from nopsd.errors import ConfigError
from nopsd.selection.names import check_names, source_hashes
from nopsd.selection.pool import make_pool
from nopsd.selection.retrievers import RETRIEVERS, find_retriever
from nopsd.selection.selectors import SELECTORS, find_selector, select
from nopsd.signals.needs import NEEDS, needed

HERE = Path(__file__).parent
EXAMPLE = (HERE / "my_selector.py").read_text()
RETRIEVER = """
import numpy as np
from nopsd.selection.retrievers import Neighbors, retriever

@retriever(needs=("embedding",))
def next_in_line(request):
    return Neighbors(request.queries[:, None] + 1, np.full((len(request.queries), 1), np.nan))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder a user starts in: not on Python's path, its modules forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def package(folder, monkeypatch, group, name, value, body=EXAMPLE):
    """A package installed elsewhere, with an entry point."""
    site = folder / "site"
    info = site / "fancy-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "fancy.py").write_text(body)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fancy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(site))


def test_the_readmes_example_is_this_one():
    """What users copy must be what is tested here."""
    readme = (HERE.parents[1] / "docs" / "extending.md").read_text()
    assert f"```python\n{EXAMPLE}```" in readme
    assert len(EXAMPLE.splitlines()) <= 20


def test_a_users_file_in_the_current_folder_selects(folder):
    (folder / "my_selector.py").write_text(EXAMPLE)
    config = load_config("lab", ["select.selector=my_selector:lean_and_sure"])
    check_names(config)
    assert needed(config.select, config.context) == {"token_entropy"}
    pool = make_pool(
        ["q0", "q1", "q2", "q3"],
        np.array([10, 40, 20, 30]),
        np.array([10, 10, 10, 10]),
        np.zeros(4, bool),
        columns={"token_entropy": np.array([0.3, 0.1, 0.2, 0.4])},
    )
    found = select(pool, SelectConfig("my_selector:lean_and_sure", 0.5))
    assert found.scores == {"q0": 2, "q1": 3, "q2": 2, "q3": 5} and found.uids == ["q0", "q2"]


def test_a_users_retriever_is_found_and_says_what_it_needs(folder):
    (folder / "mine.py").write_text(RETRIEVER)
    config = load_config("lab", ["context.retriever=mine:next_in_line"])
    check_names(config)
    assert needed(config.select, config.context) == {"embedding"}
    assert find_retriever(config.context).name == "next_in_line"


def test_an_entry_point_is_taken_by_its_name(folder, monkeypatch):
    """Also by the config's own check of names, which must not refuse it."""
    package(folder, monkeypatch, "nopsd.selectors", "lean", "fancy:lean_and_sure")
    config = load_config("lab", ["select.selector=lean"])
    check_names(config)
    assert find_selector(config.select).needs == ("token_entropy",)
    with pytest.raises(ConfigError, match="context.retriever=lean: use one of"):
        load_config("lab", ["context.retriever=lean"])


def test_an_entry_point_never_hides_a_name_of_ours(folder, monkeypatch):
    package(folder, monkeypatch, "nopsd.selectors", "random", "fancy:lean_and_sure")
    assert find_selector(load_config("lab", ["select.selector=random"]).select).name == "random"


@pytest.mark.parametrize(
    ("value", "body", "words"),
    [
        ("nowhere_at_all:x", "", r"module nowhere_at_all can't be imported.*PYTHONPATH"),
        ("mine:other", EXAMPLE, "module mine has no other"),
        ("mine:ranks", EXAMPLE, r"mine:ranks is a function, not a Selector.*docs.extending.md"),
        ("mine:lean_and_sure", "import broken_inside_itself\n", "module mine can't be imported.*broken_inside"),
        ("mine:lean_and_sure", "def (:\n", "module mine can't be imported .SyntaxError"),
        ("mine:lean_and_sure", EXAMPLE.replace("token_entropy", "gold"), "needs gold: there are agreement"),
    ],
)
def test_what_cannot_be_used_is_refused_with_key_module_and_remedy(folder, value, body, words):
    (folder / "mine.py").write_text(body)
    with pytest.raises(ConfigError, match=f"^select.selector={value.split(':')[0]}.*{words}"):
        check_names(load_config("lab", [f"select.selector={value}"]))


def test_the_signals_stage_makes_what_the_registry_asks_for():
    """A column that only the selector knows of would be missed after the expensive stages."""
    stated = {name: set(entry.needs) - {"agreement"} for name, entry in {**SELECTORS, **RETRIEVERS}.items()}
    made = {name: set(columns) for name, columns in NEEDS.items() if name in stated}
    assert {name: needs for name, needs in stated.items() if needs} == made


def test_an_unknown_name_names_the_nearest():
    config = SelectConfig(selector="neuron_cuont")
    with pytest.raises(ConfigError, match="select.selector=neuron_cuont: did you mean neuron_count?"):
        find_selector(config)
    with pytest.raises(ConfigError, match="select.selector=mine:: write module:attribute"):
        find_selector(SelectConfig(selector="mine:"))


def test_edited_code_is_other_input(folder):
    """The select stage must run again when a user's file has changed, and only then."""
    assert source_hashes(load_config("lab")) == {}
    (folder / "my_selector.py").write_text(EXAMPLE)
    config = load_config("lab", ["select.selector=my_selector:lean_and_sure"])
    before = source_hashes(config)
    assert list(before) == ["select.selector"] and before == source_hashes(config)
    (folder / "my_selector.py").write_text(EXAMPLE + "\n")
    assert source_hashes(config) != before
