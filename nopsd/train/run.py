"""What a training is given and works with, whatever its algorithm, and what an algorithm brings to the one loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.engine.ema import ShardedEma
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel
from nopsd.engine.stopping import StopRequest
from nopsd.rollout.logprob_gap import GapBound, bound_of
from nopsd.rollout.types import Rollout
from nopsd.traces.schema import StepTrace
from nopsd.traces.writer import TraceWriter
from nopsd.train.batches import Batching, Example, MicroBatch
from nopsd.train.checkpoint import Keep, keep_of
from nopsd.train.guards import Guards
from nopsd.train.metrics import BatchLoss, Clock
from nopsd.train.planning import Limits
from nopsd.train.replay import Replay
from nopsd.train.tracing import Recorder


class Sync(Protocol):
    """What the loop asks of `nopsd.rollout.weight_sync.WeightSync`."""

    def push(self, version: int) -> None: ...


class Log(Protocol):
    """What the loop asks of `nopsd.train.metrics_log.MetricsLog`."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def responses(self, trace: StepTrace) -> None: ...


@dataclass
class Step:
    """One step as far as it has come. `uids`: its questions, each once; `rollouts`: `train.n` in a row to each."""

    number: int  # from 0: the version of the weights that are trained
    uids: list[str]
    rollouts: list[Rollout]
    clock: Clock
    examples: list[Example] = field(default_factory=list)  # of all ranks
    batches: list[MicroBatch] = field(default_factory=list)  # of this rank, on its device
    recorder: Recorder | None = None  # of a step that is traced


class Targets(NamedTuple):
    """What a step's loss is computed from beside the micro-batches: one value each, and numbers for the log."""

    of_batches: Sequence[Any]
    metrics: Mapping[str, float] = {}


class Algorithm(ABC):
    """What one way of training samples, learns from and logs. All ranks call each method together."""

    on_policy: ClassVar[bool] = True  # learns from responses that the server samples by the weights being trained
    logged: Any = ("tokens",)  # names of `BatchLoss.sums`; "tokens" is among them

    @abstractmethod
    def check(self, inputs: TrainingInputs) -> None:
        """Before any weight is read: UserError for questions or settings that can't be trained on."""

    @abstractmethod
    def identity(self, inputs: TrainingInputs) -> dict[str, Any]:
        """What shapes the result beside `train`, the seed and the dtype, as plain values."""

    def needs_server(self, inputs: TrainingInputs) -> bool:
        """Whether weights are served while it trains; equal on all ranks."""
        return True

    @abstractmethod
    def load(self, inputs: TrainingInputs, parallel: SequenceParallel) -> tuple[Any, ShardedEma | None]:
        """The student's engine and, where one is kept, the moving average of its weights; its own engines besides."""

    def bind(self, run: TrainingRun) -> None:  # noqa: B027 - most have nothing to do
        """Once the engines are there, before any checkpoint is loaded into them."""

    def before(self, run: TrainingRun) -> None:  # noqa: B027 - most have nothing to do
        """Before the first step of a training that begins, with the engines loaded. Nothing trained may change."""

    def meanwhile(self, run: TrainingRun, step: Step) -> Callable[[], None] | None:
        """Work of the step that needs no response, for all ranks while they are sampled; None: there is none."""
        return None

    @abstractmethod
    def examples(self, run: TrainingRun, step: Step) -> list[Example]:
        """The step's prompts and responses, equal on all ranks."""

    def batching(self, run: TrainingRun) -> Batching:
        """How the step is cut into micro-batches and its tokens are weighted: by default the mean over all tokens."""
        train = run.config.train
        limits = Limits(train.micro, train.micro_tokens, train.packing)
        return Batching(limits, pad=run.pad, parallel=run.parallel, device=run.ranks.device)

    @abstractmethod
    def targets(self, run: TrainingRun, step: Step) -> Targets:
        """What the loss of each of this rank's micro-batches is computed from."""

    @abstractmethod
    def loss(self, run: TrainingRun, batch: MicroBatch, target: Any) -> BatchLoss:
        """The student's forward, with the loss inside it."""

    def after_step(self, run: TrainingRun, step: int) -> None:  # noqa: B027 - most have nothing to do
        """After the optimizer has taken `step`."""

    @abstractmethod
    def metrics(self, run: TrainingRun, step: Step, sums: Mapping[str, float]) -> dict[str, float]:
        """Numbers of the step besides the loop's own. `sums`: over all tokens and ranks, as `logged` names them."""


@dataclass(kw_only=True)
class TrainingInputs:
    """What is trained, from what, and where the result goes.

    `selected`: the uids trained on, `retained`: those from elsewhere that are learned from the base model. `client`: a
    `rollout.stage.Generator`, used on rank 0 alone. `open_log(first step)`, `open_trace(first step)` and
    `probe(version)` (label-free numbers of the served policy) are called on rank 0 alone, and so is `queue()` (by
    server: seconds that requests waited, and how many). `replay`: recorded responses, in place of a server's.
    """

    config: Config
    algorithm: Algorithm
    selected: list[str]
    student_prompts: Mapping[str, list[int]]
    model_path: Path
    client: Any
    ranks: Ranks
    folder: Path
    open_log: Callable[[int], Log] | None = None
    open_trace: Callable[[int], TraceWriter] | None = None
    trace_every: int = 0  # steps between those that are traced; 0: none is
    replay: Replay | None = None
    progress: Callable[..., None] | None = None
    probe: Callable[[int], dict[str, float]] | None = None
    queue: Callable[[], dict[str, tuple[float, float]]] | None = None
    retained: list[str] = field(default_factory=list)
    neurons: np.ndarray | None = None  # bool [M]: those learned (`nopsd.train.neuron_mask`); None: all weights
    stop: StopRequest = field(default_factory=StopRequest)


@dataclass(kw_only=True)
class TrainingRun(TrainingInputs):
    """One training as a rank sees it, its engines loaded. `student` is a ZeRO-3 engine."""

    student: Any
    sync: Sync | None  # None: nothing is served
    identity: Mapping[str, Any]
    ema: ShardedEma | None = None
    log: Log | None = None  # on rank 0
    trace: TraceWriter | None = None  # likewise
    pad: int = 0
    extras: dict[str, Any] = field(default_factory=dict)  # JSON: of the checkpoint loaded, then of those saved
    parallel: SequenceParallel = ALONE  # the ranks that compute one sequence together
    guards: Guards = field(init=False)  # signs of collapse: `train` sets them up from where the checkpoint left them
    keep: Keep = field(init=False)  # which checkpoints stay
    gap_bound: GapBound = field(init=False)  # how far served log-probs of these weights may be from the trainer's

    def __post_init__(self) -> None:
        self.keep = keep_of(self.config.train)
        model, server = self.config.model, self.config.server
        layers = self.student.module.lm.config.get_text_config().num_hidden_layers
        self.gap_bound = bound_of((model.dtype, server.dtype or model.dtype), layers, self.config.train.sync_tolerance)
        self.algorithm.bind(self)
