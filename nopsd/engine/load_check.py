"""A ZeRO-3-sharded model against what plain `transformers` loads: each parameter and buffer, in dtype and value.

ZeRO-3's context rounds whatever a model computes while it is built to the training dtype, RoPE's inverse frequencies
too, and keeps all parameters in it. So buffers are taken from an unsharded copy, whose weights stay on the meta device,
as transformers makes and fills it. Of the weights each rank compares a bounded number of places of its own piece with
the checkpoint's files; nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nopsd.errors import UserError

PLACES = 256  # of a rank's piece of a parameter
FUSED = 2  # of the parameters that transformers makes of several in the files, how many are made again
REMEDY = "use model.dtype=float32, or another model"


def match_unsharded(model: Any, dtype: torch.dtype, folder: Path) -> None:
    """Give the sharded `model` the buffers of an unsharded one; compare its parameters with the files in `folder`.

    Raises UserError naming the first parameter or buffer that can't be as plain transformers has it in `dtype`.
    """
    copy = unsharded_copy(model, dtype)
    _check_parameter_dtypes(model, copy, dtype, folder)
    checkpoint = Checkpoint(folder, model)
    _restore_buffers(model, copy, dtype, checkpoint)
    _check_values(model, dtype, checkpoint)


def check_files(model: Any, folder: Path) -> None:
    """UserError naming the first of the sharded model's parameters that the files in `folder` hold other values of."""
    first = next(model.parameters())
    _check_values(model, first.dtype, Checkpoint(folder, model))


@contextmanager
def buffers_kept(model: torch.nn.Module) -> Iterator[None]:
    """UserError if the block (DeepSpeed's initialisation) changes the dtype or the values of a buffer of `model`."""
    before = [(name, buffer.detach().clone()) for name, buffer in model.named_buffers()]
    modules = dict(model.named_modules())
    owners = [(modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name, _ in before]
    yield
    for (name, old), (owner, leaf) in zip(before, owners):
        new = getattr(owner, leaf)
        if new.dtype != old.dtype or not torch.equal(new.cpu(), old.cpu()):
            raise UserError(
                f"DeepSpeed changed the buffer {name} from {old.dtype} to {new.dtype}: remove "
                "data_types.buffer_dtype and data_types.keep_in_fp32_modules from its JSON"
            )


def unsharded_copy(model: Any, dtype: torch.dtype) -> Any:
    """The same architecture as plain transformers builds it in `dtype`: weights and saved buffers on the meta device,
    all other buffers computed."""
    kind = type(model)
    with ExitStack() as stack:
        for context in kind.get_init_context(dtype, False, False, None):
            stack.enter_context(context)
        copy = kind(deepcopy(model.config))
    for name, buffer in list(copy.named_non_persistent_buffers()):
        _set_buffer(copy, name, torch.empty_like(buffer, device="cpu"))
    copy.initialize_weights()
    return copy


class Checkpoint:
    """The tensors of a model folder by the name that they have in the model."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.model = model
        self.mapping: Sequence[Any] = getattr(model, "_weight_conversions", None) or []
        self._files = [safe_open(file, framework="pt") for file in sorted(folder.glob("*.safetensors"))]
        self._owner = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.sources = self._sources()

    def _sources(self) -> dict[str, list[str]]:
        """Which of the files' tensors make each of the model's."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        renamings = [entry for entry in self.mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in self.mapping if isinstance(entry, WeightConverter)]
        state = dict(self.model.state_dict(keep_vars=True))
        prefix, found = self.model.base_model_prefix, dict[str, list[str]]()
        self.fused: set[str] = set()
        for source in self._owner:
            target, pattern = rename_source_key(
                source, renamings, converters, base_model_prefix=prefix, meta_state_dict=state
            )
            if target not in state and source in state:
                target, pattern = source, None  # it has the model's own name already
            found.setdefault(target, []).append(source)
            if pattern is not None:
                self.fused.add(target)
        return found

    def read(self, name: str) -> Tensor | None:
        """The whole tensor, mapped from its file where nothing has to be made of several; None if there is none."""
        if name not in self.sources:
            return None
        raw = {source: self._owner[source].get_tensor(source) for source in self.sources[name]}
        if name not in self.fused:
            return next(iter(raw.values()))
        from transformers.integrations.deepspeed import _apply_weight_conversions_to_state_dict

        made: Mapping[str, Tensor] = _apply_weight_conversions_to_state_dict(self.model, raw, self.mapping)
        return made.get(name)


def _expected_dtype(copy: Any, name: str, own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """What transformers gives a loaded tensor: as its class's list says, else what it was built in."""
    from transformers.core_model_loading import build_glob_alternation

    plan: dict[str, torch.dtype] = copy._get_dtype_plan(dtype)
    if plan:
        pattern, by_group, _ = build_glob_alternation(list(plan))
        if (match := pattern.search(name)) is not None:
            return plan[by_group[match.lastgroup]]
    return own


def _check_parameter_dtypes(model: Any, copy: Any, dtype: torch.dtype, folder: Path) -> None:
    sharded = dict(model.named_parameters())
    for name, parameter in copy.named_parameters():
        expected = _expected_dtype(copy, name, parameter.dtype, dtype)
        if name in sharded and expected != dtype:
            raise UserError(
                f"model.path={folder}: transformers keeps {name} in {_name(expected)} where the model is in "
                f"{_name(dtype)}, and ZeRO-3 has one format for all: {REMEDY}"
            )


def _restore_buffers(model: Any, copy: Any, dtype: torch.dtype, checkpoint: Checkpoint) -> None:
    held = dict(model.named_buffers())
    plain = dict(copy.named_buffers())
    if differing := sorted(held.keys() ^ plain.keys()):
        raise UserError(f"the sharded model and the plain one have not the same buffers: {', '.join(differing[:4])}")
    for name, value in plain.items():
        if value.is_meta:  # one that is saved: the files have it
            stored = checkpoint.read(name)
            wanted = _expected_dtype(copy, name, value.dtype, dtype)
            value = (held[name] if stored is None else stored).detach().to(wanted)
        held[name].data = value.to(held[name].device, copy=True)


def _check_values(model: Any, dtype: torch.dtype, checkpoint: Checkpoint) -> None:
    fused = 0
    for name, parameter in model.named_parameters():
        if name in checkpoint.fused:
            fused += 1
            if fused > FUSED:  # each takes a layer's weights to make
                continue
        stored = checkpoint.read(name)
        if stored is not None:
            _check_piece(name, parameter, stored.to("cpu").reshape(-1), dtype)


def _check_piece(name: str, parameter: Any, stored: Tensor, dtype: torch.dtype) -> None:
    import deepspeed.comm as comm

    piece = parameter.ds_tensor.reshape(-1)
    start = comm.get_rank(parameter.ds_process_group) * piece.numel()
    length = min(piece.numel(), stored.numel() - start)
    if length <= 0:  # padding alone
        return
    places = torch.linspace(0, length - 1, min(PLACES, length), dtype=torch.float64).long()
    own = piece[places.to(piece.device)].cpu()
    expected = stored[start + places].to(dtype)
    if own.dtype != dtype or not torch.equal(own, expected):
        wrong = int((own != expected).sum())
        raise UserError(
            f"{name} of the sharded model is not what the files hold: {wrong} of {len(places)} places compared differ "
            f"(dtype {_name(own.dtype)}, expected {_name(dtype)}): see that the model's files are whole"
        )


def _set_buffer(model: Any, name: str, value: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent)._buffers[leaf] = value


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
