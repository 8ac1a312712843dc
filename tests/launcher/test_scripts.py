"""The set-up, quick-start and test scripts: what they do when all is well, and what they say when something is missing.

Most tests run the real scripts on a copy of the few files they read, with a stand-in for Python and pip that notes
its calls. `test_real_environment_is_reused_at_once` runs the real script on the real environment beside them.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ["launcher/common.sh", "launcher/setup_env.sh", "launcher/quickstart.sh", "tests/run.sh", ".ci/run"]
TOOLS = (
    "awk bash basename cat chmod cp cut df dirname env flock grep head id mkdir mv rm sed sha256sum tail touch true"
).split()

# Stands in for python and, in the environment it makes, for pip. $FAKE/calls notes the pip calls; each line of
# $FAKE/pip says how the next `pip install -r` goes.
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$1 $2" in
    "-V "*) echo "Python 3.11.9" ;;
    "-c "*version_info*) [ ! -e "$FAKE/old" ] ;;
    "-c "*ensurepip*) [ ! -e "$FAKE/no-venv" ] ;;
    "-c import torch"*) if [ -e "$FAKE/broken" ]; then echo "ImportError: libfoo.so" >&2; exit 1; fi; echo "torch" ;;
    "-m venv") shift 2; [ "$1" = --clear ] && { rm -r "$2"; shift; }; mkdir -p "$1/bin"; cp "$0" "$1/bin/python" ;;
    "-m pip")
        echo "$*" >>"$FAKE/calls"
        case "$*" in
            *" -r "*)
                answer="$(head -n 1 "$FAKE/pip" 2>/dev/null)"; sed -i 1d "$FAKE/pip" 2>/dev/null
                case "$answer" in
                    ""|ok) echo "Collecting torch" ;;
                    *) echo "ERROR: $answer"; exit 1 ;;
                esac ;;
            *" -e "*) printf '#!/usr/bin/env bash\necho "nopsd $* ${DS_ACCELERATOR:-none} $OMP_NUM_THREADS"\n' \
                >"$(dirname "$0")/nopsd"; chmod +x "$(dirname "$0")/nopsd" ;;
        esac ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
FULL_DISK = "#!/usr/bin/env bash\nprintf 'h\\nd 9 9 99 1%% /\\n'\n"


@dataclass
class Sandbox:
    """A copy of what the scripts read, a PATH of its own, and a folder of switches for the stand-ins."""

    root: Path
    bin: Path
    fake: Path
    env: dict[str, str]

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)  # it may be a link to the machine's own program, which root could overwrite
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "bash"), str(self.root / script), *args]
        return subprocess.run(command, env=self.env | env, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[str]:
        """The `pip install` calls so far, without the options common to all."""
        path = self.fake / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split("--timeout 60 ")[1] for line in lines if " install " in line]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    root, bin_, fake = (tmp_path / name for name in ("repo", "bin", "fake"))
    for folder in (root, bin_, fake):
        folder.mkdir()
    for name in (*SCRIPTS, "setup.py", "requirements-cpu.lock", "nopsd/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for tool in TOOLS:
        (bin_ / tool).symlink_to(str(shutil.which(tool)))
    box = Sandbox(root, bin_, fake, {"PATH": str(bin_), "FAKE": str(fake), "HOME": str(tmp_path), "LC_ALL": "C"})
    box.program("python3.11", FAKE_PYTHON)
    box.program("g++", "#!/usr/bin/env bash\n")
    box.program("sleep", "#!/usr/bin/env bash\n")
    (root / "tests/setup_peers.sh").write_text("echo peers are set up\n")
    box.program("df", "#!/usr/bin/env bash\nprintf 'h\\nd 9 9 %s 1%% /\\n' $((99 << 20))\n")
    return box


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    if script != "launcher/common.sh":  # sourced, never run
        assert os.access(ROOT / script, os.X_OK)
        assert "set -euo pipefail" in (ROOT / script).read_text()


def test_real_environment_is_reused_at_once():
    """The environment these tests run in, made by setup_env.sh, is found right in under 5 s and not touched."""
    venv = Path(os.environ.get("NOPSD_VENV", ROOT / ".venv"))
    stamp = venv / "nopsd-environment"
    of_this_checkout = stamp.exists() and stamp.read_text().split()[-1] == str(ROOT)  # of another it would be made anew
    if not of_this_checkout or Path(sys.prefix).resolve() != venv.resolve():
        pytest.skip("these tests were not started from an environment of launcher/setup_env.sh (bash tests/run.sh)")
    before = stamp.stat().st_mtime_ns
    start = time.monotonic()
    done = subprocess.run(["bash", str(ROOT / "launcher/setup_env.sh")], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - start < 5
    assert "is right already" in done.stdout, done.stdout + done.stderr
    assert stamp.stat().st_mtime_ns == before


def test_installs_once_then_reuses(sandbox):
    first = sandbox.run("launcher/setup_env.sh")
    assert first.returncode == 0, first.stderr
    lock, itself = sandbox.calls()
    assert lock == f"--no-deps -r {sandbox.root}/requirements-cpu.lock"
    assert itself == f"--no-deps --no-build-isolation -e {sandbox.root}"
    second = sandbox.run("launcher/setup_env.sh")
    assert second.returncode == 0
    assert "is right already" in second.stdout
    assert len(sandbox.calls()) == 2


@pytest.mark.parametrize("name", ["requirements-cpu.lock", "setup.py", "nopsd/__init__.py"])
def test_a_changed_input_installs_again(sandbox, name):
    """A stale environment that passes for a right one fails later, far from its cause."""
    sandbox.run("launcher/setup_env.sh")
    with open(sandbox.root / name, "a") as file:
        file.write("# changed\n")
    assert "is ready" in sandbox.run("launcher/setup_env.sh").stdout
    assert len(sandbox.calls()) == 4


def test_no_stamp_after_a_failed_installation(sandbox):
    """An environment that was cut short must not be taken for a right one."""
    (sandbox.fake / "pip").write_text("Could not build wheels\n")
    failed = sandbox.run("launcher/setup_env.sh")
    assert failed.returncode == 1
    assert "pip could not install it" in failed.stderr
    assert "remedy:" in failed.stderr
    assert "is ready" in sandbox.run("launcher/setup_env.sh").stdout


def test_network_time_out_is_tried_again(sandbox):
    (sandbox.fake / "pip").write_text("Read timed out.\nConnection reset by peer\nok\n")
    done = sandbox.run("launcher/setup_env.sh")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the network failed") == 2
    assert len(sandbox.calls()) == 4


def test_network_that_stays_away_ends_in_an_error(sandbox):
    (sandbox.fake / "pip").write_text("Read timed out.\n" * 9)
    done = sandbox.run("launcher/setup_env.sh")
    assert done.returncode == 1
    assert len(sandbox.calls()) == 4


def test_pytorchs_own_index_where_pip_knows_no_cpu_torch(sandbox):
    (sandbox.fake / "pip").write_text("No matching distribution found for torch==2.13.0+cpu\nok\n")
    done = sandbox.run("launcher/setup_env.sh")
    assert done.returncode == 0, done.stderr
    first, second, _ = sandbox.calls()
    assert "--extra-index-url" not in first
    assert second.startswith("--extra-index-url https://download.pytorch.org/whl/cpu --no-deps -r")


def test_a_package_pip_cannot_find_is_named(sandbox):
    (sandbox.fake / "pip").write_text("No matching distribution found for numba==0.65.0\n")
    done = sandbox.run("launcher/setup_env.sh")
    assert done.returncode == 1
    assert "nopsd: No matching distribution found for numba==0.65.0 (Python 3.11.9)" in done.stderr


def test_two_set_ups_at_once_install_once(sandbox):
    """The quick start and the tests may be started side by side on a fresh clone."""
    sandbox.program("hold", '#!/usr/bin/env bash\nexec 9>"$1"; flock 9; touch "$FAKE/held"; read -r\n')
    venv = sandbox.root / ".venv"
    venv.mkdir()
    holder = subprocess.Popen(
        [str(sandbox.bin / "hold"), str(venv / ".nopsd-setup-lock")], env=sandbox.env, stdin=subprocess.PIPE
    )
    while not (sandbox.fake / "held").exists():
        time.sleep(0.02)
    command = [str(sandbox.bin / "bash"), str(sandbox.root / "launcher/setup_env.sh")]
    waiting = subprocess.Popen(command, env=sandbox.env, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert "another set-up" in waiting.stdout.readline()
    assert sandbox.calls() == []
    holder.communicate(b"\n", timeout=20)
    assert "is ready" in waiting.communicate(timeout=60)[0]
    assert len(sandbox.calls()) == 2


def test_environment_that_does_not_load_is_refused(sandbox):
    (sandbox.fake / "broken").touch()
    done = sandbox.run("launcher/setup_env.sh")
    assert done.returncode == 1
    assert "does not load: ImportError: libfoo.so" in done.stderr
    assert not (sandbox.root / ".venv" / "nopsd-environment").exists()


@pytest.mark.parametrize(
    ("break_it", "message", "remedy"),
    [
        (lambda box: (box.bin / "python3.11").unlink(), "no Python 3.11 or newer", "apt-get install python3.11"),
        (lambda box: (box.fake / "old").touch(), "no Python 3.11 or newer", "NOPSD_PYTHON="),
        (lambda box: (box.fake / "no-venv").touch(), "python3.11 has no venv", "apt-get install python3.11-venv"),
        (lambda box: (box.bin / "g++").unlink(), "no C++ compiler (g++)", "apt-get install g++"),
        (lambda box: box.program("df", FULL_DISK), "0 GiB free", "NOPSD_VENV"),
    ],
    ids=["no python", "old python", "no venv module", "no compiler", "no space"],
)
def test_what_is_missing_is_named_with_its_remedy(sandbox, break_it, message, remedy):
    break_it(sandbox)
    done = sandbox.run("launcher/setup_env.sh")
    assert done.returncode == 1
    what, how = done.stderr.strip().splitlines()
    assert message in what
    assert "remedy:" in how and remedy in how
    assert sandbox.calls() == []


def test_a_python_without_venv_is_passed_over(sandbox):
    """Debian's python3.11 may lack venv while another Python on the machine has it."""
    sandbox.program("python3.11", '#!/usr/bin/env bash\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    sandbox.program("python3.12", FAKE_PYTHON)
    assert sandbox.run("launcher/setup_env.sh").returncode == 0


def test_a_gpu_gets_the_gpu_extra_and_a_fresh_environment(sandbox):
    """The CPU's torch beside the GPU's vLLM does not work."""
    sandbox.run("launcher/setup_env.sh")
    leftover = sandbox.root / ".venv" / "leftover"
    leftover.touch()
    sandbox.program("nvidia-smi", "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H200'\n")
    done = sandbox.run("launcher/setup_env.sh")
    assert done.returncode == 0, done.stderr
    assert sandbox.calls()[-1] == f"-e {sandbox.root}[gpu,test]"
    assert not leftover.exists()
    assert "is right already" in sandbox.run("launcher/setup_env.sh").stdout


def test_nopsd_device_overrides_and_is_checked(sandbox):
    sandbox.program("nvidia-smi", "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H200'\n")
    sandbox.run("launcher/setup_env.sh", NOPSD_DEVICE="cpu")
    assert sandbox.calls()[0].startswith("--no-deps -r")
    wrong = sandbox.run("launcher/setup_env.sh", NOPSD_DEVICE="tpu")
    assert wrong.returncode == 1
    assert "NOPSD_DEVICE=tpu" in wrong.stderr


def test_quickstart_sets_up_then_runs_the_lab(sandbox):
    done = sandbox.run("launcher/quickstart.sh", "train.steps=2", NOPSD_VENV=str(sandbox.root / "elsewhere"))
    assert done.returncode == 0, done.stderr
    assert "elsewhere is ready" in done.stdout
    assert done.stdout.splitlines()[-1] == "nopsd run --preset lab train.steps=2 cpu 1"


def test_quickstart_on_a_gpu_leaves_the_accelerator_to_deepspeed(sandbox):
    sandbox.program("nvidia-smi", "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H200'\n")
    assert sandbox.run("launcher/quickstart.sh").stdout.splitlines()[-1] == "nopsd run --preset lab none 1"


def test_quickstart_stops_where_set_up_fails(sandbox):
    (sandbox.bin / "g++").unlink()
    done = sandbox.run("launcher/quickstart.sh")
    assert done.returncode == 1
    assert "nopsd run" not in done.stdout


@pytest.mark.parametrize("failing", ["ruff", "mypy", "pytest", None])
def test_run_sh_and_ci_pass_on_every_failure(sandbox, failing):
    """A green run with a failed check or test is the worst that a test script can do."""
    for tool in ("ruff", "mypy", "pytest"):
        code = 3 if tool == failing else 0
        sandbox.program(tool, f'#!/usr/bin/env bash\necho "{tool} called with: $*"\nexit {code}\n')
    done = sandbox.run("tests/run.sh", "--soak", "-k", "a or b")
    assert done.returncode == (3 if failing else 0)
    called = re.search(r"^pytest called with: .* --soak -k a or b$", done.stdout, re.M)
    assert bool(called) is (failing in ("pytest", None))
    assert sandbox.run(".ci/run").returncode == (3 if failing else 0)


def test_run_sh_says_what_it_cannot_install(sandbox):
    """Tests of several hosts would be left out for ever without anyone's knowing."""
    for tool in ("ruff", "mypy", "pytest"):
        sandbox.program(tool, "#!/usr/bin/env bash\n")
    sandbox.program("id", "#!/usr/bin/env bash\necho 1000\n")
    sandbox.program("apt-get", "#!/usr/bin/env bash\necho called >&2\n")
    done = sandbox.run("tests/run.sh")
    assert done.returncode == 0 and "called" not in done.stderr
    assert re.search(r"remedy: .*apt-get install .*pdsh", done.stdout)


@pytest.mark.parametrize("lists", ["fresh", "stale"])
def test_run_sh_installs_what_root_may(sandbox, lists):
    """A fresh machine's package lists are empty: they are fetched, and it's tried again."""
    for tool in ("ruff", "mypy", "pytest"):
        sandbox.program(tool, "#!/usr/bin/env bash\n")
    sandbox.program("id", "#!/usr/bin/env bash\necho 0\n")
    fails = f'[ -e "$FAKE/updated" ] || [ {lists} = fresh ]'
    update = '[ "$1" != update ] || touch "$FAKE/updated"'
    sandbox.program("apt-get", f'#!/usr/bin/env bash\necho "$*" >>"$FAKE/apt"\n{update}\n{fails}\n')
    assert sandbox.run("tests/run.sh").returncode == 0
    asked = (sandbox.fake / "apt").read_text().splitlines()
    assert [line.split()[0] for line in asked] == (
        ["install"] if lists == "fresh" else ["install", "update", "install"]
    )
    assert "pdsh" in asked[-1].split() and "openmpi-bin" in asked[-1].split()
