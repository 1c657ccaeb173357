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


def short(value: object) -> str:
    """A parameter's place in a test's name."""
    return ascii(value)[:40]


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
        (b"\xff", "line 1: not UTF-8"),
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
        (GOOD.encode("utf-16"), "not UTF-8; got UTF-16"),
        (GOOD.replace('name = "blue"', 'name = "bl\\u001b[31mue"'), "concept 2: name has control characters"),
        (GOOD.replace('name = "blue"', 'name = "bl\\nue"'), "concept 2: name has control characters"),
        (GOOD.replace('name = "colours"', 'name = "col\\u0000ours"'), ": name has control characters"),
        (GOOD.replace('name = "blue"', f'name = "{"b" * 101}"'), "concept 2: name is too long"),
        (GOOD.replace('seeds = ["blue", "ruby"]', "seeds = 0x" + "f" * 10_000), "concept 2 (blue) has no seeds"),
        (GOOD.replace('seeds = ["blue", "ruby"]', "seeds = [" + "9" * 5000 + "]"), "has a number that can't be read"),
        (GOOD.replace('seeds = ["blue", "ruby"]', "seeds = " + "[" * 10_000), "is nested too deeply"),
    ],
    ids=short,
)
def test_each_mistake_is_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = make(tmp_path, text)
    with pytest.raises(ConceptError) as caught:
        load_concepts(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_a_concept_error(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="can't be read"):
        load_concepts(tmp_path / "absent.toml")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\0b", "", ".", "__init__", "no such"])
def test_what_is_no_set_and_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConceptError, match=r"no such concept set|can't be read") as caught:
        load_concepts(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    with pytest.raises(ConceptError, match="can't be read; expected a regular file; got a folder"):
        load_concepts(tmp_path)


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """It becomes a line of the manifest, which could not hold it."""
    path = tmp_path / "a\udcff.toml"
    path.write_text(GOOD)
    with pytest.raises(ConceptError, match="the path has a character that is no text"):
        load_concepts(path)


def test_a_byte_order_mark_is_no_part_of_the_set(tmp_path: Path) -> None:
    assert load_concepts(make(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())).name == "colours"


def test_a_concept_without_a_token_in_the_vocabulary_is_named(tmp_path: Path) -> None:
    concepts = load_concepts(make(tmp_path, GOOD))
    check_vocabulary(concepts, {"ruby"})
    check_vocabulary(concepts, {"red", "blue", "green"})
    with pytest.raises(ConceptError, match="no seed of blue is"):
        check_vocabulary(concepts, {"red", "green"})
    with pytest.raises(ConceptError, match="no seed of red, blue is"):
        check_vocabulary(concepts, set())


def test_a_folder_of_a_packaged_sets_name_is_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arithmetic").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_concepts("arithmetic").source == "built-in:arithmetic"
