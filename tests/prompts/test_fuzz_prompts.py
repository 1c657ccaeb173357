"""Damaged exemplar and prompt files: what comes of each is prompts or one short line, never a traceback."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cotscope.errors import PromptError
from cotscope.prompts.derive import derive_prompts, render_solution
from cotscope.prompts.exemplars import load_exemplars, parse_formula
from cotscope.prompts.extra import extra_prompts
from cotscope.prompts.files import load_prompt_file

EXEMPLARS = """
[[mixed]]
question = "A bowl holds 5 pears. Two are eaten. How many are left?"
steps = ["First there are 5 pears.", "So {5 - 2 = 3} pears are left.", "Twice that is {3 * 2.5 = 7.5}."]
answer = 7.5

[[mixed]]
question = "A hall has 12 rows of 4 chairs. How many — in all?"
steps = ["There are {12 × 4 = 48} chairs."]
answer = 48

[[division]]
question = "9 pears for 4?"
steps = ["{9 ÷ 4 = 2.25} each."]
answer = 2.25
""".encode()
PROMPT = (
    "Question: How many are 2 and 3?\nLet’s think step by step\nSo 2 + 3 = 5.\nThe answer is 5.\n\n"
    "Question: And 4?\nLet's think step by step:\n4.\nThe answer is 4.\n"
).encode()
EXTRA = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b'"', b"\\u0000", b"\\ud800", b"\\n", b"{", b"}",
    b"{1 + 1 = 2}", b"{}", b"[[mixed]]\n", b"[[addition]]\n", b"[" * 2000, b"=", b" = ", b"0", b"9" * 200, b"9" * 5000,
    b"-", b"1e999999999", b"1e99999999999999999999", b"1e2", b"inf", b"nan", b"0x" + b"f" * 400, b"/ 0", b" - 0",
    b" + 1" * 200, b"answer = 1\n", b"steps = []\n", b"Question:", b"\n\n\n", b"Let's think step by step\n" * 50,
    b"\x1b[31m", "\u2028٣²ſ".encode(),
]  # fmt: skip


NAMES = [
    ".", "..", " ", "a", "B", "-", "*", "?", "[", "\\", ":", '"', "'", "%", "\n", "\x1b", "\x7f", "\udcff", "é",
    "e\u0301", "ſ", "İ", "數", "😀", "\u202e", "\u2028", "x" * 90, "é" * 60, ".txt", "CON",
]  # fmt: skip


def damaged(good: bytes, draw: random.Random) -> bytes:
    """A text with a few bytes put in, taken out, repeated, or exchanged with others of it."""
    text = bytearray(good)
    for _ in range(draw.randint(1, 3)):
        at, other = draw.randint(0, len(text)), draw.randint(0, len(text))
        end = min(len(text), at + draw.randint(0, 10))
        match draw.randrange(6):
            case 0:
                text[at:at] = draw.choice(EXTRA)
            case 1:
                del text[at:end]
            case 2:
                text[at:at] = text[at:end] * draw.choice((1, 2, 100))
            case 3:
                text[at:end] = text[other : other + draw.randint(0, 10)]
            case 4:
                digits = [i for i, byte in enumerate(text) if chr(byte).isdigit()]
                if digits:
                    text[draw.choice(digits)] = ord(draw.choice("0123456789.-"))
            case 5:
                text[at:end] = draw.choice(EXTRA)
    return bytes(text)


def line_of(call: Callable[..., object], *arguments: object) -> str:
    """The one short printable line that a call's mistake comes to; empty if it has none. Anything else fails."""
    line = ""
    try:
        call(*arguments)
    except PromptError as error:
        line = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} on {ascii(arguments)[:2000]}") from error
    assert len(line) <= 1000 and line.isprintable(), arguments
    return line


def use_exemplars(path: Path, raw: bytes, seed: int) -> None:
    """All that a study makes of exemplars."""
    path.write_bytes(raw)
    exemplars = load_exemplars(path)
    made = [*derive_prompts(exemplars, seed), *(e.prompt for e in extra_prompts(exemplars, 3, False, seed))]
    texts = [prompt.text("Why?") for prompt in made]
    texts += [render_solution(problem) for problem in exemplars.mixed]
    "".join(texts).encode()


@pytest.mark.parametrize("seed", range(2))
def test_exemplars(tmp_path: Path, seed: int) -> None:
    draw, path, began, well, tries = random.Random(seed), tmp_path / "a.toml", time.monotonic(), 0, 0
    while tries < 1000 and time.monotonic() - began < 10:
        well += not line_of(use_exemplars, path, damaged(EXEMPLARS, draw), tries)
        tries += 1
    assert 0.02 < well / tries < 0.98


def test_formulas() -> None:
    draw, began = random.Random(2), time.monotonic()
    pieces = [
        "0",
        "1",
        "12",
        "-3",
        "2.5",
        "0.0",
        "9" * 101,
        "9" * 5000,
        "٣",
        " + ",
        "-",
        " * ",
        "/",
        "×",
        "x",
        "÷",
        "−",
        " = ",
        "=",
        " ",
        ".",
    ]
    for _ in range(8_000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 9)))
        line_of(parse_formula, text)
        if time.monotonic() - began > 10:
            break
    for unit in ("1", "1+", "1 + ", "-", " ", "1 ", ".", "1.", "=", "+ ", "{"):
        start = time.process_time()
        line_of(parse_formula, "1 " + unit * 200_000 + " = 2")
        assert time.process_time() - start < 1, unit


def use_prompt(path: Path, raw: bytes) -> None:
    """What a study makes of a prompt file."""
    path.write_bytes(raw)
    load_prompt_file(path).text("Why?").encode()


def test_prompt_files(tmp_path: Path) -> None:
    draw, began, well, tries = random.Random(4), time.monotonic(), 0, 0
    while tries < 1000 and time.monotonic() - began < 10:
        well += not line_of(use_prompt, tmp_path / "a.txt", damaged(PROMPT, draw))
        tries += 1
    assert 0.02 < well / tries < 0.98


def use_name(path: Path) -> None:
    """Write a table as a study does under the name of the prompt of a file, and find it again."""
    name = load_prompt_file(path).name
    temporary, table = path.parent / f".discover.{name}.parquet-abcdefgh.part", path.parent / f"{name}.parquet"
    temporary.touch()
    temporary.replace(table)
    assert table in path.parent.glob("[!.]*.parquet")
    table.unlink()
    name.encode()


def test_names_of_prompt_files(tmp_path: Path) -> None:
    """Whatever a file is called, its prompt's name can be a table's, or one line says why not."""
    draw, began, tries = random.Random(6), time.monotonic(), 0
    while tries < 1500 and time.monotonic() - began < 10:
        name = "".join(draw.choices(NAMES, k=draw.randint(1, 5)))
        path = Path(os.path.join(tmp_path, name))
        tries += 1
        try:
            path.write_bytes(PROMPT)
        except (OSError, ValueError):
            continue  # no file can have this name
        line_of(use_name, path)
        path.unlink()
