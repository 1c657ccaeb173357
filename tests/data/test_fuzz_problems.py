"""Damaged and random problem files and answers: what comes of each is problems or one short line, never a traceback."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from cotscope.data.answers import (
    is_correct,
    is_right,
    numbers_in,
    parse_flexible,
    parse_number,
    parse_strict,
    read_answer,
    written_answer,
)
from cotscope.data.load import load_problems
from cotscope.data.numbers import format_number
from cotscope.data.reading import read_toml
from cotscope.data.roles import roles
from cotscope.errors import DataError, UserError

GOOD = [
    {"question": "How many?", "answer": "He has 2 * 3 = <<2*3=6>>6 eggs.\n#### 1,012"},
    {"id": "x", "question": "Why — naïve?", "answer": 7.5, "solution": "So 3 + 4.5 = 7.5."},
    {"id": 5, "question": "When?", "answer": "seven", "more": [1, {"a": None}]},
]
BYTES = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r\n", b"\r", b"\n\n", b'"', b"\\", b"\\ud800", b"\\u0000",
    b"{", b"}", b"[" * 2000, b"]", b",", b":", b"9" * 4400, b"-", b"1e999", b"1e-999", b"NaN", b"null", b"####",
    b"\xe2\x80\xa8", b'"answer": 1,', b'"question": "",', b'"id": "x",', b"\x1b[31m", b"x" * 100_001, "ſix".encode(),
]  # fmt: skip
PIECES = [
    "The answer is", "the anſwer iſ", "####", "#", " ", "\n", "\r", "\t", "\u2028", "\xa0", "=", "-", "–", "−", "—",
    "$", "€", ",", ".", "/", "%", "(", ")", ":", "*", "!", "0", "12", "345", "1,234", "00", "9" * 300, "five", "Twenty",
    "twenty-", "one", "hundred", "and a half", "ſix", "fıve", "nİne", "K", "x", "²", "٣", "½", "①", "\0", "\x1b",
    "\ud800", "\udfff", "😀", "e", "1e5", "inf", "NaN", "_",
]  # fmt: skip


def damaged(good: bytes, draw: random.Random, extra: list[bytes]) -> bytes:
    """A text with a few bytes put in, taken out, repeated, changed or moved."""
    text = bytearray(good)
    for _ in range(draw.randint(1, 4)):
        at = draw.randint(0, len(text))
        end = min(len(text), at + draw.randint(0, 12))
        match draw.randrange(6):
            case 0:
                text[at:at] = draw.choice(extra)
            case 1:
                del text[at:end]
            case 2:
                text[at:at] = text[at:end] * draw.choice((1, 2, 500))
            case 3:
                text[at:end] = draw.choice(extra)
            case 4:
                text[at:end] = draw.randbytes(end - at)
            case 5:
                del text[at:]
    return bytes(text)


def line_of(kind: type[UserError], call: Callable[..., object], *arguments: object) -> str:
    """The one short printable line that a call's mistake comes to; empty if it has none. Anything else fails."""
    line = ""
    try:
        call(*arguments)
    except kind as error:
        line = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} on {ascii(arguments)[:2000]}") from error
    assert len(line) <= 1000 and line.isprintable(), arguments
    return line


def use(path: Path, raw: bytes) -> None:
    """Load the problems of a file with these bytes, and do with them what a study does: write them down."""
    path.write_bytes(raw)
    for problem in load_problems(str(path)).problems:
        for text in (problem.id, problem.question, problem.solution, written_answer(problem.answer)):
            text.encode()
        assert str(problem.answer)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_damaged_files(tmp_path: Path, name: str, seed: int) -> None:
    draw = random.Random(f"{name} {seed}")
    lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in GOOD]
    good = ("\n".join(lines) if name == "a.jsonl" else f"[{', '.join(lines)}]").encode()
    path, began, well, tries = tmp_path / name, time.monotonic(), 0, 0
    while tries < 1000 and time.monotonic() - began < 10:
        well += not line_of(DataError, use, path, damaged(good, draw, BYTES))
        tries += 1
    assert 0.02 < well / tries < 0.98


def value(draw: random.Random, depth: int = 0) -> object:
    """Any JSON value, with a liking for what is near a number or a text."""
    kinds: list[Callable[[], object]] = [
        lambda: "".join(draw.choices(PIECES, k=draw.randint(0, 6))),
        lambda: draw.choice([0, -1, 7, 10**18, 10**4299, -(10**4299), True, False, None]),
        lambda: draw.choice([0.1, -0.0, 1e308, 5e-324, 1e22, float("nan"), float("inf"), float("-inf")]),
        lambda: [value(draw, depth + 1) for _ in range(draw.randint(0, 2))] if depth < 4 else [],
        lambda: {draw.choice(["question", "a", ""]): value(draw, depth + 1)} if depth < 4 else {},
    ]
    return draw.choices(kinds, weights=(5, 3, 2, 1, 1))[0]()


def test_random_values(tmp_path: Path) -> None:
    draw, path, began, well, tries = random.Random(3), tmp_path / "a.jsonl", time.monotonic(), 0, 0
    while tries < 1000 and time.monotonic() - began < 10:
        row = {key: value(draw) for key in ("id", "question", "answer", "solution", "x") if draw.random() < 0.8}
        if draw.random() < 0.7:
            row["question"] = "".join(draw.choices(PIECES, k=5))
            row = {key: text for key, text in row.items() if key in ("question", "answer")}
        well += not line_of(DataError, use, path, json.dumps(row).encode())
        tries += 1
    assert 0.02 < well / tries < 0.98


def test_answers() -> None:
    """No text makes the parser raise, and what it reads can be written and compared."""
    draw, began, tries = random.Random(5), time.monotonic(), 0
    while tries < 15_000 and time.monotonic() - began < 10:
        tries += 1
        if draw.random() < 0.2:
            text = "".join(chr(draw.randrange(0x110000)) for _ in range(draw.randint(0, 20)))
        else:
            text = "".join(draw.choices(PIECES, k=draw.randint(0, 14)))
        for parse in (parse_number, parse_strict, parse_flexible):
            number = parse(text)
            assert number is None or (isinstance(number, Fraction) and format_number(number)), ascii(text)
            is_correct(number, Fraction(1, 3))
        assert all(n is None or isinstance(n, Fraction) for n in numbers_in(text))
        words = draw.choice(["", "a b", text[3:9]])
        found = roles(text, sorted(draw.choices(range(len(text) + 1), k=4)), words)
        assert len(found) == 4
        assert all(read is None or read.strip() for read in read_answer(text, words=True))
        is_right(text, words)
    assert tries > 3000


@pytest.mark.slow
def test_no_repeated_text_takes_long() -> None:
    draw, began = random.Random(7), time.monotonic()
    for _ in range(60):
        unit = "".join(draw.choices(PIECES, k=draw.randint(1, 4)))
        text = draw.choice(PIECES) + unit * (60_000 // len(unit)) + draw.choice(PIECES)
        for parse in (parse_number, parse_strict, parse_flexible, numbers_in, lambda t: roles(t, [len(t)], "a"),
                      lambda t: is_right(t, "a")):  # fmt: skip
            start = time.process_time()
            parse(text)
            assert time.process_time() - start < 1, ascii(unit)  # it is about 0.05; a quadratic scan takes a minute
        if time.monotonic() - began > 10:
            break


def test_damaged_toml(tmp_path: Path) -> None:
    good = b'a = 1\n[b.c]\nd = ["x", 1.5, 1979-05-27T07:32:00Z]\n[[e]]\nf = """\ng"""\nh = {i = 0x1F, j = inf}\n'
    extra = [
        *BYTES,
        b"'''",
        b'"""',
        b"[[",
        b"]]",
        b"." * 1500,
        b"a." * 300,
        b"{a=",
        b"[" * 900,
        b"=",
        b"#",
        b"0x" + b"f" * 5000,
    ]
    draw, path, began, well, tries = random.Random(9), tmp_path / "a.toml", time.monotonic(), 0, 0
    while tries < 1000 and time.monotonic() - began < 10:
        path.write_bytes(damaged(good, draw, extra))
        well += not line_of(DataError, read_toml, path, "file", DataError)
        tries += 1
    assert 0.02 < well / tries < 0.98
