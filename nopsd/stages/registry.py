"""The stages in order, each as thin glue: read artefacts, call the stage's package, leave files.

    data ─▶ rollout ─▶ neurons ─▶ signals ─▶ select ─▶ train ─▶ evaluate ─▶ report
                 └───▶ evaluate_base ───────────────────────────────┘

A stage names the stages it reads and the config keys that shape its artefact; together with the
model's and the pool's hash these are its fingerprint (see `nopsd.files`). A method may need fewer of them: `planned`
leaves out neurons where nothing goes by them, and all that selects and trains where nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from nopsd.config import DISTILL_CONDUCT, METHODS, TEACHER_CONDUCT, TRAIN_CONDUCT, Config, is_foreign, to_plain
from nopsd.data.records import questions_hash
from nopsd.data.sources import load_responses, load_splits
from nopsd.errors import ConfigError
from nopsd.evaluation.oracle import pool_key
from nopsd.evaluation.stage import evaluate_policy, judge_pool
from nopsd.files import read_json, sha256_file, sha256_json
from nopsd.rollout.given import given_rollouts
from nopsd.rollout.stage import run_rollouts
from nopsd.rollout.types import read_rollouts
from nopsd.run.session import Session, eval_sampling
from nopsd.selection.names import needs_neurons, source_hashes
from nopsd.signals.needs import FROM_TEXT, needed, shaping_keys
from nopsd.signals.store import Signals, write_signals
from nopsd.stages.data import prepare_data, read_responses

Progress = Callable[..., None] | None


@dataclass(frozen=True)
class Stage:
    """One stage: its work, the stages it reads, the config keys it depends on, and how it is started."""

    name: str
    does: str
    work: Callable[[Session, Path, Progress], None]
    reads: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    distributed: bool = False


def fingerprint(session: Session, stage: Stage) -> dict[str, Any]:
    """Everything a stage's artefact is made from, as plain values."""
    made: dict[str, Any] = {"model": session.model.hash, "seed": session.config.seed}
    if stage.name == "signals":
        made |= _signals_made_from(session.config)
    for key in (*keys_of(stage, session.config), *(shaping_keys(made.get("columns", ())))):
        value = reduce(getattr, key.split("."), session.config)
        made[key] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if stage.name == "data":
        made["pool"] = _pool_hash(session.config)
    if stage.name == "select":  # a user's own code: edited, it chooses otherwise
        made |= {f"code.{key}": digest for key, digest in source_hashes(session.config).items()}
    if stage.name == "train" and METHODS[session.config.method].reads_labels:
        made["labels"] = sha256_json(pool_key(session.config, load_splits(session.config.data).pool))
    for name in reads_of(stage, session.config):
        made[f"input.{name}"] = session.run.stage_hash(name)
    return made


def left_out(config: Config) -> frozenset[str]:
    """Stages that the method doesn't need."""
    if METHODS[config.method].trainer is None:
        return frozenset({"neurons", "signals", "select", "train", "evaluate"})
    return frozenset() if needs_neurons(config) else frozenset({"neurons"})


def planned(config: Config) -> list[Stage]:
    """The stages of a run, in order, each with what it reads of them."""
    absent = left_out(config)
    return [as_planned(stage, config) for stage in STAGES if stage.name not in absent]


def as_planned(stage: Stage, config: Config) -> Stage:
    """The stage with what it does and reads for this method."""
    does = TRAINS.get(METHODS[config.method].trainer, stage.does) if stage.name == "train" else stage.does
    return replace(stage, does=does, reads=reads_of(stage, config))


def reads_of(stage: Stage, config: Config) -> tuple[str, ...]:
    """The stages whose artefacts it is made from."""
    absent = left_out(config)
    if stage.name == "signals" and "belief_shift" not in signal_columns(config):
        absent |= {"neurons"}  # read to find demonstrations alone
    return tuple(name for name in stage.reads if name not in absent)


def keys_of(stage: Stage, config: Config) -> tuple[str, ...]:
    """The config keys that shape its artefact; of training those that mean something to the method."""
    if stage.name != "train":
        return stage.keys
    unread = {"context"} if METHODS[config.method].trainer != "distill" else set()
    return tuple(key for key in stage.keys if key not in unread and not is_foreign(config.method, key))


def signal_columns(config: Config) -> frozenset[str]:
    """What the stage `signals` has to compute for this configuration."""
    return needed(config.select, config.context)


def works_here(stage: Stage, config: Config) -> bool:
    """Whether the process that the user started does the stage's work itself: not distributed, or too little for it."""
    if stage.name == "select":
        return not needs_neurons(config) and config.context.retriever in ("none", "random", "same_prompt_rollout")
    return not stage.distributed or (stage.name == "signals" and signal_columns(config) <= FROM_TEXT)


def asks_server(stage: Stage, config: Config) -> bool:
    """Whether the stage's ranks talk to the rollout server."""
    if stage.name == "train":  # fine-tuning samples for the probe alone
        return METHODS[config.method].trainer != "sft" or config.train.probe_every > 0
    return stage.name == "signals" and "belief_shift" in signal_columns(config)


def _signals_made_from(config: Config) -> dict[str, Any]:
    """Not the names of selector and retriever: what doesn't change the columns may change."""
    columns = sorted(signal_columns(config))
    if "nait" not in columns:
        return {"columns": columns}
    try:
        return {"columns": columns, "signal.reference": sha256_file(Path(config.signal.reference or ""))}
    except OSError as error:
        raise ConfigError(f"signal.reference={config.signal.reference} can't be read ({error.strerror})") from error


def _pool_hash(config: Config) -> str:
    splits, responses = load_splits(config.data), load_responses(config.data)
    parts = [questions_hash(splits.pool), *(questions_hash(t) for _, t in sorted(splits.tests.items()))]
    if responses is not None:
        parts.append(sha256_json([[q.uid, responses[q.uid]] for q in splits.pool]))
    return sha256_json(parts)


def _data(session: Session, folder: Path, progress: Progress) -> None:
    prepare_data(session.config, session.model, session.renderer, folder)


def _rollout(session: Session, folder: Path, progress: Progress) -> None:
    prompts = [session.renderer.student(q) for q in session.pool]
    responses = read_responses(session.run.stage_dir("data"))
    if responses is not None:
        samples, window = session.config.rollout_zs.n, session.model.window
        given_rollouts(session.pool, prompts, responses, session.renderer.response, samples, window, folder, progress)
        return
    client = session.client_holding(session.model.path, version=0)
    run_rollouts(session.pool, prompts, client, session.config.rollout_zs, session.config.seed, folder, 0, progress)


def _evaluate_base(session: Session, folder: Path, progress: Progress) -> None:
    _evaluate(session, folder, progress, "base", session.model.path, 0)


def _evaluate_final(session: Session, folder: Path, progress: Progress) -> None:
    from nopsd.train.export import RECORD

    exported = session.run.stage_dir("train") / "export"
    _evaluate(session, folder, progress, "final", exported, read_json(exported / RECORD)["steps"])


def _evaluate(session: Session, folder: Path, progress: Progress, name: str, weights: Path, version: int) -> None:
    config = session.config
    if not session.tests:  # a user's own questions without answers: nothing to measure on
        evaluate_policy(config, name, {}, [], folder)
        return
    questions = [q for tests in session.tests.values() for q in tests]
    client = session.client_holding(weights, version)
    rollouts = run_rollouts(
        questions,
        [session.renderer.student(q) for q in questions],
        client,
        eval_sampling(config.eval),
        config.eval.seed or config.seed,
        folder,
        version,
        progress,
    )
    evaluate_policy(config, name, session.tests, rollouts, folder, session.think_open)
    if name == "base":
        pool_rollouts = read_rollouts(session.run.stage_dir("rollout") / "rollouts.parquet")
        judge_pool(config, session.pool, pool_rollouts, folder, session.think_open)


def _neurons(session: Session, folder: Path, progress: Progress) -> None:
    from nopsd.stages.distributed import score_neurons

    score_neurons(session, folder, progress)


def _signals(session: Session, folder: Path, progress: Progress) -> None:
    if session.ranks is None and not signal_columns(session.config):
        write_signals(folder, Signals([]))
        return
    from nopsd.stages.distributed import compute_signals

    compute_signals(session, folder, progress)


def _select(session: Session, folder: Path, progress: Progress) -> None:
    from nopsd.stages.distributed import select_contexts

    select_contexts(session, folder, progress)


def _train(session: Session, folder: Path, progress: Progress) -> None:
    from nopsd.stages.train import train

    train(session, folder, progress)


def _report(session: Session, folder: Path, progress: Progress) -> None:
    from nopsd.stages.report import report

    report(session, folder)


TRAIN_KEYS = tuple(f"train.{key}" for key in to_plain(Config())["train"] if key not in TRAIN_CONDUCT)
DISTILL_KEYS = tuple(f"distill.{key}" for key in to_plain(Config())["distill"] if key not in DISTILL_CONDUCT)
TEACHER_KEYS = tuple(f"teacher.{key}" for key in to_plain(Config())["teacher"] if key not in TEACHER_CONDUCT)
SFT_KEYS = tuple(f"sft.{key}" for key in to_plain(Config())["sft"])
GRPO_KEYS = tuple(f"grpo.{key}" for key in to_plain(Config())["grpo"])
# what `train` does where it does not distil
TRAINS: dict[str | None, str] = {"sft": "fine-tune on the voted answers", "grpo": "reinforce by label-free rewards"}
SERVED = ("model.dtype", "server.dtype")  # numbers of the weights that sample
STAGES = (
    Stage(
        "data",
        "read and check the questions",
        _data,
        keys=(
            "data",
            "prompt",
            "eval.targets",
            "eval.limit",
        ),
    ),
    Stage(
        "rollout",
        "answer the pool zero-shot with the base model",
        _rollout,
        ("data",),
        ("rollout_zs", "prompt", *SERVED),
    ),
    Stage("evaluate_base", "evaluate the base model", _evaluate_base, ("data", "rollout"), ("eval", "prompt", *SERVED)),
    Stage(
        "neurons",
        "score every neuron's contribution to each token",
        _neurons,
        ("data", "rollout"),
        ("neuron", "model.dtype"),
        True,
    ),
    Stage(
        "signals",
        "compute what else selection goes by",
        _signals,
        ("data", "rollout", "neurons"),
        distributed=True,
    ),
    Stage(
        "select",
        "select questions, find their demonstrations",
        _select,
        ("data", "rollout", "neurons", "signals"),
        (
            "select",
            "context",
        ),
        True,
    ),
    Stage(
        "train",
        "distil the demonstrations on-policy",
        _train,
        ("data", "rollout", "select"),
        (
            "method",
            *TRAIN_KEYS,
            *DISTILL_KEYS,
            *TEACHER_KEYS,
            *SFT_KEYS,
            *GRPO_KEYS,
            "context",
            "prompt",
            "model.dtype",
        ),
        True,
    ),
    Stage("evaluate", "evaluate the trained model", _evaluate_final, ("data", "train"), ("eval", "prompt", *SERVED)),
    Stage("report", "write the report", _report, ("evaluate_base", "neurons", "select", "train", "evaluate")),
)
STAGE_BY_NAME = {stage.name: stage for stage in STAGES}
