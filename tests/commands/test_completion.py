"""`nopsd completion`: a shell that reads the script offers commands, options, presets and keys."""

import shutil
import subprocess

import pytest

from nopsd.commands.completion import SHELLS, script


def completed(tmp_path, line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    file = tmp_path / "nopsd.bash"
    file.write_text(script("bash"))
    words = line.split(" ")
    ask = f"""source {file}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1} COMP_LINE='{line}'
COMP_POINT={len(line)}
compopt() {{ :; }}
$(complete -p nopsd | sed 's/.*-F \\([^ ]*\\).*/\\1/') nopsd '{words[-1]}' '{words[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("nopsd comp", {"compare", "completion"}),
        ("nopsd run --dr", {"--dry-run"}),
        ("nopsd run --preset paper/b", {"paper/biology"}),
        ("nopsd train --redo tr", {"train"}),
        ("nopsd run --preset lab train.warm", {"train.warmup=", "train.warmup_ratio="}),
    ],
)
def test_bash_completes(tmp_path, line, offered):
    assert set(completed(tmp_path, line)) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_is_one(shell, tmp_path):
    """Its own shell reads it, where that is installed; every command is in it."""
    text = script(shell)
    assert "compare" in text and "train.lr=" in text and "paper/biology" in text
    if program := shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True, timeout=60)
