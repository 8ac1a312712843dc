"""How long stages that haven't begun will take, from those that are done: rough, until a stage has a pace of its own.

In: the seconds of a run's finished stages, its settings and the sizes in its data stage. Answers cost what the pool's
own cost (they end by themselves, so limits don't count). A training step's answers cost twice that, for a step samples
few at a time; teacher and student cost forward passes, of which the neuron stage makes one an answer: the teacher reads
one sequence for each demonstration and the question's, the student counts as three. SmolLM2-135M on a CPU: 44 s a step
expected, 45 s taken (4 demonstrations, 8 answers).
"""

from __future__ import annotations

from collections.abc import Mapping

from nopsd.config import METHODS, Config
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder, read_json_if_there
from nopsd.train.planning import settled

SMALL_BATCHES = 2.0  # of the pool's time an answer
STUDENT_PASSES = 3.0  # forward and backward


def expected_seconds(run: RunFolder, config: Config, done: Mapping[str, float | None]) -> dict[str, float]:
    """Stage -> seconds, of those that can be estimated.

    Args:
        run: Its folder.
        config: Its settings.
        done: Seconds of the stages that are done; None where another run's was taken over.
    """
    sizes = read_json_if_there(run.stage_dir(names.DATA) / "data.json")
    known = {name: seconds for name, seconds in done.items() if seconds}
    found = {}
    if names.EVALUATE_BASE in known:
        found[names.EVALUATE] = known[names.EVALUATE_BASE]
    if not sizes or names.ROLLOUT not in known or run.given_responses() is not None:
        return found
    answers = sizes["pool"] * config.zero_shot.n
    answer_s = known[names.ROLLOUT] / answers
    tested = (sum(sizes["tests"].values()) + sizes["held_out"]) * config.eval.n
    for name in (names.EVALUATE_BASE, names.EVALUATE):
        found.setdefault(name, known.get(names.EVALUATE_BASE, answer_s * tested))
    trainer = METHODS[config.method].trainer
    if names.NEURONS in known and trainer in ("distill", "grpo") and run.manifest(names.SELECT) is not None:
        train = settled(config.train, len(run.selection().uids))
        taught = config.context.m + 1 if trainer == "distill" else 0
        passes = (taught + STUDENT_PASSES) * known[names.NEURONS] / answers
        found[names.TRAIN] = train.steps * train.batch * train.n * (SMALL_BATCHES * answer_s + passes)
    return found
