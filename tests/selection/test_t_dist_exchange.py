"""T-DIST (SPEC §12, §13.1): the same s, S and C, to the bit, on 1, 2 and 4 ranks, by both exchanges."""

import json
import os
import subprocess
import sys
from pathlib import Path

from nopsd.neurons.store import rank_file, write_neurons

HERE = Path(__file__).parent


def test_t_dist_uneven_shards_an_empty_rank_and_ties(tmp_path, make_neurons):
    neurons = make_neurons(41)
    write_neurons(rank_file(tmp_path, 0), neurons)
    (tmp_path / "job.json").write_text(json.dumps({"neurons": str(tmp_path), "out": str(tmp_path / "out")}))
    runner = HERE.parent / "engine" / "worker_ranks.py"
    command = [sys.executable, runner, HERE / "worker_exchange.py", tmp_path / "job.json", "1", "2", "4"]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), timeout=300, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    reference = tmp_path / "out" / "queries_only-1"
    files = sorted(p.relative_to(reference) for p in reference.rglob("*.json"))
    assert len(files) == 3 * 3 * 2
    for other in (tmp_path / "out").iterdir():
        for file in files:
            assert (other / file).read_bytes() == (reference / file).read_bytes(), (other.name, file)
    assert len(list((tmp_path / "out").iterdir())) == 6
    exact = json.loads((reference / "exact-paper" / "selected.json").read_text())
    included = json.loads((reference / "paper-paper" / "selected.json").read_text())
    assert len(exact["uids"]) == 10 < len(included["uids"])  # there are ties at the threshold
