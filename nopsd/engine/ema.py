"""The teacher as an exponential moving average of the student: θ̄ ← (1−ρ)·θ̄ + ρ·θ.

The float32 master of θ̄ is kept in shards, cut exactly as DeepSpeed ZeRO-3 cuts the student, so the
average and the write into the teacher's own shards need no communication. A bfloat16 average would
lose nearly every update at ρ = 0.01: only the copy the teacher computes with is cast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from nopsd.errors import ConfigError

SLICE = 1 << 20  # elements compared at a time


class ShardedEma:
    """The float32 master of a ZeRO-3 teacher that follows a ZeRO-3 student.

    `student` and `teacher` are parameters by name, equal in names and partitions (checked): of two models, or of
    two adapters of one. Starts as a copy of the student.
    """

    def __init__(self, student: Mapping[str, Any], teacher: Mapping[str, Any], rate: float) -> None:
        self.rate = rate
        self.student, self.teacher = dict(student), dict(teacher)
        check_same_partition(self.student, self.teacher)
        self.master = {name: shard.clone() for name, shard in student_shards(self.student)}  # this rank's shards

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """master ← (1−rate)·master + rate·student, in place. Call only after a step that was taken."""
        for name, shard in student_shards(self.student):
            self.master[name].lerp_(shard.to(device=self.master[name].device), self.rate)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def write_teacher(self) -> None:
        """The master, cast, into the teacher's shards.

        A parameter that is gathered at the moment (persistent, or not yet released) would go on computing
        with its old whole copy, so that copy is dropped.
        """
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        for name, parameter in self.teacher.items():
            parameter.ds_tensor.copy_(self.master[name])
            if parameter.ds_status is ZeroParamStatus.AVAILABLE:
                parameter.partition()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Shards of `state` back into the master and the teacher. ValueError if they don't fit."""
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in self.master.items()}:
            raise ValueError("the EMA shards don't fit this model and number of ranks")
        for name, shard in state.items():
            self.master[name].copy_(shard)
        self.write_teacher()


def student_shards(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """This rank's float32 shard of each trained parameter (the optimizer's own master where there is one)."""
    from deepspeed.utils import safe_get_local_fp32_param

    for name, parameter in parameters.items():
        yield name, safe_get_local_fp32_param(parameter).detach().float()


@torch.no_grad()  # type: ignore[untyped-decorator]
def squared_distance(student: Mapping[str, Any], teacher: Mapping[str, Any], rank: int) -> float:
    """This rank's share of ‖θ − θ̄‖², from the shards both hold; the sum over ranks is the whole."""
    total = 0.0
    for name, shard in student_shards(student):
        other, size = teacher[name].ds_tensor, shard.numel()
        count = max(0, min(size, int(student[name].ds_numel) - rank * size))  # the last shards are padded with noise
        for start in range(0, count, SLICE):  # whole, the copies of an embedding would be the step's peak of memory
            part = slice(start, min(start + SLICE, count))
            kept = other[part].to(device=shard.device, dtype=torch.float32)
            total += float((shard[part] - kept).double().pow(2).sum())
    return total


def check_same_partition(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> None:
    """ConfigError if the two engines cut a parameter differently: their shards couldn't be averaged."""
    if student.keys() != teacher.keys():
        raise ConfigError("student and teacher have different parameters: load both from one model")
    for name, parameter in student.items():
        other = teacher[name]
        plain = other.ds_tensor.is_floating_point() and getattr(other, "ds_secondary_tensor", None) is None
        if parameter.ds_tensor.shape != other.ds_tensor.shape or not plain:
            raise ConfigError(
                f"the DeepSpeed configs of student and teacher partition {name} differently: use the same ZeRO-3 "
                "partitioning in dist.student_config and dist.teacher_config (no hpz, no quantized weights)"
            )
