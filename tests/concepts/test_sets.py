"""Concept sets: the packaged one is sound, and each mistake in a file is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cotscope.concepts.sets import check_vocabulary, load_concepts
from cotscope.errors import ConceptError

NAMES = ["addition", "subtraction", "multiplication", "division", "equality", "formula", "logical_connection"]
GOOD = """
name = "colours"
description = "Two colours."

[[concept]]
name = "red"
question = "Do these tokens stand for red?"
seeds = [" Red", "red", "RUBY "]

[[concept]]
name = "blue"
seeds = ["blue", "ruby"]
"""


def make(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "colours.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_packaged_set() -> None:
    concepts = load_concepts(None)
    assert (concepts.name, concepts.source) == ("arithmetic", "built-in:arithmetic")
    assert [concept.name for concept in concepts.concepts] == NAMES
    for concept in concepts.concepts:
        assert 10 <= len(concept.seeds) <= 45, concept.name
        assert concept.question.endswith("?")
        assert all(seed == seed.strip().lower() and " " not in seed for seed in concept.seeds)
    by_name = {concept.name: concept.seeds for concept in concepts.concepts}
    for name, seed in [("addition", "+"), ("subtraction", "-"), ("multiplication", "*"), ("division", "/")]:
        assert seed in by_name[name]
        assert not any(seed in seeds for other, seeds in by_name.items() if other != name)


def test_a_packaged_set_by_its_name() -> None:
    assert load_concepts("arithmetic") == load_concepts(Path("arithmetic")) == load_concepts(None)
    with pytest.raises(ConceptError, match="packaged sets: arithmetic"):
        load_concepts("geometry")


def test_a_file(tmp_path: Path) -> None:
    path = make(tmp_path, GOOD)
    concepts = load_concepts(path)
    assert concepts == load_concepts(str(path))
    assert (concepts.name, concepts.description, concepts.source) == ("colours", "Two colours.", str(path))
    assert concepts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    red, blue = concepts.concepts
    assert (red.seeds, red.question) == (("red", "ruby"), "Do these tokens stand for red?")
    assert blue.seeds == ("blue", "ruby")  # a seed may belong to two concepts
    assert "'blue'" in blue.question


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "is not TOML"),
        (b"\xff", "is not TOML"),
        ('name = "x"', "no concepts"),
        (GOOD.replace('name = "colours"', ""), "name is missing"),
        (GOOD.replace('name = "colours"', 'title = "colours"'), "expected name, description, concept; got title"),
        (GOOD.replace('description = "Two colours."', "description = 2"), "description is no text"),
        (GOOD.replace('seeds = ["blue", "ruby"]', 'tokens = ["blue"]'), "expected name, question, seeds; got tokens"),
        (GOOD.replace('seeds = ["blue", "ruby"]', ""), "concept 2 (blue) has no seeds"),
        (GOOD.replace('seeds = ["blue", "ruby"]', "seeds = []"), "concept 2 (blue) has no seeds"),
        (GOOD.replace('seeds = ["blue", "ruby"]', 'seeds = "blue"'), "concept 2 (blue) has no seeds"),
        (GOOD.replace('seeds = ["blue", "ruby"]', 'seeds = ["blue", " "]'), "a seed is missing, empty or no text"),
        (GOOD.replace('seeds = ["blue", "ruby"]', 'seeds = ["blue", 3]'), "a seed is missing, empty or no text"),
        (GOOD.replace('name = "blue"', ""), "concept 2: name is missing"),
        (GOOD.replace('name = "blue"', 'name = "red"'), "two concepts of one name"),
        ('name = "x"\nconcept = ["red"]', "concept 1 is no table"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = make(tmp_path, text)
    with pytest.raises(ConceptError) as caught:
        load_concepts(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_a_concept_error(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="cannot be read"):
        load_concepts(tmp_path / "absent.toml")


def test_a_concept_without_a_token_in_the_vocabulary_is_named(tmp_path: Path) -> None:
    concepts = load_concepts(make(tmp_path, GOOD))
    check_vocabulary(concepts, {"ruby"})
    check_vocabulary(concepts, {"red", "blue", "green"})
    with pytest.raises(ConceptError, match="no seed of blue is"):
        check_vocabulary(concepts, {"red", "green"})
    with pytest.raises(ConceptError, match="no seed of red, blue is"):
        check_vocabulary(concepts, set())
