"""Model folders as downloads leave them: each fault is one line, the same from a start, `doctor` and `--dry-run`."""

import json
import re
import shutil
import struct
import sys

import pytest
from safetensors.torch import load_file, save_file

from nopsd.cluster.doctor import diagnosis
from nopsd.config import load_config
from nopsd.engine.frozen import load_causal_lm
from nopsd.errors import UserError
from nopsd.models import LAB_MODEL
from nopsd.run.session import Session
from nopsd.stages.data import Data
from nopsd.tasks import dry_run

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4073728\n"
WEIGHTS = "model.safetensors"


def edit(folder, name, **fields):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def pointer(name):
    return lambda folder: (folder / name).write_text(POINTER)


def in_parts(folder, *, lost=(), index=True):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    placed = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for part in set(placed.values()):
        save_file({name: tensors[name] for name in names if placed[name] == part}, folder / part)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    for name in lost:
        (folder / name).unlink()


def cut(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def cut_in_its_header(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def lost_tensor(folder):
    in_parts(folder)
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**placed, "model.more.weight": "model-00001-of-00002.safetensors"}}))


def spoiled(value, name="model.layers.2.mlp.up_proj.weight"):
    def spoil(folder):
        tensors = load_file(folder / WEIGHTS)
        tensors[name][3, 5] = value
        save_file(tensors, folder / WEIGHTS)

    return spoil


def spoiled_bfloat16(folder):
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    tensors["model.norm.weight"][7] = float("nan")
    save_file(tensors, folder / WEIGHTS)


def more_ids(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 5000, "content": "<|more|>"})
    for i in range(1100):
        tokenizer["model"]["vocab"].setdefault(f"zz{i}", 2000 + i)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def own_code(folder):
    """A model type of its own, whose code writes a file when it is imported."""
    edit(
        folder, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.M"}
    )
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")


FAULTS = {
    "LFS pointer for the weights": (pointer(WEIGHTS), r"model.safetensors is a Git LFS pointer.*git lfs pull"),
    "LFS pointer for the tokenizer": (pointer("tokenizer.json"), r"tokenizer.json is a Git LFS pointer"),
    "LFS pointer for config.json": (pointer("config.json"), r"config.json is a Git LFS pointer"),
    "missing shard": (
        lambda folder: in_parts(folder, lost=["model-00002-of-00002.safetensors"]),
        r"model-00002-of-00002.safetensors",
    ),
    "missing index": (
        lambda folder: in_parts(folder, index=False),
        r"index.json is missing, and the weights are in parts",
    ),
    "tensor that its shard lacks": (lost_tensor, r"lacks model.more.weight"),
    "cut shard": (cut, r"model.safetensors is cut \(2,036,864 bytes, its header says 4,073,728\)"),
    "shard cut in its header": (cut_in_its_header, r"model.safetensors is damaged \(its header is cut"),
    "empty shard": (lambda folder: (folder / WEIGHTS).write_bytes(b""), r"model.safetensors is damaged"),
    "shard of something else": (
        lambda folder: (folder / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"null"),
        r"model.safetensors is damaged",
    ),
    "quantised": (
        lambda folder: edit(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantization_config \(gptq\): use the model that isn't quantised",
    ),
    "NaN weight": (spoiled(float("nan")), r"model.layers.2.mlp.up_proj.weight holds weights that are NaN or infinite"),
    "infinite weight": (spoiled(float("-inf")), r"up_proj.weight holds weights that are NaN or infinite"),
    "NaN in bfloat16": (spoiled_bfloat16, r"model.norm.weight holds weights that are NaN or infinite"),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        r"tokenizer.json",
    ),
    "damaged tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), r"no tokenizer could be loaded"),
    "another model's tokenizer": (more_ids, r"the tokenizer's id \d+ .* is beyond the model's vocabulary of 1024"),
    "another vocabulary size": (
        lambda folder: edit(folder, "config.json", vocab_size=2048),
        r"config.json says vocab_size=2048, the weights have 1024 ids",
    ),
    "end of sequence beyond the vocabulary": (
        lambda folder: edit(folder, "generation_config.json", eos_token_id=[1000, 151645]),
        r"generation_config.json's eos_token_id=151645 is beyond the vocabulary of 1024 ids",
    ),
    "damaged config.json": (lambda folder: (folder / "config.json").write_text('{"a": '), r"config.json is damaged"),
    "window that is no number": (
        lambda folder: edit(folder, "config.json", max_position_embeddings="long"),
        r"max_position_embeddings=long is no number",
    ),
    "sizes that don't fit": (
        lambda folder: edit(folder, "config.json", num_hidden_layers="four"),
        r"config.json can't be used: ",
    ),
    "unknown model type": (
        lambda folder: edit(folder, "config.json", model_type="nothing"),
        r"model_type nothing is not one",
    ),
    "code of its own": (own_code, r"model_type mine needs the folder's own code.*model.trust_remote_code=true"),
    "code by its attention": (
        lambda folder: edit(folder, "config.json", attn_implementation="someone/kernel"),
        r"attn_implementation=someone/kernel would fetch and run code",
    ),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), r"adapter_config.json"),
    "no chat template": (lambda folder: (folder / "chat_template.jinja").unlink(), r"has no chat template"),
    "a template that raises": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
        r"the chat template .* can't render a question",
    ),
    "a template without end": (
        lambda folder: (folder / "chat_template.jinja").write_text(f"{LOOP}{LOOP}{END}{END}"),
        r"the chat template .* has not rendered a question in 0.3 s, and may never end: correct its chat_template",
    ),
    "a template that needs all memory": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].content * 999999999 }}"),
        r"the chat template .* can't render a question \(MemoryError",
    ),
}
LOOP, END = "{% for i in range(99999) %}", "{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(LAB_MODEL, copy)
    return copy


def of_a_start(config):
    with Session(config) as session, pytest.raises(UserError) as found:
        Data().check(session)
    return str(found.value)


def of_the_doctor(config):
    found = diagnosis.Diagnosis(1)
    assert diagnosis.usable_model(config, found) is None
    return found.findings[-1].message


def of_a_dry_run(config):
    with pytest.raises(UserError) as found:
        folder = dry_run.find_model(config, dry_run.Preview())
        dry_run.check_lengths(config, folder)
    return str(found.value)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_start_doctor_and_dry_run_alike(name, folder, tmp_path, monkeypatch):
    """`doctor` said 0 errors to four of them, and the run died hours later."""
    monkeypatch.setattr("nopsd.data.templates.SECONDS", 0.3)
    spoil, words = FAULTS[name]
    spoil(folder)
    config = load_config("lab", [f"model.path={folder}", f"run_dir={tmp_path / 'run'}"])
    for said in (of_a_start(config), of_the_doctor(config), of_a_dry_run(config)):
        assert re.search(words, said), said
        assert len(said.splitlines()) == 1
    assert not (folder / "ran").exists() and "mine" not in sys.modules


def test_a_whole_folder_is_accepted_in_one_part_and_in_two(folder, tmp_path):
    config = load_config("lab", [f"model.path={folder}", f"run_dir={tmp_path / 'run'}"])
    for change in (lambda _: None, in_parts):
        change(folder)
        with Session(config) as session:
            Data().check(session)
        assert dry_run.find_model(config, dry_run.Preview()) == folder


def test_code_that_is_not_needed_does_not_run(folder, tmp_path):
    """Weights of a known family, with files of Python beside them: they load, by the family's own code."""
    ran = folder / "ran"
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    edit(folder, "config.json", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.M"})
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.T", None]})
    with Session(load_config("lab", [f"model.path={folder}", f"run_dir={tmp_path / 'run'}"])) as session:
        Data().check(session)
    load_causal_lm(str(folder), "float32", {"zero_optimization": {"stage": 0}})
    assert not ran.exists() and "mine" not in sys.modules
