"""Which GPUs a command uses. If these fail, ranks or servers stand on GPUs that belong to somebody else."""

import os

import pytest

from nopsd import gpus
from nopsd.errors import ConfigError


@pytest.fixture
def host_of_four(tmp_path, monkeypatch):
    """A host with four GPUs, as far as `nvidia-smi` and PyTorch's version say."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\n" + "".join(f"echo '{i}, GPU-{i}abc'\n" for i in range(4)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(gpus, "version", lambda name: "2.13.0")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("listed", "seen"),
    [(None, [0, 1, 2, 3]), ("2,3", [2, 3]), ("3", [3]), ("", []), ("-1", []), ("GPU-1abc,GPU-0", [1, 0])],
)
def test_the_users_choice_counts(host_of_four, monkeypatch, listed, seen):
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert gpus.visible_gpus() == seen


@pytest.mark.parametrize(("listed", "message"), [("4", "no GPU 4"), ("0,x", "no GPU x"), ("MIG-1", "part of a GPU")])
def test_a_gpu_that_is_not_there_is_refused(host_of_four, monkeypatch, listed, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    with pytest.raises(ConfigError, match=message):
        gpus.visible_gpus()


def test_a_cpu_has_none(host_of_four, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert gpus.visible_gpus() == []
    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(gpus, "version", lambda name: "2.13.0+cpu")
    assert gpus.visible_gpus() == []


def test_the_allocator_is_the_users_where_he_says_so(host_of_four, monkeypatch):
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    gpus.set_allocator()
    assert os.environ.pop("PYTORCH_CUDA_ALLOC_CONF") == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    gpus.set_allocator()
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
