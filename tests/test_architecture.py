"""Imports point one way and stages never import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import cotscope

ROOT = Path(cotscope.__file__).parent
# Each part may import those on earlier lines, and its own.
ORDER = (
    ("errors",),
    ("records",),
    ("data", "lm"),
    ("prompts", "concepts", "stats"),
    ("judge",),
    ("runs",),
    ("measuring",),
    ("stages",),
    ("report",),
    ("executors",),
    ("api",),
    ("cli",),
    ("__main__", "__init__"),
)
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}


def imports(path: Path) -> set[str]:
    """The modules of cotscope that a file imports, as paths from the package's root, dots between."""
    package = ("cotscope", *path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            if module.startswith("cotscope"):
                names = [a.name for a in node.names] if module == "cotscope" else [""]
                found |= {f"{module}.{name}".strip(".") for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("cotscope")}
    return {name.removeprefix("cotscope").lstrip(".") for name in found}


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def test_imports_point_one_way() -> None:
    for path in files():
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert part in RANK, f"{path}: give this part a place in the order"
        for module in imports(path):
            other = module.split(".")[0]
            if other not in (part, "", "__version__"):  # the package itself has a version, and imports nothing
                assert RANK[other] < RANK[part] or part == "__init__", f"{path} imports {module}"


def test_stages_never_import_each_other() -> None:
    for path in (ROOT / "stages").glob("*.py"):
        if path.stem != "registry":  # which is the list of them
            assert not any(m.startswith("stages") for m in imports(path)), path


def test_only_one_file_knows_architectures() -> None:
    for path in files():
        if path.name != "families.py":
            text = path.read_text()
            assert not any(name in text for name in ("down_proj", "c_proj", "dense_4h_to_h")), path


def test_files_are_short() -> None:
    for path in files():
        assert len(path.read_text().splitlines()) <= 400, path


def test_help_does_not_load_torch() -> None:
    code = "import sys\nfrom cotscope.cli.commands import build_parser as b\nb().format_help()\nprint('torch' in sys.modules)"
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert time.monotonic() - began < 10
