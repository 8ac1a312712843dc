"""A run whose first stages are done: what the tests of later stages start from, without a server or a rank."""

import json

import numpy as np

from nopsd.neurons.store import NeuronSets, rank_file, write_neurons
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.stages.data import prepare_data

WITHOUT_NEURONS = {
    "lmsi",
    "nait_sft",
    "sft_given",
    "ttrl",
    "intuitor",
    "opsd_random",
    "opsd_oracle",
    "sdpo_labelfree",
    "canon",
    "u_opsd",
    "ttpo",
    "opsa",
    "base",
}


def write_questions(path, count, answer="A"):
    """A file of `count` questions with four options, all with the same answer."""
    rows = [
        {"id": f"q{i:02d}", "question": f"Which of them is {i}?", "options": ["w", "x", "y", "z"], "answer": answer}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fill(session, samples=4):
    """Stages data, rollout and neurons: of `samples` answers a question i % 4 + 1 are A; counts and sets of its own."""
    data, rollout, neurons = (session.run.begin(name, {}) for name in ("data", "rollout", "neurons"))
    prepare_data(session.config, session.model, session.renderer, session.splits, data)
    uids = sorted(q.uid for q in session.pool)
    rollouts = [
        Rollout(uid, s, [5, 6], [7, 8, s], f"so {s} <answer>{'A' if s <= i % 4 else 'BCD'[s - 1]}</answer>", "stop", 0)
        for i, uid in enumerate(uids)
        for s in range(samples)
    ]
    write_rollouts(rollout / "rollouts.parquet", rollouts)
    ids = np.array([sorted({i, i + 1, i + 2}) for i in range(len(uids))], dtype=np.int32)
    count = len(uids)
    write_neurons(
        rank_file(neurons, 0),
        NeuronSets(
            uids,
            np.arange(count, dtype=np.float32),
            ids,
            np.ones_like(ids, dtype=np.float16),
            np.full(count, 3, np.int32),
            np.zeros(count, bool),
            np.zeros((count, 2), np.int32),
            {"widths": [16, 16], "ranks": 1},
        ),
    )
    for name in ("data", "rollout", "neurons"):
        session.run.commit(name, {})
