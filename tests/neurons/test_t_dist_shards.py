"""T-DIST (SPEC §12, §13.2-13.3): work shared by layer, neuron or position gives the bits of one rank's, in every mode,
with as many bytes exchanged as the formulas say."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nopsd.rollout.types import write_rollouts

HERE = Path(__file__).parent
SIZES = (1, 2, 4)
BASE = {"per_layer": 12, "k": 20, "chunk": 5}
MODES = [
    BASE | mode
    for mode in (
        {},
        {"chunk_merge": "exact"},
        {"count_mode": "chunk_topk"},
        {"count_mode": "token_topk", "k": 9},
        {"positive_only": False, "k": 50, "chunk": 1024},
        {"count_mode": "chunk_topk", "positive_only": False, "chunk": 3},
        {"per_layer": 500, "k": 500, "chunk_merge": "exact"},
    )
]
L, F = 3, 24


def run_worker(worker_ranks, worker, job, folder):
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, worker_ranks, HERE / worker, folder / "job.json", *SIZES]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), timeout=400, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {
        size: [json.loads((Path(job["out"]) / f"{size}.{rank}.json").read_text()) for rank in range(size)]
        for size in SIZES
    }


def models(build_model, build_family):
    """Scores without ties; all scores equal; neurons in groups of four with equal weights; a mixture of experts."""
    equal, twins = build_model(), build_model()
    with torch.no_grad():
        for parameter in equal.parameters():
            parameter.fill_(0.1)
        for layer in twins.model.layers:
            for weight in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight.T):
                weight.copy_(weight[::4].repeat_interleave(4, 0))
    return {"random": build_model(), "equal": equal, "twins": twins, "experts": build_family("qwen3_moe")}


def cases():
    """(model, value, batch, mode's number, search) for all that the worker compares, for every sharding."""
    every = [("random", "act_fn", "mixed", mode, "bisect") for mode in range(7)]
    every += [("random", "act_fn", "mixed", mode, "gather") for mode in (0, 1, 3)]
    every += [("random", "act_fn", "one token", mode, "bisect") for mode in (0, 3)]
    every += [("equal", "act_fn", "mixed", mode, "bisect") for mode in (0, 1, 3)]
    every += [("twins", "act_fn", "mixed", mode, "bisect") for mode in (0, 2)]
    every += [("experts", "act_fn", "mixed", mode, "bisect") for mode in (0, 3)]
    return every + [("random", "gated", "mixed", 3, "gather")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory, worker_ranks, build_model, build_family, make_rollouts):
    """Batches: uneven lengths, a response without any token among them; one token, of which 4 ranks leave 3 without."""
    folder, several = tmp_path_factory.mktemp("shards"), make_rollouts(3)
    empty = replace(several[2], response_ids=[])
    same = replace(several[0], prompt_ids=[9] * 3, response_ids=[9] * 11)
    batches = {"mixed": [*several, empty, same], "one token": [replace(several[0], response_ids=[7])]}
    job = {"models": {}, "batches": {}, "modes": MODES, "cases": cases(), "out": str(folder)}
    for name, model in models(build_model, build_family).items():
        model.save_pretrained(folder / name)
        job["models"][name] = str(folder / name)
    for name, rollouts in batches.items():
        write_rollouts(folder / f"{name}.parquet", rollouts)
        job["batches"][name] = str(folder / f"{name}.parquet")
    return batches, run_worker(worker_ranks, "worker_shards.py", job, folder)


@pytest.mark.slow
def test_cuts_over_ranks_equal_a_plain_sort_and_send_what_the_formula_says(shared):
    """Both searches: all-equal scores, ties, +-0.0, negatives, infinities; empty rows, empty ranks, n beyond rows."""
    for size, logs in shared[1].items():
        assert all(log["merged"]["verified"] == 6 * 2 * 3 * 2 for log in logs)
        assert all(log["merged"]["with_ties"] > 10 for log in logs) or size == 1  # the search among ties did run


@pytest.mark.slow
def test_t_dist_every_sharding_mode_and_rank_count_gives_the_same_bits(shared):
    """The worker compares; here: that it compared everything, and sets worth comparing."""
    _, found = shared
    for logs in found.values():
        assert all(log["verified"] == len(cases()) * 3 for log in logs)
        assert all(log["kept"] == found[1][0]["kept"] for log in logs)
    kept = found[1][0]["kept"]
    assert kept["random act_fn mixed 0"][3] == [0, 0]
    assert all(count > 12 for count, _ in kept["random act_fn mixed 0"][:3])
    # All scores equal: of 3 chunks and 3 layers the first 12 pairs are always the same 12 neurons.
    assert kept["equal act_fn mixed 0"][4] == [L * 12, 20]


@pytest.mark.slow
def test_t_dist_bytes_exchanged_equal_the_formulas(shared):
    """§13.2-13.3: what each rank contributes to cuts, counts, maxima and collecting (ties: see worker_merge)."""
    batches, found = shared
    lengths = [len(r.response_ids) for r in batches["mixed"]]
    samples, neurons = len(lengths), L * F
    chunks = sum(math.ceil(n / 5) for n in lengths)
    kept = found[1][0]["kept"]["random act_fn mixed 0"]
    assert not found[1][0]["sent"]["random act_fn mixed 0 neuron bisect"]  # one rank sends nothing
    for size in (2, 4):
        logs = found[size]
        for log in logs:

            def sent(mode, shard, search="bisect", log=log):
                all_sent = log["sent"][f"random act_fn mixed {mode} {shard} {search}"]
                return {name: size for name, size in all_sent.items() if not name.endswith("ties")}

            counts, search = {"counts": 4 * samples}, 32 * 4
            most = sent(0, "layer")["collect"]
            assert sent(0, "layer") == counts | {"neurons": search * samples, "collect": most}
            assert sent(0, "neuron") == counts | {
                "pairs": search * L * chunks,
                "neurons": search * samples,
                "collect": sent(0, "neuron")["collect"],
            }
            assert sent(0, "position") == {"pairs": search * L * chunks, "maxima": 4 * neurons * samples}
            assert sent(1, "position") == {"pairs": search * L * samples, "maxima": 4 * neurons * samples}
            assert sent(2, "position") == {"pairs": search * L * chunks, "maxima": 4 * neurons * chunks}
            assert sent(3, "position") == {"maxima": 4 * neurons * samples}
            assert sent(3, "layer")["neurons"] == search * sum(lengths)
            # Collecting: 4 bytes a sample and 8 an entry of the rank that has most; together they have N_K.
            whole = sum(ids for _, ids in kept)
            assert (most - 4 * samples) % 8 == 0
            assert whole <= size * (most - 4 * samples) // 8 <= size * whole
            # Gathering: 4 bytes a row and 8 a candidate, of which there are at most n a row.
            gathered = sent(0, "neuron", "gather")["pairs"] - 4 * L * chunks
            assert 0 < gathered <= 8 * 12 * L * chunks and gathered % 8 == 0
