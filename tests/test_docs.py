"""What the documentation names is there: files, commands, code. It is read as text; nothing in it is run."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import cotscope
from cotscope.cli.commands import build_parser
from cotscope.lm.models import DEFAULT_MODEL
from cotscope.report.terminal import headline
from cotscope.runs.tables import TABLES
from cotscope.stages.registry import BY_NAME, VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(cotscope.__file__).parent
# The log's entries name what there was on their day.
PAGES = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("examples/**/*.py"),
        *ROOT.glob("examples/**/*.md"),
    )
    if path.name not in ("log.md", "CHANGELOG.md")
]
FOLDERS = ("src", "docs", "tests", "benchmarks", "examples")
_PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*\w")
_LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([\w-]+))?\)")
_CODE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml|j2|c))(?:: ([\w.]+))?`")
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LITERAL = re.compile(r"(?<!`)`(cotscope [^`\n]+)`")

pages = pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])


def test_what_a_study_prints_is_what_it_prints() -> None:
    """The README's first screen and the guide's block, together: of the run of a fresh clone that the README names."""
    summary = json.loads((ROOT / "tests" / "report" / "fresh_study.json").read_text(encoding="utf-8"))
    readme, guide = (path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "guide.md"))
    first = _BLOCK.search(readme, readme.index("<!-- headline"))
    rest = _BLOCK.search(guide, guide.index("## What a study prints"))
    assert first and rest and f"{first[1]}\n{rest[1]}".split("\n") == [*headline(summary).rstrip("\n").split("\n"), ""]


@pages
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert not re.search(r"@@|\bTODO\b|\bFIXME\b", page.read_text(encoding="utf-8"))


@pages
def test_paths_are_there(page: Path) -> None:
    for path in _PATH.findall(page.read_text(encoding="utf-8")):
        assert list(ROOT.glob(path)), f"{page.name} names {path}"


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http", "mailto:")):
            continue
        to = (page.parent / target).resolve() if target else page
        assert to.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", to.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert heading in anchors, f"{page.name} links to {target}#{heading}"


def commands(page: Path) -> list[list[str]]:
    """The `cotscope …` command lines in a page's code blocks, as words; and those between backticks, made whole."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line, comments=True)[1:] for line in lines if re.match(r"cotscope [a-z]", line)]
    for words in (shlex.split(literal)[1:] for literal in _LITERAL.findall(_BLOCK.sub("", text))):
        begins = words[0] in ("study", "discover")
        if begins and "--out" not in words:
            words += ["--out", "RUN"]
        if words[0] in {*VERBS, "status", "report"} and not begins and (len(words) == 1 or words[1].startswith("-")):
            words.insert(1, "RUN")
        found.append(words)
    return found


@pages
def test_command_lines_parse(page: Path) -> None:
    parser = build_parser()
    for words in commands(page):
        # What a reader fills in, and alternatives of which one is taken.
        given = [word.split("|")[0] for word in words if not word.startswith("[") and word != "…"]
        given = ["1" if word in ("N", "X") else DEFAULT_MODEL if word == "NAME" else word for word in given]
        assert parses(parser, given), f"{page.name}: cotscope {' '.join(words)}"


def parses(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    try:
        parser.parse_args(words)
    except SystemExit as stopped:
        return stopped.code == 0
    return True


def test_there_are_command_lines() -> None:
    found = {words[0] for page in PAGES for words in commands(page) if words}
    assert found >= {"study", "status", "report", "models", *VERBS}


@pages
def test_code_has_these_names(page: Path) -> None:
    for path, name in _CODE.findall(page.read_text(encoding="utf-8")):
        places = [base / path for base in (PACKAGE, ROOT) if (base / path).exists()]
        if "/" not in path and not places:
            places = [*PACKAGE.rglob(path), *ROOT.glob(f"*/{path}"), *page.parent.glob(path)]
        assert places, f"{page.name} names {path}"
        if name:
            module = "cotscope." + path.removesuffix(".py").replace("/", ".")
            assert has(importlib.import_module(module), name), f"{page.name} names {path}: {name}"


def has(holder: object, name: str) -> bool:
    """Whether a module or a class has an attribute, or a dataclass a field, by its dotted name."""
    first, _, rest = name.partition(".")
    if not rest and dataclasses.is_dataclass(holder) and first in {f.name for f in dataclasses.fields(holder)}:
        return True
    return hasattr(holder, first) and (not rest or has(getattr(holder, first), rest))


def test_methods_name_tables_that_exist() -> None:
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    named = [t for found in re.findall(r"tables? ((?:`\w+`(?:, )?)+)", text) for t in re.findall(r"`(\w+)`", found)]
    assert named
    assert set(named) <= set(TABLES)


def test_guide_names_every_stage() -> None:
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    missing = [
        name
        for name in (*BY_NAME, *VERBS, "study", "status", "report", "models")
        if not re.search(rf"`(cotscope )?{name}\b", text)
    ]
    assert not missing


def test_citation_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
