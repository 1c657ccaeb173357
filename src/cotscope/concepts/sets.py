"""Concept sets: what to look for in a model, as TOML.

A file has `name` and `description` at its top, then `[[concept]]` tables with `name`, `question` (put to a judge) and
`seeds` (the tokens of the concept's lexicon).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..data.reading import is_usable, read_toml
from ..errors import ConceptError, shown
from ..records import Concept

BUILT_IN = "arithmetic"
SET_KEYS = ("name", "description", "concept")
CONCEPT_KEYS = ("name", "question", "seeds")
LONGEST_NAME = 100
"""Characters of a set's or a concept's name, which is a value of tables and the head of a column in the report."""


@dataclass(frozen=True, slots=True)
class ConceptSet:
    """The concepts of one file, in the file's order.

    Attributes:
        name: the set's name.
        description: one sentence, or empty.
        concepts: their names are unique; a seed may belong to several.
        sha256: of the file's bytes, in hex.
        source: the file's path, or "built-in:NAME".
    """

    name: str
    description: str
    concepts: tuple[Concept, ...]
    sha256: str
    source: str


def load_concepts(path: Path | str | None = None) -> ConceptSet:
    """Read a concept set: a file, a packaged set by its bare name, or, without a path, the packaged "arithmetic".

    Seeds are stripped, lower-cased and rid of repetitions. A concept without a `question` gets a plain one.

    Raises:
        ConceptError: there is no such file or set, it can't be read or is not TOML, a key is unknown or missing, a
            concept has no seeds, a name is too long or has control characters, or two concepts have one name.
    """
    file, source = _find(path)
    table, raw = read_toml(file, "concept file", ConceptError)
    where = f"concept file {source}"
    _check_keys(table, SET_KEYS, where)
    name = _name(table.get("name"), f"{where}: name")
    description = table.get("description", "")
    if not isinstance(description, str):
        raise ConceptError(f"{where}: description is no text", expected="a sentence", got=shown(description))
    tables = table.get("concept")
    if not isinstance(tables, list) or not tables:
        raise ConceptError(f"{where} has no concepts", expected="one or more [[concept]] tables", got=shown(tables))
    concepts: dict[str, Concept] = {}
    for number, entry in enumerate(tables, start=1):
        concept = _read_concept(entry, f"{where}, concept {number}")
        if concept.name in concepts:
            raise ConceptError(f"{where} has two concepts of one name", expected="unique names", got=concept.name)
        concepts[concept.name] = concept
    return ConceptSet(name, description.strip(), tuple(concepts.values()), hashlib.sha256(raw).hexdigest(), source)


def check_vocabulary(concepts: ConceptSet, vocabulary: Collection[str]) -> None:
    """Make sure that a model can promote every concept: at least one seed of each is a token of its vocabulary.

    Args:
        concepts: the concept set.
        vocabulary: the model's decoded tokens, stripped and lower-cased; best a set.

    Raises:
        ConceptError: names the concepts of which no seed is there.
    """
    absent = [c.name for c in concepts.concepts if not any(seed in vocabulary for seed in c.seeds)]
    if absent:
        raise ConceptError(
            f"no seed of {', '.join(absent)} is a single token of the model's vocabulary",
            expected="at least one such seed for each concept",
            remedy=f"Add seeds to {concepts.source}: short words, symbols, or words of the model's own language.",
        )


def _find(path: Path | str | None) -> tuple[Path | Traversable, str]:
    """The file, as a path or a packaged resource, and what to call it."""
    named = Path(BUILT_IN if path is None else path)
    is_bare = path is None or (named.name == str(path) and not named.suffix and not os.path.isfile(named))
    if not is_bare:
        return named, str(path)
    folder = files(__package__.rpartition(".")[0]).joinpath("concepts")
    packaged = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if named.name not in packaged:
        expected = f"a file, or one of the packaged sets: {', '.join(packaged)}"
        raise ConceptError("there is no such concept set", expected=expected, got=shown(str(path)))
    return folder.joinpath(f"{named.name}.toml"), f"built-in:{named.name}"


def _read_concept(table: Any, where: str) -> Concept:
    if not isinstance(table, dict):
        raise ConceptError(f"{where} is no table", expected="a [[concept]] table", got=shown(table))
    _check_keys(table, CONCEPT_KEYS, where)
    name = _name(table.get("name"), f"{where}: name")
    where = f"{where} ({name})"
    default = f"Do these tokens stand for the concept {name!r} (its symbols, words and synonyms)?"
    question = _text(table.get("question", default), f"{where}: question")
    seeds = table.get("seeds")
    if not isinstance(seeds, list) or not seeds:
        raise ConceptError(f"{where} has no seeds", expected="seeds, a list of one or more tokens", got=shown(seeds))
    clean = dict.fromkeys(_text(seed, f"{where}: a seed").lower() for seed in seeds)
    return Concept(name, question, tuple(clean))


def _check_keys(table: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(table) - set(allowed)):
        raise ConceptError(f"{where} has unknown keys", expected=", ".join(allowed), got=", ".join(unknown))


def _name(value: Any, where: str) -> str:
    """A text that is one line, and short."""
    name = _text(value, where)
    if len(name) > LONGEST_NAME:
        raise ConceptError(f"{where} is too long", expected=f"at most {LONGEST_NAME} characters", got=shown(name))
    if not is_usable(name):
        raise ConceptError(f"{where} has control characters", expected="a name on one line", got=shown(name))
    return name


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConceptError(f"{where} is missing, empty or no text", expected="text", got=shown(value))
    return value.strip()
