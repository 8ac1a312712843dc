"""Two optimizer steps of a tiny model under each means of memory; run by worker_ranks.py.

job: model (folder), out (folder), nvme (folder), cases: {name: [DeepSpeed JSON's name, TrainConfig's keys,
ranks that share a sequence (1)]}, teachers: {name: DeepSpeed JSON's name}. With `packing` a micro-batch is one row of
sequences; the second step then takes all of a rank's sequences in one micro-batch, the first has several.
Each case leaves OUT/CASE-WORLD.pt: the losses and the first step's gradients; or a teacher's logits.
"""

import itertools
import json
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_grad

from nopsd.config import DistConfig, LoraConfig, TrainConfig
from nopsd.engine.ds_config import FOLDERS, RunSettings, host_values, load_ds_config
from nopsd.engine.frozen import load_frozen
from nopsd.engine.packed_attention import Segments, inputs_of
from nopsd.engine.sequence_parallel import join, split_sequences
from nopsd.engine.student import load_student

VOCABULARY, LENGTHS = 300, (13, 7, 21, 10)


class NextToken(torch.nn.Module):
    """A causal LM whose forward is a loss: the sum of next-token cross-entropies."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm

    def forward(self, ids_BT, rows_N, own, segments):
        hidden_BTH = self.lm.base_model(**inputs_of(ids_BT, segments)).last_hidden_state
        logits_NV = self.lm.get_output_embeddings()(hidden_BTH.flatten(0, 1)[rows_N][own])
        targets_N = ids_BT.flatten()[rows_N + 1]
        return torch.nn.functional.cross_entropy(logits_NV.float(), targets_N[own], reduction="sum")


def ds_config_of(name, world, accumulation, nvme, folder, role="student"):
    """The shipped file, but with every weight sharded: the tiny model would else stay whole on each rank."""
    config = json.loads((FOLDERS[0] / name).read_text())
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    file = folder / name
    file.write_text(json.dumps(config))
    host = host_values(DistConfig(ranks=world, nvme_path=nvme))
    return load_ds_config(str(file), role, "gpu", RunSettings(2, 0.0, "float32", accumulation, host))


def count_calls(module):
    """A list that grows by one as each forward of the module starts (a checkpoint's second one may end early)."""
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def where(parameters):
    """Is every weight in shards, and where do they rest?"""
    return {
        "sharded": all(p.ds_tensor.ds_numel < p.ds_numel for p in parameters),
        "resting": sorted({str(p.ds_tensor.final_location) for p in parameters}),
    }


def micro_batches(rectangles, packing, whole):
    """(ids, rows that predict a token, segments) of each micro-batch; `whole`: packed rows all in one."""
    if not packing:
        shapes = [ids_BT.shape for ids_BT in rectangles]
        rows = [torch.arange(b * t).view(b, t)[:, :-1].flatten() for b, t in shapes]
        return [(ids_BT, rows_N, None) for ids_BT, rows_N in zip(rectangles, rows)]
    packs = [[ids for ids_BT in rectangles for ids in ids_BT]] if whole else [list(ids_BT) for ids_BT in rectangles]
    found = []
    for pack in packs:
        lengths = tuple(len(ids) for ids in pack)
        rows = [start + torch.arange(n - 1) for start, n in zip(itertools.accumulate((0, *lengths)), lengths)]
        found.append((torch.cat(pack)[None], torch.cat(rows), Segments(lengths)))
    return found


def run_teacher(ranks, job, folder, name):
    config = ds_config_of(name, ranks.world, 1, job["nvme"], folder, role="teacher")
    engine = load_frozen(job["model"], "float32", config, packing=True)
    with torch.no_grad():
        logits = engine(**inputs_of(torch.arange(1, 20)[None], Segments((12, 7)))).logits
    return {"logits": logits, **where(list(engine.module.parameters()))}


def run_case(ranks, job, folder, name, keys, shared_by=1):
    train = TrainConfig(lr=1e-2, warmup=0, **{**keys, "lora": LoraConfig(**keys.get("lora", {}))})
    groups = ranks.world // shared_by  # batches computed at a time
    config = ds_config_of(name, ranks.world, 1, job["nvme"], folder)
    parallel = join(ranks, shared_by)

    def wrap(lm):
        split_sequences(lm, parallel)
        return NextToken(lm)

    engine = load_student(job["model"], "float32", config, train, wrap)
    parameters = list(engine.module.parameters())
    calls = count_calls(engine.module.lm.model.layers[0].mlp.gate_proj)
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randint(1, VOCABULARY, (2, length), generator=generator) for length in LENGTHS]
    losses, gradients, secondary = [], {}, []
    for step in range(2):
        total = torch.zeros(())
        mine = micro_batches(batches[ranks.rank // shared_by :: groups], train.packing, step == 1)
        for index, (ids_BT, rows_N, segments) in enumerate(mine):
            engine.set_gradient_accumulation_boundary(index == len(mine) - 1)
            loss = engine(ids_BT, rows_N, slice(parallel.rank, None, parallel.size), segments)
            engine.backward(loss * ranks.world / sum(LENGTHS), scale_wrt_gas=False)
            total += loss.detach()
            if not gradients and engine.is_gradient_accumulation_boundary():
                named = engine.module.lm.named_parameters()
                gradients = {n: safe_get_full_grad(p).clone() for n, p in named if p.requires_grad}
                secondary = [p.ds_secondary_tensor is not None for p in parameters]  # the step drops them
            engine.step()
        losses.append(float(ranks.all_sum(total)))
    facts = {
        "losses": losses,
        "gradients": gradients,
        "calls": len(calls),
        "secondary": any(secondary),
        **where(parameters),
    }
    engine.destroy()
    return facts


def main(ranks, job):
    out = Path(job["out"])
    folder = out / f"configs-{ranks.world}-{ranks.rank}"
    folder.mkdir(exist_ok=True)

    def keep(facts, case):
        if ranks.is_main:
            torch.save(facts, out / f"{case}-{ranks.world}.pt")

    for teacher, name in job["teachers"].items():
        keep(run_teacher(ranks, job, folder, name), teacher)
    for case, (name, keys, *shared_by) in job["cases"].items():
        keep(run_case(ranks, job, folder, name, keys, *shared_by), case)
