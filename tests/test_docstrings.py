"""Docstrings in Google's style are read instead of the code: what they name must be there.

If it fails, an argument was renamed or removed and its description wasn't, or one is missing between others.
"""

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "nopsd"
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")


@cache
def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Every function of the package, with its place."""
    return [
        (f"{file.relative_to(PACKAGE.parent)}:{node.lineno} {node.name}", node)
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def section(node: ast.AST, name: str) -> str:
    """The lines of a docstring's section, without their indentation; empty if there is none."""
    text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
    found = re.search(rf"^{name}:\n((?:    .*\n|\n)+)", text + "\n", re.M)
    return re.sub(r"^    ", "", found[1], flags=re.M) if found else ""


def parameters(node: ast.FunctionDef) -> list[str]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    return [a.arg for a in arguments if a is not None and a.arg not in ("self", "cls")]


def test_every_described_argument_is_one():
    described = [
        (place, name, parameters(node))
        for place, node in functions()
        for names in re.findall(r"^([a-zA-Z_]\w*(?:, [a-zA-Z_]\w*)*):", section(node, "Args"), re.M)
        for name in names.split(", ")
    ]
    wrong = [f"{place}: {name}" for place, name, there in described if name not in there]
    assert len(described) > 300 and not wrong, "\n".join(wrong)


def test_what_is_raised_is_named_as_a_class():
    wrong = [
        f"{place}: {line}"
        for place, node in functions()
        for line in re.findall(r"^\S.*", section(node, "Raises"), re.M)
        if not re.match(r"[A-Z]\w+(?:, [A-Z]\w+)*: ", line)
    ]
    assert not wrong, "\n".join(wrong)


def test_sections_stand_in_one_order():
    """A reader finds them where they are in every other function."""
    wrong = []
    for place, node in functions():
        found = re.findall(rf"^({'|'.join(SECTIONS)}):$", ast.get_docstring(node) or "", re.M)
        if found != sorted(found, key=SECTIONS.index):
            wrong.append(f"{place}: {', '.join(found)}")
    assert not wrong, "\n".join(wrong)
