"""Damaged concept files: what comes of each is a set of concepts or one short line, never a traceback."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from cotscope.concepts.sets import check_vocabulary, load_concepts
from cotscope.errors import ConceptError

GOOD = """
name = "colours"
description = "Two colours — no more."

[[concept]]
name = "red"
question = "Do these tokens stand for red?"
seeds = [" Red", "red", "RUBY "]

[[concept]]
name = "blue"
seeds = ["blue", "ruby"]
""".encode()
EXTRA = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b'"', b"\\u0000", b"\\ud800", b"\\n", b"\\u001b",
    b"[[concept]]\n", b"[concept]\n", b"[" * 2000, b"{", b"}", b"=", b"[]", b",", b"9" * 5000, b"0x" + b"f" * 6000,
    b"1e99999999999999999999", b"nan", b"true", b"1979-05-27", b'"x"', b"x" * 300, b"'''", b"seeds = 1\n",
    b'name = "red"\n', b"a." * 3000, "İſ\u2028".encode(),
]  # fmt: skip


def damaged(draw: random.Random) -> bytes:
    """The good file with a few bytes put in, taken out, repeated or moved."""
    text = bytearray(GOOD)
    for _ in range(draw.randint(1, 3)):
        at, other = draw.randint(0, len(text)), draw.randint(0, len(text))
        end = min(len(text), at + draw.randint(0, 10))
        match draw.randrange(5):
            case 0:
                text[at:at] = draw.choice(EXTRA)
            case 1:
                del text[at:end]
            case 2:
                text[at:at] = text[at:end] * draw.choice((1, 2, 100))
            case 3:
                text[at:end] = text[other : other + draw.randint(0, 30)]
            case 4:
                text[at:end] = draw.choice(EXTRA)
    return bytes(text)


def line_of(call: Callable[..., object], *arguments: object) -> str:
    """The one short printable line that a call's mistake comes to; empty if it has none. Anything else fails."""
    line = ""
    try:
        call(*arguments)
    except ConceptError as error:
        line = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} on {ascii(arguments)[:2000]}") from error
    assert len(line) <= 1000 and line.isprintable(), arguments
    return line


def use(path: Path, raw: bytes) -> None:
    """Read a file with these bytes, and write down what is in it."""
    path.write_bytes(raw)
    concepts = load_concepts(path)
    for concept in concepts.concepts:
        "".join((concepts.name, concepts.description, concept.name, concept.question, *concept.seeds)).encode()
        assert concept.name.strip() and concept.seeds and len(concept.name) <= 100
    check_vocabulary(concepts, {seed for concept in concepts.concepts for seed in concept.seeds})


def test_concept_files(tmp_path: Path) -> None:
    draw, path, began, well, tries = random.Random(8), tmp_path / "a.toml", time.monotonic(), 0, 0
    while tries < 1500 and time.monotonic() - began < 10:
        well += not line_of(use, path, damaged(draw))
        tries += 1
    assert 0.02 < well / tries < 0.98
