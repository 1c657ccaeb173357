"""Sums with the formula given, at several difficulties: whether a model can still calculate, whatever it writes.

An item is scored as the battery's are (`battery.py`): the model is shown a few sums of the level with their results, then
"347 + 586 =", and every token of " 933" must be the most likely one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

SHOTS = 4
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True, slots=True)
class Level:
    """One difficulty.

    Attributes:
        symbol: of the operation.
        digits: of both numbers; the first is the larger one in a difference.
        carries: how many columns carry (or borrow) at least; 0: none does; None: whatever.
    """

    name: str
    symbol: str
    digits: tuple[int, int]
    carries: int | None = None


LEVELS = (
    Level("add, 2 digits", "+", (2, 2), 0),
    Level("add, 2 digits, carry", "+", (2, 2), 1),
    Level("add, 3 digits", "+", (3, 3), 0),
    Level("add, 3 digits, carries", "+", (3, 3), 2),
    Level("subtract, 2 digits", "-", (2, 2), 0),
    Level("subtract, 2 digits, borrow", "-", (2, 2), 1),
    Level("subtract, 3 digits, borrows", "-", (3, 3), 2),
    Level("multiply, 1 digit", "*", (1, 1)),
    Level("multiply, 2 by 1 digits", "*", (2, 1)),
)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of one level.

    Attributes:
        shots: shown in every prompt, with their results.
        items: asked, one to a prompt; none is a shot.
    """

    name: str
    shots: tuple[tuple[str, str], ...]
    items: tuple[tuple[str, str], ...]

    def prompt(self, item: tuple[str, str]) -> str:
        """The shots and the item's formula, up to where its result begins; no blank at the end."""
        return "".join(shot[0] + self.continuation(shot) for shot in self.shots) + item[0]

    def continuation(self, item: tuple[str, str]) -> str:
        """The item's result as it follows the prompt."""
        return f" {item[1]}\n"


def load_sums(items: int, seed: int = 0) -> tuple[Sums, ...]:
    """As many sums of every level (fewer where there are not so many), none twice; the same for one seed."""
    return tuple(_drawn(level, items, Random(f"{seed}/{level.name}")) for level in LEVELS)


def _drawn(level: Level, items: int, rng: Random) -> Sums:
    a, b = np.meshgrid(_numbers(level.digits[0]), _numbers(level.digits[1]), indexing="ij")
    fits = np.ones(a.shape, bool) if level.symbol != "-" else a > b
    if level.carries is not None:
        found = carries(a, b, level.symbol)
        fits &= found == 0 if level.carries == 0 else found >= level.carries
    places = np.flatnonzero(fits)
    chosen = [places[i] for i in rng.sample(range(len(places)), min(SHOTS + items, len(places)))]
    sums = [_said(level.symbol, int(a.flat[i]), int(b.flat[i])) for i in chosen]
    return Sums(level.name, tuple(sums[:SHOTS]), tuple(sums[SHOTS:]))


def _said(symbol: str, a: int, b: int) -> tuple[str, str]:
    return f"{a} {symbol} {b} =", str(_OPERATIONS[symbol](a, b))


def _numbers(digits: int) -> NDArray[np.int64]:
    return np.arange(2, 10) if digits == 1 else np.arange(10 ** (digits - 1), 10**digits)


def carries(a: NDArray[np.int64], b: NDArray[np.int64], symbol: str) -> NDArray[np.int64]:
    """Columns that carry in each a + b, or borrow in a - b (a ≥ b)."""
    count = np.zeros(a.shape, np.int64)
    carry = np.zeros(a.shape, np.int64)
    while a.any() or b.any():
        column = a % 10 + b % 10 + carry if symbol == "+" else a % 10 - b % 10 - carry
        carry = ((column > 9) | (column < 0)).astype(np.int64)
        count += carry
        a, b = a // 10, b // 10
    return count
