"""Random damage to a model's folder: it is loaded, or one line says what is wrong. Always the same damage (seeded)."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from folders import make_folder

from cotscope.errors import UserError
from cotscope.lm.engine import Engine
from cotscope.lm.loading import load_model

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 31, 10**6, 2**40, 0.5, -1e300, "", "x", "qwen2", "silu", "é", [], [1], ["x"], {},
    {"a": 1}, [[]],
)  # fmt: skip
ROUNDS = 250


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every key and index inside a JSON value; of long ones the first few."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value))[:12] if isinstance(value, dict | list) else []
    return [found for key, part in inside for found in [(*path, key), *places(part, (*path, key))]]


def damaged_json(text: str, rng: random.Random) -> str:
    """One or two values changed, moved or removed."""
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2))):
        if not (found := places(value)):
            break
        *path, last = rng.choice(found)
        holder = value
        for key in path:
            holder = holder[key]
        if rng.random() < 0.3:
            del holder[last]
        else:
            holder[last] = rng.choice(VALUES)
    return json.dumps(value)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut short, or some bytes replaced."""
    if rng.random() < 0.4:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def damage(folder: Path, rng: random.Random) -> str:
    file = folder / rng.choice((*FILES, "config.json", "config.json"))
    content = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.8:
        file.write_text(damaged_json(content.decode(), rng), encoding="utf-8")
    else:
        file.write_bytes(damaged_bytes(content, rng))
    return file.name


def outcome(folder: Path) -> str | None:
    """What a user is told; None: the model runs."""
    try:
        loaded = load_model(str(folder), dtype="float32")
        Engine(loaded).generate(["1 + 2 = 3", "1 + 4"], max_new_tokens=2)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_random_damage(tmp_path: Path) -> None:
    whole, spoilt = make_folder(tmp_path / "whole"), tmp_path / "spoilt"
    outcomes = []
    for seed in range(ROUNDS):
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(whole, spoilt)
        what = damage(spoilt, random.Random(seed))
        try:
            outcomes.append(outcome(spoilt))
        except Exception as error:
            raise AssertionError(f"seed {seed}: damage to {what} came through") from error
    said = [line for line in outcomes if line is not None]
    assert ROUNDS // 10 < len(said) < ROUNDS * 9 // 10, "the damage is too great or too small to tell anything"
    assert all("\n" not in line and len(line) < 700 for line in said)
