"""docs/architecture.md names the packages in the order in which they may import each other: a newcomer relies on it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nopsd"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# In the order of the page's table; what stands below may import what stands above.
ROOMS = re.findall(r"^\| `nopsd/(\w+)(?:\.py)?`", PAGE, re.M)


def imports(file: Path) -> set[str]:
    """Rooms (packages or modules directly below nopsd) that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nopsd":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nopsd.")}
    return found


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_page_names_every_room_and_no_other():
    there = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    there |= {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert set(ROOMS) == there


def test_a_room_imports_only_rooms_above_it():
    """A circle between packages, or a method's package that knows stages, breaks the way data flows."""
    place = {room: number for number, room in enumerate(ROOMS)}
    wrong = {
        f"{file.relative_to(ROOT)} imports nopsd.{other}"
        for file in PACKAGE.rglob("*.py")
        for other in imports(file)
        if room_of(file) in place and other in place and place[other] > place[room_of(file)]
    }
    assert not wrong, "\n".join(sorted(wrong))
