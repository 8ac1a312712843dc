"""`--dry-run`: what a user reads before GPUs are paid for, of every preset, without GPU, network or weights."""

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nopsd import cli
from nopsd.cluster.doctor.fitting import GPUS, room_on
from nopsd.cluster.doctor.memory import GIB, PUBLISHED, needs_of, shape_of
from nopsd.config import METHODS, PRESETS, load_config, preset_names
from nopsd.config.rules import check_groups
from nopsd.engine.device import with_settled_dtype
from nopsd.engine.ds_config import role_configs
from nopsd.errors import ConfigError
from nopsd.run.stage import Counts
from nopsd.stages.registry import STAGES
from nopsd.tasks import dry_run as module
from nopsd.tasks.dry_run import dry_run, lacking_files

MODELS = PUBLISHED / "Qwen"
SMALL = [name for name in preset_names() if name.startswith("small/")]
PAPER = [name for name in preset_names() if name.startswith("paper/")]
DOMAINS = ["biology", "material", "physics", "chemistry", "edu", "mmlu_pro"]
BY_SIZE = [name for name in preset_names() if name.startswith(("hosts/", "one_gpu/"))]
STATED = re.compile(r"^# GPUs: (?:(\d+) x )?(\d+) x ([\w-]+)(?:, host memory (\d+) GB)?$")
PLANNED = re.compile(
    r"^# `nopsd plan.*: a rank needs (\S+) GiB, (\S+) are left, the server holds (\S+) tokens\.$", re.M
)
shape = functools.cache(shape_of)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache that holds the models' config.json, and nothing else."""
    for folder in PUBLISHED.glob("*/*"):
        snapshot = tmp_path / f"models--{folder.parent.name}--{folder.name}" / "snapshots" / "1"
        snapshot.mkdir(parents=True)
        shutil.copy(folder / "config.json", snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "shape_of", shape)
    return tmp_path


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_passes(name, hub):
    """Else a preset that is shipped can't be run."""
    first = stated(name)[1] if name in BY_SIZE else None
    (hub / "hosts").write_text("".join(f"node{i} slots=8\n" for i in range(int(first or 1))))
    config = with_settled_dtype(load_config(name, [f"dist.hostfile={hub / 'hosts'}"] if first else []))
    text, code = dry_run(config)
    assert code == 0, text
    assert "ZeRO-3" in text and "GiB a rank" in text
    stages = re.findall(r"^ ?\d+ (\w+) +\w", text, re.M)
    assert stages == ["data", "rollout", "evaluate_base", "neurons", "signals", "select", "train", "evaluate", "report"]
    if name in PAPER + BY_SIZE:
        assert "0 errors, 0 warnings" in text, text
        assert f"model: {config.model.path} (tokenizer.json, tokenizer_config.json, *.safetensors)" in text
        longest = "4,096" if name == "one_gpu/qwen3_4b_24gb" else "8,192"
        assert f"150 steps of 16 questions x 1 responses of at most {longest} tokens" in text


@pytest.mark.parametrize("name", SMALL)
def test_small_presets_fit_the_memory_they_state(name):
    """Else a laptop of that size dies of memory after half an hour. On a CPU server and ranks share it."""
    stated = re.match(r"^# CPU: 2 cores, (\d+) GB", (PRESETS / f"{name}.yaml").read_text())
    assert stated, "the first line states the memory"
    config = load_config(name, ["model.dtype=float32"])
    needs = needs_of(config, shape(str(PUBLISHED / config.model.path)), 1, *role_configs(config, "cpu"))
    held = needs.total + sum(needs.host.values()) + needs.server_weights + config.server.kv_cache_mib * 2**20
    assert held < int(stated[1]) * 10**9, needs


def stated(name):
    """Hosts, GPUs of each, their kind, the host's memory: the preset's first line."""
    found = STATED.match((PRESETS / f"{name}.yaml").read_text().splitlines()[0])
    assert found, "the first line states the GPUs"
    return found


@pytest.mark.parametrize("name", [*PAPER, *BY_SIZE])
def test_presets_fit_the_gpus_they_state(name):
    """Else a user rents what the comment says, and the run dies of memory."""
    found = stated(name)
    count, gpu, host = int(found[2]), found[3], found[4]
    config, ranks = load_config(name), int(found[1] or 1) * count
    model = shape(str(MODELS / config.model.path.split("/")[1]))
    needs = needs_of(config, model, ranks, *role_configs(config, "gpu", count))
    room = room_on(config, needs, GPUS[gpu])
    assert config.dist.ranks == count == max(count, config.rollout.servers_per_host * config.server.tensor_parallel)
    assert room.fits and room.tokens >= 2 * config.server.max_model_len, (room, needs)
    held = count * sum(needs.host.values())
    assert held < int(host) * 10**9 if host else not held, held
    if name in BY_SIZE:
        check_groups(config, ranks, "the preset's GPUs")
        written = PLANNED.search((PRESETS / f"{name}.yaml").read_text())
        assert written and written.groups() == (
            f"{needs.total / GIB:.1f}",
            f"{room.left / GIB:.1f}",
            f"{room.tokens:,}",
        )


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen3-0.6B", 0.6),
        ("Qwen3-1.7B", 1.7),
        ("Qwen3-4B-Thinking-2507", 4.0),
        ("Qwen3-8B", 8.2),
        ("Qwen3-14B", 14.8),
        ("Qwen3-32B", 32.8),
        ("Qwen3-30B-A3B", 30.5),
        ("Qwen3-235B-A22B", 235.1),
    ],
)
def test_the_configs_have_the_model_cards_parameters(name, billions):
    """The fixtures are typed by hand from published numbers: a wrong one would make every estimate wrong."""
    assert round(shape(str(MODELS / name)).parameters / 1e9, 1) == billions


# Settings of the paper's own model, written down once more and by hand.
PAPER_SETTINGS = {
    "zero_shot": {"n": 1, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new": 8192},
    "neuron": {
        "value": "act_fn",
        "align": "predict",
        "per_layer": 2000,
        "k": 5000,
        "count_mode": "pairs",
        "chunk": 1024,
        "chunk_merge": "union",
        "positive_only": True,
        "drop_last_position": False,
        "include_thinking": True,
        "scale_with_width": False,
    },
    "select": {
        "selector": "neuron_count",
        "fraction": 0.2,
        "ties": "include",
        "length_control": "none",
        "exclude_truncated": False,
    },
    "context": {
        "retriever": "neuron_jaccard",
        "m": 10,
        "pool": "all",
        "order": "nearest_last",
        "solution": "final",
        "filter": "none",
        "max_prompt": 10240,
        "dedup_text": True,
    },
    "train": {
        "steps": 150,
        "batch": 16,
        "micro": 4,
        "n": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_response": 8192,
        "lr": 1e-6,
        "warmup": 10,
        "schedule": "constant",
        "weight_decay": 0.0,
        "betas": [0.9, 0.999],
        "clip": 1.0,
        "lora": {"r": 0},
    },
    "distill": {
        "divergence": "reverse_kl",
        "support": "full",
        "topk": 100,
        "tail": "bucket",
        "aggregation": "token_mean",
        "temperature": 1.0,
        "pointwise_clip": None,
        "token_clip": None,
        "is_clip": None,
        "max_loss_tokens": None,
        "skip_first_tokens": 0,
        "mask_high_entropy": None,
        "target": "teacher",
        "contrast": None,
        "kl_base_coef": 0.0,
        "logit_chunk": 512,
    },
    "teacher": {"kind": "ema", "rate": 0.01, "every": 1},
    "eval": {
        "n": 8,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "max_new": 16384,
        "ece_bins": 15,
        "extract": "lenient",
    },
    "dist": {"ranks": 4, "context_exchange": "queries_only"},
}
RATIOS = dict.fromkeys(["biology", "material", "physics", "chemistry"], 0.1) | {"edu": 0.2, "mmlu_pro": 0.2}


@pytest.mark.parametrize("name", DOMAINS)
def test_paper_presets_state_every_value_of_the_paper(name):
    """A default that changes must not change the paper's runs."""
    files = [PRESETS / "paper" / "biology.yaml", PRESETS / "paper" / f"{name}.yaml"]
    stated = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)))
    for section, values in PAPER_SETTINGS.items():
        assert {key: stated[section].get(key, "not stated") for key in values} == values, section
    assert stated["model"] == {"path": "Qwen/Qwen3-4B-Thinking-2507", "dtype": "bfloat16"}
    assert (stated["data"]["test_ratio"], stated["data"]["seed"]) == (RATIOS[name], 42)
    lines = files[-1].read_text().splitlines()
    bare = [line for line in lines if re.match(r"  (?!run_dir|#)\w+: [^{]", line) and " # " not in line]
    assert all(re.match(r"  (domain|seed|tensor_parallel|startup_timeout_s)", line) for line in bare), bare


REFERENCED = ("nait_sft", "sft_given")  # which need examples of the target ability


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_the_papers_preset(method, hub):
    """Else `method=NAME` beside a preset would be refused, or train by the other's settings."""
    overrides = [f"method={method}", *(["signal.reference=x.jsonl"] if method in REFERENCED else [])]
    overrides += ["sft.train_on_labels=true"] if method == "sft_given" else []
    text, code = dry_run(load_config("paper/biology", overrides))
    if method in REFERENCED:
        assert code == 1 and "signal.reference" in text  # the reference is the user's
        return
    assert code == 0, text
    assert ("train" in re.findall(r"^ ?\d+ (\w+) +\w", text, re.M)) is (method != "base")


def test_numbers_of_the_work(hub):
    """A user plans hours by them: N questions, n samples, at most so many tokens, by hand."""
    config = load_config("paper/chemistry")
    counts = Counts(5636, {"Chemistry": 627})
    assert STAGES["rollout"].workload(config, counts).endswith("at most 46.2 million tokens")  # 5636 * 8192
    assert STAGES["evaluate"].workload(config, counts).endswith("at most 82.2 million tokens")  # 627 * 8 * 16384
    assert (
        STAGES["select"]
        .workload(config, counts)
        .startswith("1,127 of 5,636 questions by neuron_count; 10 demonstrations")
    )
    assert "19.7 million tokens in all" in STAGES["train"].workload(config, counts)  # 150 * 16 * 8192
    ttrl = load_config("paper/chemistry", ["method=ttrl"])
    assert STAGES["train"].workload(ttrl, counts).startswith("353 steps of 16 questions x 8 responses")  # 5636 / 16
    assert STAGES["train"].workload(ttrl, None).startswith("1 epochs")
    assert "can't be counted" in STAGES["data"].workload(config, None)


def test_published_sizes_are_the_papers(hub):
    """Shown where the data are not here: sizes computed from the published rows, and marked so."""
    sizes = {"biology": 3541, "material": 4460, "physics": 2984, "chemistry": 5636, "mmlu_pro": 9625}
    for name, pool in sizes.items():
        text, _ = dry_run(load_config(f"paper/{name}"), "data")
        assert f"{pool:,} questions in the pool" in text and "as published, not counted" in text


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.path=/no/such/folder"], "no such folder"),
        (["data.name=file", "data.path=/no/such.jsonl"], "does not exist"),
        (["server.max_model_len=64"], "no room for a prompt"),
        (["context.max_prompt=100000"], "more than the model's window"),
        (["dist.student_config=no.json"], "no.json does not exist"),
        (["dist.hostfile=/no/hostfile"], "/no/hostfile"),
        (["data.pool_limit=3"], "the pool has 3 questions"),
        (["tracking.to=[nope]"], "tracking.to=nope"),
        (["neuron.layers=99"], "neuron.layers=99: the model has the layers 0-3"),
    ],
)
def test_what_is_wrong_is_named_and_fails(overrides, said):
    """Else a queue's hours pass before the same error."""
    text, code = dry_run(load_config("lab", overrides))
    assert code == 1 and said in " ".join(text.split()), text


def test_own_code_that_cannot_be_loaded_is_named():
    """Which stages there are depends on it."""
    with pytest.raises(ConfigError, match="module nowhere can't be imported"):
        dry_run(load_config("lab", ["select.selector=nowhere:nothing"]))


def test_deepspeeds_own_parser_is_asked(tmp_path):
    """A value that only DeepSpeed knows to be wrong ends the run when the engines are built."""
    config = json.loads(Path("ds_configs/student_cpu.json").read_text())
    config["zero_optimization"]["overlap_comm"] = "perhaps"
    (tmp_path / "ds.json").write_text(json.dumps(config))
    text, code = dry_run(load_config("lab", [f"dist.student_config={tmp_path / 'ds.json'}"]))
    assert code == 1 and "refuses it" in text


def test_a_model_that_must_be_fetched_is_a_notice(hub):
    text, code = dry_run(load_config("paper/biology", ["model.path=Nobody/Nothing"]))
    assert code == 0 and "model: Nobody/Nothing (config.json, weights, tokenizer)" in text and "memory can't" in text


def test_shards_of_weights_are_looked_for_by_the_index(tmp_path):
    """Half a download must not pass for a model."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model-1.safetensors"):
        (tmp_path / name).write_text("{}")
    assert lacking_files(tmp_path) == []
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert lacking_files(tmp_path) == ["model-2.safetensors"]


def test_a_server_on_the_same_gpu_takes_its_share():
    """Else the trainer is thought to have the whole GPU, and the first step dies of memory."""
    config = load_config("paper/biology")
    needs = needs_of(config, shape(str(MODELS / "Qwen3-4B-Thinking-2507")), 4, {}, {})
    here, elsewhere = (
        room_on(c, needs, 80) for c in (config, load_config("paper/biology", ["rollout.urls=[http://h:1]"]))
    )
    assert elsewhere.left - here.left == int(0.3 * 80 * 2**30) and elsewhere.tokens is None
    assert not room_on(config, needs, 40).fits


@pytest.mark.parametrize(
    ("argv", "code"), [(["run"], 0), (["train"], 0), (["score"], 0), (["run", "train.steps=0"], 1)]
)
def test_the_command(argv, code, capsys, tmp_path):
    """A dry run leaves no trace: no run folder, no server."""
    run = tmp_path / "run"
    assert cli.main([*argv, "--dry-run", "--preset", "lab", f"run_dir={run}"]) == code
    assert not run.exists()
    assert ("dry run of" in capsys.readouterr().out) is (code == 0)
