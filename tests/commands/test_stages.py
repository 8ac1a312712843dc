"""`nopsd select` on instruction data through the command line: the real launcher, no server.

The model runs in bfloat16, as larger ones do. If this fails, a user who comes with instruction data gets no subset,
a wrong one, or pays for the scores again with every selector.
"""

import json

import pytest

from nopsd.files import read_json
from nopsd.lab.world import DOMAIN_BY_NAME, make_split
from tests import command

pytestmark = [pytest.mark.slow, pytest.mark.engine]
EMPTY = 3  # the row whose output is empty
BEFORE = ("data", "rollout", "neurons")


def nopsd(*arguments: str, code: int = 0) -> str:
    """The command's stdout, stderr at its end; it must leave with `code`."""
    done = command.nopsd(*arguments)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def rows(domain: str, count: int) -> list[str]:
    """Lines as no JSON writer would write them again."""
    lines = []
    for i, question in enumerate(make_split(DOMAIN_BY_NAME[domain], "pool").questions[:count]):
        output = "" if i == EMPTY else f"It is at {question.uid}, {'by one ' * (i % 7)}then."
        lines.append(f'{{"output":{json.dumps(output)},   "instruction": {json.dumps(question.question)}}}')
    return lines


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """(lines of the file, folder, command line, what the first command said)"""
    folder = tmp_path_factory.mktemp("instructions")
    lines = rows("chemistry", 24)
    (folder / "alpaca.jsonl").write_text("\n".join(lines))
    (folder / "reference.jsonl").write_text("\n".join(x for i, x in enumerate(rows("physics", 12)) if i != EMPTY))
    command = (
        "--preset",
        "lab",
        "data.name=instructions",
        f"data.path={folder / 'alpaca.jsonl'}",
        f"signal.reference={folder / 'reference.jsonl'}",
        "data.holdout=0",
        "select.fraction=0.25",
        "select.ties=exact",
        "context.m=2",
        "model.dtype=bfloat16",
        "dist.ranks=1",
        f"run_dir={folder / 'run'}",
    )
    return lines, folder / "run", command, nopsd("select", *command)


def subset(folder) -> list[str]:
    return (folder / "select" / "selected.jsonl").read_text().splitlines()


def times(folder, names) -> list[int]:
    return [(folder / name / "manifest.json").stat().st_mtime_ns for name in names]


def test_one_command_brings_up_all_that_it_reads(scored):
    lines, folder, _, said = scored
    assert all(f"] {name}: " in said for name in (*BEFORE, "select")) and "evaluate" not in said
    assert not (folder / "logs" / "server.log").exists(), "a server for given responses"
    assert f"6 of 24 rows: {folder / 'select' / 'selected.jsonl'}" in said
    rows = subset(folder)
    assert len(rows) == 6 and rows == [line for line in lines if line in rows], "the file's own lines, in its order"
    assert lines[EMPTY] not in rows
    assert "selected.jsonl" not in read_json(folder / "select" / "manifest.json")["files"]


def choose_again(scored, selector: str) -> list[str]:
    """The rows of another selector, after a check that what came before was left as it was."""
    lines, folder, command, _ = scored
    before = times(folder, BEFORE)
    sharing = ("dist.block_mib=7", "dist.context_exchange=gather_all")
    said = nopsd("select", *command, f"select.selector={selector}", *sharing, "--redo", "select")
    assert said.count("up to date") >= len(BEFORE) and times(folder, BEFORE) == before
    assert read_json(folder / "select" / "selected.json")["selector"] == selector
    chosen = subset(folder)
    assert len(chosen) == 6 and chosen == [line for line in lines if line in chosen] and lines[EMPTY] not in chosen
    return chosen


@pytest.mark.soak
def test_nait_takes_the_scores_as_they_are(scored):
    """The ability is that of the reference file; the neuron stage is not asked again."""
    first = subset(scored[1])
    assert choose_again(scored, "nait") != first


@pytest.mark.soak
def test_further_selectors_too(scored):
    chosen = {tuple(choose_again(scored, name)) for name in ("random", "seq_nll", "neuron_count_top")}
    assert len(chosen) == 3, "three selectors, one choice"


@pytest.mark.soak
def test_an_untrained_model_of_another_family_goes_through(scored, tmp_path, lab_model_dir):
    """Any model with a chat template: here a random Llama in bfloat16 with the lab's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from nopsd.data.prompts import load_tokenizer

    tokenizer = load_tokenizer(lab_model_dir)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    lines, _, command, _ = scored
    nopsd("select", *command, f"model.path={tmp_path / 'llama'}", "dist.ranks=1", f"run_dir={tmp_path / 'run'}")
    chosen = subset(tmp_path / "run")
    assert len(chosen) == 6 and set(chosen) < set(lines)
