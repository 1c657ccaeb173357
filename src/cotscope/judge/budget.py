"""What asking costs: an estimate before the first call, limits that hold while calls are on their way, and the bill."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import JudgeError
from .cache import Reply
from .question import Message

BYTES_PER_TOKEN = 3  # English has more to a token, Chinese about as many: an estimate that is seldom too low
TOKENS_PER_MESSAGE = 8
KEPT = "Replies so far are kept: the same command with a higher limit goes on from there."


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Tokens of a conversation: one for every three bytes of UTF-8, and eight per message."""
    return sum(-(-len(m["content"].encode()) // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE for m in messages)


@dataclass(frozen=True)
class Prices:
    """Per million tokens, in whatever currency."""

    tokens_in: float
    tokens_out: float

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


class LimitReached(JudgeError):
    """The next call would go beyond --max-calls or --max-cost."""


@dataclass(frozen=True)
class Reservation:
    """A call on its way: the tokens that it may take at most."""

    tokens_in: int
    tokens_out: int


class Call:
    """A question that is being asked, perhaps several times.

    Attributes:
        lost: it was sent in vain, but may have been paid.
        reply: what came of it at last.
    """

    def __init__(self, budget: Budget, messages: Sequence[Message], max_tokens: int) -> None:
        self._budget, self._asked = budget, (messages, max_tokens)
        self.lost = False
        self.reply: Reply | None = None
        self.reserved: Reservation | None = budget.reserve(*self._asked)

    def again(self) -> None:
        """Before it is sent: what was sent in vain is booked, and the next sending reserved. Raises: LimitReached."""
        if self.lost:
            self.end()
            self.lost, self.reserved = False, self._budget.reserve(*self._asked)

    def end(self) -> None:
        """Book it."""
        if self.reserved is not None:
            self._budget.settle(self.reserved, self.reply, self.lost)
        self.reserved = None


class Budget:
    """Counts calls, tokens and money of one command. A call is counted when it is sent, at what it may cost at most,
    and set right when its reply is there, so no limit is passed however many calls are on their way. Calls that timed
    out may have been charged: they stay counted at their estimate.

    Raises: JudgeError if there is a limit of cost but no price.
    """

    def __init__(self, prices: Prices | None = None, max_cost: float | None = None, max_calls: int | None = None) -> None:
        if max_cost is not None and prices is None:
            raise JudgeError(
                "--max-cost needs prices", expected="--price-in and --price-out, per million tokens", got="no prices"
            )
        self.prices, self.max_cost, self.max_calls = prices, max_cost, max_calls
        self.calls = self.lost = self.tokens_in = self.tokens_out = 0
        self._open: list[Reservation] = []
        self._changed = threading.Condition()

    @property
    def cost(self) -> float | None:
        """What was spent; None without prices."""
        return self.prices.cost(self.tokens_in, self.tokens_out) if self.prices else None

    @contextmanager
    def call(self, messages: Sequence[Message], max_tokens: int) -> Iterator[Call]:
        """Within the block a question is asked; at its end it is booked. Raises: LimitReached."""
        call = Call(self, messages, max_tokens)
        try:
            yield call
        finally:
            call.end()

    def reserve(self, messages: Sequence[Message], max_tokens: int) -> Reservation:
        """Count a call that is about to be sent; near a limit, wait until those on their way have ended.

        Raises: LimitReached.
        """
        call = Reservation(estimated_tokens(messages), max_tokens)
        with self._changed:
            while (reached := self._reached(call)) is not None:
                if not self._open:
                    raise reached
                self._changed.wait()
            self._open.append(call)
        return call

    def _reached(self, call: Reservation) -> LimitReached | None:
        if self.max_calls is not None and self.calls + len(self._open) >= self.max_calls:
            return LimitReached("the limit of calls is reached", got=f"--max-calls {self.max_calls}", remedy=KEPT)
        if self.max_cost is not None and self.prices is not None:
            waiting = [*self._open, call]
            most = self.prices.cost(
                self.tokens_in + sum(c.tokens_in for c in waiting), self.tokens_out + sum(c.tokens_out for c in waiting)
            )
            if most > self.max_cost:
                spent = f"{self.cost:.4g} spent, and the next call may take it beyond"
                return LimitReached("the cost limit is reached", expected=f"at most {self.max_cost:g}", got=spent, remedy=KEPT)
        return None

    def settle(self, call: Reservation, reply: Reply | None, lost: bool = False) -> None:
        """Book a call that has ended: its reply, if there was one, and whether it was sent in vain but maybe paid."""
        with self._changed:
            self._open.remove(call)
            self.lost += lost
            self.calls += lost + (reply is not None)
            self.tokens_in += lost * call.tokens_in + (reply.tokens_in if reply else 0)
            self.tokens_out += lost * call.tokens_out + (reply.tokens_out if reply else 0)
            self._changed.notify_all()

    def book(self, reply: Reply) -> None:
        """Count a call that was not reserved."""
        with self._changed:
            self.calls += 1
            self.tokens_in += reply.tokens_in
            self.tokens_out += reply.tokens_out

    def estimate(self, conversations: Sequence[Sequence[Message]], tokens_out: int) -> str:
        """What asking these would take, in words; `tokens_out` per reply."""
        tokens_in, out = sum(map(estimated_tokens, conversations)), tokens_out * len(conversations)
        price = f", {self.prices.cost(tokens_in, out):.4g} in money" if self.prices else ""
        return f"{len(conversations)} calls, about {tokens_in:,} tokens in and at most {out:,} out{price}"
