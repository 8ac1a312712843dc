"""What `pip install` of nopsd brings: every module and data file, and a lock that meets setup.py's demands."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nopsd

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-cpu.lock"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
WHERE = "import sysconfig; print(sysconfig.get_path('purelib'))"
CUDA_BUILDS = {"vllm", "torchvision", "torchaudio", "torchcodec", "triton"}


@dataclass(frozen=True)
class Environment:
    """`packages`: where the wheel lies; `variables`: a process's."""

    packages: Path
    command: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources unpacked from an sdist, which is built from a copy of the checkout: nothing is written into it."""
    copy, unpacked = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("sdist")
    for name in ("nopsd", "ds_configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    run([sys.executable, "setup.py", "-q", "sdist", "--formats=tar"], cwd=copy)
    (archive,) = (copy / "dist").glob("nopsd-*.tar")
    shutil.unpack_archive(archive, unpacked)
    (folder,) = unpacked.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel_file(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built by pip from the sdist's sources, as an index's users get it."""
    out = tmp_path_factory.mktemp("wheel")
    run([*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, sources])
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel_file)


@pytest.fixture(scope="module")
def installed(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment of its own with the wheel and, from this one, its requirements: no checkout, and no variable that
    names one. The folder of this environment is on its path as data, so that its own nopsd isn't found by it."""
    folder = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    own, here = (Path(run([p, "-c", WHERE]).strip()) for p in (python, sys.executable))
    (own / "requirements.pth").write_text(f"{here}\n")
    run([*PIP, "--python", python, "install", "-q", "--no-deps", "--no-compile", "--force-reinstall", wheel_file])
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return Environment(own, folder / "bin" / "nopsd", {**given, "PATH": path, "DS_ACCELERATOR": "cpu"})


def run(command: list[object], cwd: Path | None = None, env: dict[str, str] | None = None, timeout: int = 180) -> str:
    """What it prints; the test fails with it if the command does."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


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
    wanted |= {str(p.relative_to(ROOT)) for kind in ("*.jinja", "*.sbatch") for p in (ROOT / "nopsd").rglob(kind)}
    wanted.add("nopsd/py.typed")
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


def test_the_wheel_works_without_the_checkout(installed: Environment, tmp_path: Path):
    """Else presets, DeepSpeed's files or the embedded model are found by whoever has the repository alone."""
    python = installed.command.with_name("python")
    where = run([python, "-c", "import nopsd; print(nopsd.__file__)"], tmp_path, installed.variables)
    assert Path(where.strip()) == installed.packages / "nopsd" / "__init__.py"
    assert "run_dir: runs/lab" in run([installed.command, "config", "--preset", "lab"], tmp_path, installed.variables)
    both = "from nopsd.cli import main; main(['run', *lab, '--dry-run']); print(os.listdir()); main(['data', *lab])"
    shown = run([python, "-c", f"import os; lab = ['--preset', 'lab']; {both}"], tmp_path, installed.variables)
    assert "ZeRO-3" in shown and "\n0 errors" in shown and "\n[]\n" in shown
    assert (tmp_path / "runs" / "lab" / "data" / "pool.jsonl").is_file()


@pytest.mark.soak
@pytest.mark.engine
def test_a_whole_run_needs_no_checkout(installed: Environment, tmp_path: Path):
    """A server, ranks and a report from the wheel alone, whose plugin and ranks are found by their own processes."""
    small = "data.pool_limit=30 eval.limit=6 eval.n=4 train.steps=2 train.batch=4 context.m=2 server.kv_cache_mib=128"
    run([installed.command, "run", "--preset", "lab", *small.split()], tmp_path, installed.variables, timeout=900)
    assert (tmp_path / "runs" / "lab" / "report" / "report.html").is_file()
    logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "runs" / "lab" / "logs").glob("*.log"))
    assert str(ROOT) not in logs, "a process was started from the checkout"
