"""What `pip install` of nopsd brings: every module and data file, and a lock that meets setup.py's demands."""

import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nopsd

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-cpu.lock"
CUDA_BUILDS = {"vllm", "torchvision", "torchaudio", "torchcodec", "triton"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built by pip from a copy of the sources, so that nothing is written into the checkout."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("nopsd", "ds_configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
    done = subprocess.run([*command, str(out), str(copy)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return message_from_bytes(wheel.read(name))


def locked() -> dict[str, str]:
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_wheel_holds_every_module_and_data_file(wheel):
    """A folder without __init__.py, or a data file not named in setup.py, is missing only for those who install."""
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT / "nopsd").rglob("*") if p.suffix in {".py", ".yaml"}}
    model = ROOT / "nopsd" / "lab" / "model"
    wanted |= {str(p.relative_to(ROOT)) for p in model.glob("*") if p.is_file()}
    wanted |= {f"nopsd/ds_configs/{p.name}" for p in (ROOT / "ds_configs").glob("*.json")}
    assert wanted - set(wheel.namelist()) == set()


def test_wheel_is_described_right(wheel, metadata):
    assert (metadata["Name"], metadata["Version"]) == ("nopsd", nopsd.__version__)
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Apache-2.0" in (metadata["License"] or metadata["License-Expression"])
    (scripts,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    assert b"nopsd = nopsd.cli:main" in wheel.read(scripts)


def test_lock_pins_exactly_and_holds_no_cuda_build():
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+_]+", line) for line in lines)
    assert len(locked()) == len(lines)
    assert not CUDA_BUILDS & set(locked())
    assert locked()["torch"] == "2.13.0+cpu"


def test_lock_meets_every_demand_of_setup_py(metadata):
    """Installed with --no-deps, a demand that the lock misses would show only at the import."""
    pins = locked()
    for text in metadata.get_all("Requires-Dist"):
        demand = Requirement(text)
        if demand.marker is None or any(demand.marker.evaluate({"extra": extra}) for extra in ("", "cpu", "test")):
            assert canonicalize_name(demand.name) in pins, demand
            assert demand.specifier.contains(pins[canonicalize_name(demand.name)], prereleases=True), demand
