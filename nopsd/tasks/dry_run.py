"""`--dry-run`: what a command would do, checked without a GPU, the network or weights.

In: the configuration, a command's name. Out: a text and an exit code: 1 if something is wrong that no download would
fix. Nothing is started, fetched or written. Checked: the stages in order with their work; the data, where they are
here; the windows; memory of a device, and which GPUs have it; DeepSpeed's JSON, rendered and read by DeepSpeed's own
parser; what is missing here. Hosts, ports and servers are `nopsd doctor`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nopsd.cluster.doctor import table
from nopsd.cluster.doctor.fitting import GPUS, fitting, room_on, shares_devices
from nopsd.cluster.doctor.memory import GIB, PUBLISHED, Needs, needs_of, shape_of
from nopsd.cluster.findings import ERROR, OK, WARNING, Finding
from nopsd.cluster.hostfile import ranks_of_each, world_size
from nopsd.cluster.planning import hosts_that_train
from nopsd.config import ENTRY_POINTS, METHODS, Config
from nopsd.data.reading import answer_reader
from nopsd.data.sources import hub_id, published_sizes
from nopsd.data.sources.others import load_run_splits
from nopsd.engine.device import device, fast_dtype
from nopsd.engine.ds_config import role_configs
from nopsd.engine.family_check import check_scoring, check_training
from nopsd.errors import ConfigError, UserError
from nopsd.evaluation.conclusion import THINKING, thinks
from nopsd.gguf_folder import folder_of, is_gguf
from nopsd.model_check import check_model
from nopsd.model_files import INDEX, check_pointers, weight_map, window_of
from nopsd.models import LAB_MODEL, ModelFiles
from nopsd.plugins import is_own
from nopsd.run.folder import SELECT, SIGNALS, TRAIN
from nopsd.run.rounds import rounds_of
from nopsd.run.stage import Counts, Stage
from nopsd.selection.names import check_names
from nopsd.stages.data import check_pool, check_sampling, check_windows, chosen_tests
from nopsd.stages.registry import STAGES
from nopsd.train.losses.head import check_family_head

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@dataclass
class Preview:
    """All that was found. `fetched`: what a run would get from the hub; `wanted`: what only the user can provide."""

    findings: list[Finding] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    needs: Needs | None = None

    def noted(self, check: str, look: Callable[[], Any], fine: str = "") -> Any:
        """A look whose error is a row of the preview, and not the command's end.

        Args:
            check: The row's first column.
            look: What is called.
            fine: The row's text where it works; empty: no row.

        Returns:
            What `look` returns, or None.
        """
        try:
            value = look()
        except UserError as error:
            self.findings.append(Finding(check, "all", ERROR, str(error)))
            return None
        if fine:
            self.findings.append(Finding(check, "all", OK, fine))
        return value


def check_own(config: Config) -> None:
    """Users' own judge, divergence and adapter can be loaded, and the places of tracking.to; ConfigError if not."""
    from nopsd.neurons.adapters.find import find_adapter
    from nopsd.train.losses.support import find_divergence
    from nopsd.train.tracking.base import check_places

    check_places(config)
    answer_reader(config, config.eval.extract)
    if is_own(config.distill.divergence, ENTRY_POINTS["distill.divergence"]):
        find_divergence(config.distill.divergence)
    if config.model.mlp_adapter:
        find_adapter(config.model.mlp_adapter)


def dry_run(config: Config, command: str = "run") -> tuple[str, int]:
    """What to print, and the exit code. ConfigError if the method has no such stage."""
    rounds = rounds_of(config)
    config = rounds[0]
    stages = STAGES.planned(config) if command == "run" else STAGES.with_inputs(command, config)
    found = Preview()
    counts = found.noted("data", lambda: count_questions(config, found))
    found.noted("names", lambda: check_own(config))
    hosts = found.noted("hosts", lambda: hosts_that_train(config))
    ranks = world_size(hosts) if hosts else config.dist.ranks
    of_host = ranks_of_each(hosts) if hosts else None
    if {SIGNALS, SELECT} & {stage.name for stage in stages}:
        found.noted("names", lambda: check_names(config), f"{config.select.selector}, {config.context.retriever}")
    found.findings.append(Finding("dtype", "all", OK, dtype_message(config)))
    if thinks(config):
        found.findings.append(Finding("thinking", "all", OK, THINKING))
    folder = found.noted("model", lambda: find_model(config, found))
    if folder is not None:
        found.noted("windows", lambda: check_lengths(config, folder), "the longest prompts and responses fit")
    engines = None
    if METHODS[config.method].trainer is not None and any(stage.distributed for stage in stages):
        engines = found.noted("deepspeed", lambda: rendered(config, found, of_host))
    if folder is not None and engines is not None:
        found.noted("family", lambda: check_family(config, folder, stages), "computed rightly in the form asked for")
        shape = shape_of(str(folder), config.model.trust_remote_code)
        found.needs = needs_of(config, shape, ranks, *engines)
        found.findings.append(_fit(config, found.needs))
    parts = [
        _heading(config, command),
        _rounds_line(rounds),
        _stage_lines(config, stages, counts),
        table.memory_text(found.needs, ranks, None) if found.needs else "",
        _listed("to be fetched:", found.fetched),
        _listed("to be provided by you:", found.wanted),
        table.as_text(found.findings),
        table.summary(found.findings),
    ]
    return "\n\n".join(part for part in parts if part), table.exit_code(found.findings)


def _rounds_line(rounds: Sequence[Config]) -> str:
    """That the same is done again, with which model and where to; empty for one round."""
    if len(rounds) == 1:
        return ""
    return (
        f"{len(rounds)} rounds: below is the first; each later one does the same with the model that the one before "
        f"trained, up to {rounds[-1].run_dir}"
    )


def dtype_message(config: Config) -> str:
    """The number format of trainer and server, and what `model.dtype: auto` means on this machine."""
    served = config.server.dtype or config.model.dtype
    return f"trained in {config.model.dtype}, served in {served}; auto is {' on '.join(fast_dtype())}"


def count_questions(config: Config, found: Preview) -> Counts | None:
    """Of the data where they are here; else as published, if that is known. Answers are not read."""
    remote = hub_id(config.data)
    if remote is None and config.data.name == "edu_feedback" and not config.data.path:
        found.wanted.append("data: Edu-Feedback is on no hub: set data.path to its file (columns id, input, label)")
    elif remote is not None:
        found.fetched.append(f"data: {remote}")
    else:
        splits = load_run_splits(config)
        check_pool(config, splits.pool)
        tests = {name: len(questions) for name, questions in chosen_tests(config, splits).items()}
        check_sampling(config, bool(tests or splits.held), splits.responses is not None)
        return Counts(len(splits.pool), tests, held=len(splits.held))
    sizes = published_sizes(config.data)
    if sizes is None:
        return None
    pool, tests = sizes
    wanted = {config.data.domain, *config.eval.targets} if config.eval.targets else set(tests)
    limited = {name: min(number, config.eval.limit or number) for name, number in tests.items() if name in wanted}
    return Counts(min(pool, config.data.pool_limit or pool), limited, False, config.data.holdout or 0)


def find_model(config: Config, found: Preview) -> Path | None:
    """The folder with the model's config.json: the model's own, the hub cache's, or one that we ship; None without.

    Raises:
        ConfigError: The path is no folder and no hub id, or the folder lacks files.
    """
    path = config.model.path
    local = LAB_MODEL if path == "lab" else Path(path).expanduser()
    if is_gguf(path) and local.is_file():
        local = folder_of(local.resolve())
        if not local.is_dir():
            message = (
                f"{path} is made into {local} by the first command that needs it, so memory can't be estimated yet"
            )
            found.findings.append(Finding("model", "all", WARNING, message))
            return None
    if local.is_dir():
        check_pointers(local)
        if lacking := lacking_files(local):
            raise ConfigError(f"model.path={path}: {local} lacks {', '.join(lacking)}, and nothing fetches it")
        check_model(local, config)
        return local
    if local.is_absolute() or path.count("/") != 1 or path.startswith("."):
        raise ConfigError(f"model.path={path}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, "config.json", revision=config.model.revision)
    if not isinstance(cached, str):
        found.fetched.append(f"model: {path} (config.json, weights, tokenizer)")
        if (PUBLISHED / path / "config.json").is_file():
            return PUBLISHED / path
        message = f"{path}'s config.json isn't here, so memory can't be estimated: fetch that file first, or give"
        found.findings.append(Finding("model", "all", WARNING, f"{message} model.path=FOLDER"))
        return None
    folder = Path(cached).parent
    if lacking := lacking_files(folder):
        found.fetched.append(f"model: {path} ({', '.join(lacking)})")
    else:
        check_model(folder, config)
    return folder


def lacking_files(folder: Path) -> list[str]:
    """Names of a model folder's files that aren't there."""
    lacking = [name for name in ("config.json", *TOKENIZER) if not (folder / name).is_file()]
    index = folder / INDEX
    if index.is_file():
        parts = sorted(set(weight_map(index).values()))
        return lacking + [name for name in parts if not (folder / name).is_file()]
    return lacking if any(folder.glob("*.safetensors")) else [*lacking, "*.safetensors"]


def check_lengths(config: Config, folder: Path) -> None:
    """Raise ConfigError if prompts or responses don't fit the windows of the model or the server."""
    check_windows(config, ModelFiles(folder, "", window_of(folder)))
    longest = max(config.zero_shot.max_new, config.eval.max_new, config.train.max_response)
    if longest >= config.server.max_model_len:
        raise ConfigError(
            f"server.max_model_len={config.server.max_model_len} leaves no room for a prompt before {longest} tokens "
            "of zero_shot.max_new, eval.max_new or train.max_response: raise it, or lower those"
        )


def check_family(config: Config, folder: Path, stages: Sequence[Stage]) -> None:
    """ConfigError if the model's family would be computed wrongly as it is asked for."""
    if TRAIN not in {stage.name for stage in stages}:
        check_scoring(folder, config)
        return
    check_training(folder, config)
    check_family_head(folder, config.model.trust_remote_code)


def rendered(config: Config, found: Preview, ranks_of_host: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The student's and the teacher's DeepSpeed JSON, filled, once DeepSpeed's own parser has taken them.

    Args:
        config: The run's.
        found: Gets a row for each.
        ranks_of_host: Ranks that every host has; None: not the same on all.

    Raises:
        ConfigError: DeepSpeed refuses one.
    """
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfig

    kind = "gpu" if device() == "cuda" or config.model.dtype == "bfloat16" else "cpu"
    student, teacher = role_configs(config, kind, ranks_of_host)
    for role, rendering in (("student", student), ("teacher", teacher)):
        try:
            read = DeepSpeedConfig(rendering)
        except Exception as error:  # it raises AssertionError, ValueError and pydantic's own alike
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"dist.{role}_config: DeepSpeed {deepspeed.__version__} refuses it: {said}") from error
        offload = read.zero_config.offload_param
        where = offload.device if offload else "none"
        dtype = "bf16" if read.bfloat16_config.enabled else "float32"
        message = f"{role}: ZeRO-{read.zero_optimization_stage}, {dtype}, weights offloaded: {where}"
        found.findings.append(Finding("deepspeed", "all", OK, message))
    return student, teacher


def _fit(config: Config, needs: Needs) -> Finding:
    if config.model.dtype != "bfloat16" and device() != "cuda":
        return Finding("memory", "all", OK, f"{needs.total / GIB:.2f} GiB a rank")
    names = fitting(config, needs)
    shared = f", {config.server.gpu_memory_utilization:.0%} of each the server's" if shares_devices(config) else ""
    message = f"{needs.total / GIB:.1f} GiB a rank{shared}: fits "
    if names:
        room = room_on(config, needs, GPUS[names[0]])
        tokens = "" if room.tokens is None else f", room for {room.tokens:,} tokens in its server"
        return Finding("memory", "all", OK, f"{message}{', '.join(names)} ({room.left / GIB:.1f} GiB left{tokens})")
    remedy = "train.gradient_checkpointing=true, a smaller train.micro, offload (ds_configs), or more ranks"
    return Finding("memory", "all", WARNING, f"{message}none of {', '.join(GPUS)}: {remedy}")


def _heading(config: Config, command: str) -> str:
    method = f"{config.method} ({METHODS[config.method].does})"
    return f"dry run of `nopsd {command}`, method {method}, run_dir {config.run_dir}: nothing is started or written"


def _stage_lines(config: Config, stages: list[Stage], counts: Counts | None) -> str:
    rows = []
    for number, stage in enumerate(stages, 1):
        done = stage.workload(config, counts)
        rows.append(f"{number:2} {stage.name:14} {stage.title(config)}{': ' if done else ''}{done}")
    return "\n".join(rows)


def _listed(title: str, rows: list[str]) -> str:
    return "\n".join([title, *(f"  {row}" for row in rows)]) if rows else ""
