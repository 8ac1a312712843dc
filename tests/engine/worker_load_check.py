"""Every parameter and buffer of sharded models against plain transformers'; under worker_ranks.py.

job: {models: {name: folder}}. Each in float32 and bfloat16, the first also as it is trained; parameters are gathered
here alone. Then weights that are not the files' must be refused.
"""

import pathlib

import deepspeed
import torch
from transformers import AutoModelForCausalLM

from nopsd.config import TrainConfig
from nopsd.engine.frozen import DTYPES, load_frozen
from nopsd.engine.load_check import match_unsharded
from nopsd.engine.student import load_student
from nopsd.errors import UserError


def sharded(dtype):
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }


def assert_equal(name, own, plain):
    assert (own.dtype, own.shape) == (plain.dtype, plain.shape), (name, own.dtype, plain.dtype)
    assert torch.equal(own, plain), (name, (own.double() - plain.double()).abs().max())


def compare(engine_lm, plain):
    own = dict(engine_lm.named_parameters())
    assert own.keys() == dict(plain.named_parameters()).keys()
    for name, parameter in plain.named_parameters():
        with deepspeed.zero.GatheredParameters([own[name]]):
            assert_equal(name, own[name].data, parameter.data)
    buffers = dict(engine_lm.named_buffers())
    assert buffers.keys() == dict(plain.named_buffers()).keys()
    for name, buffer in plain.named_buffers():
        assert_equal(name, buffers[name], buffer)


def refuse_other_weights(lm, folder, rank):
    """A single rank's piece of one parameter holds other weights; only that rank can see it."""
    name, parameter = list(lm.named_parameters())[-2]
    parameter.ds_tensor.data.add_(rank)
    try:
        match_unsharded(lm, parameter.ds_tensor.dtype, pathlib.Path(folder))
        refused = ""
    except UserError as error:
        refused = str(error)
    assert (name in refused) == (rank == 1), refused


def main(ranks, job):
    for number, (family, folder) in enumerate(job["models"].items()):
        for dtype in DTYPES:
            plain = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype])
            try:
                lm = load_frozen(folder, dtype, sharded(dtype)).module
                compare(lm, plain)
                if number == 0:
                    engine = load_student(folder, dtype, sharded(dtype), TrainConfig(packing=False), lambda lm: lm)
                    compare(engine.module, plain)
                    refuse_other_weights(lm, folder, ranks.rank)
            except Exception as error:
                raise AssertionError(f"{family} in {dtype}") from error
