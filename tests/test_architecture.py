"""Imports point one way and stages never import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import cotscope

ROOT = Path(cotscope.__file__).parent
# Each part may import those on earlier lines, and its own.
ORDER = (
    ("errors",),
    ("records",),
    ("data", "lm"),
    ("prompts", "concepts", "stats", "predicting"),
    ("judge",),
    ("runs",),
    ("edits",),
    ("measuring",),
    ("stages",),
    ("report",),
    ("exchange",),
    ("view",),
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


HEAVY = ("torch", "transformers", "scipy.stats", "scipy.optimize", "pandas", "datasets", "openai", "safetensors.torch")
HELP = f"""
import sys, time
from cotscope.cli.commands import build_parser
build_parser().format_help()
print([name for name in {HEAVY} if name in sys.modules], time.process_time())
"""


def test_help_loads_nothing_heavy() -> None:
    """It takes less than a second of a processor, the interpreter's own start included."""
    out = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True).stdout
    loaded, _, seconds = out.strip().rpartition(" ")
    assert loaded == "[]"
    assert float(seconds) < 1


def test_a_run_is_looked_at_without_the_model(tmp_path: Path) -> None:
    """`status` and `report` of a folder, right or wrong, load no torch."""
    code = "import sys\nfrom cotscope.cli import main\nassert main(sys.argv[1:]) == 2\nprint('torch' in sys.modules)"
    for verb in ("status", "report"):
        command = [sys.executable, "-c", code, verb, str(tmp_path)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
