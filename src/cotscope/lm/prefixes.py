"""Prefixes of earlier jobs: stages of a study run the same few-shot prompts, and its keys and values stay the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from .attention import Prefix

PREFIX_BYTES = 2**28  # that are kept: some 25 prompts of 800 tokens of the default model
SLACK = 16  # a kept prefix that is shorter by so many tokens is still better than a new one


class Prefixes:
    """Keys and values by tokens and intervention, those least recently used dropped first.

    Args:
        limit: bytes that are kept; 0 keeps nothing.
    """

    def __init__(self, limit: int = PREFIX_BYTES) -> None:
        self.limit = limit
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Prefix] = OrderedDict()

    def find(self, key: str, ids: Sequence[int]) -> Prefix | None:
        """The keys and values of these tokens, or of all but the last `SLACK` of them; None if none are kept.

        Args:
            key: of the intervention (`Intervention.prefix_key`).
        """
        shared = {at: _shared(at[1], ids) for at in self._kept if at[0] == key}
        at = max(shared, key=lambda at: shared[at], default=None)
        if at is None or not shared[at] or shared[at] < len(ids) - SLACK:
            return None
        self._kept.move_to_end(at)
        return _cut(self._kept[at], shared[at])

    def keep(self, key: str, ids: Sequence[int], prefix: Prefix) -> None:
        """Keep keys and values, which nobody may write to any more."""
        self._kept[key, tuple(ids)] = prefix
        while self._kept and sum(map(_bytes, self._kept.values())) > self.limit:
            self._kept.popitem(last=False)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two prompts share at their start."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _cut(prefix: Prefix, length: int) -> Prefix:
    if length == prefix.length:
        return prefix
    keys, values = ([t[:, :, :length].contiguous() for t in part] for part in (prefix.keys, prefix.values))
    return Prefix(keys, values, length)


def _bytes(prefix: Prefix) -> int:
    return sum(t.nbytes for t in (*prefix.keys, *prefix.values))
