"""Ask a judge about many cases: cache first, then calls, one repair for what is no answer, and no guess at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..concepts.lexicon import Candidate
from .budget import Budget
from .cache import Cache, Reply, key_of
from .client import Keep, Request
from .question import Answer, Form, Invalid

VERSION = 3  # of the questions' wording and the replies' form: replies to older ones are not found any more


class Backend(Protocol):
    """What can answer requests.

    Attributes:
        name: the model's name.
        identity: JSON values that replies depend on.
        schema_is_kept: replies are constrained to the schema as they are written.
    """

    @property
    def name(self) -> str: ...

    @property
    def schema_is_kept(self) -> bool: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def clean(self, text: str) -> str:
        """A reply's text without secrets."""

    def ask(self, requests: Sequence[Request], keep: Keep) -> None:
        """Answer the requests; `keep` gets each reply as soon as it is there."""


@dataclass
class Progress:
    """How the caller hears: a line before the first call, the number of calls to come, and each call that ended."""

    say: Callable[[str], None] = lambda text: None
    begin: Callable[[int], None] = lambda calls: None
    step: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Outcome:
    """What came of the cases, by their number. No case is in both."""

    answers: Mapping[int, Answer]
    failed: Mapping[int, Invalid]


@dataclass
class Asker:
    """Asks one backend in one form.

    Attributes:
        per_call: cases of one concept that share a call.
        from_cache: replies that were found and not asked for.
    """

    backend: Backend
    form: Form
    cache: Cache
    budget: Budget
    per_call: int = 1
    progress: Progress | None = None
    from_cache: int = 0
    _said: bool = False

    def ask(self, cases: Sequence[Candidate]) -> Outcome:
        """Ask about every case.

        A reply that is no answer is followed by one repair request; if that is none either, the case has failed. What
        had failed in an earlier run is asked anew.

        Raises: JudgeError as the backend does; every reply that came is in the cache.
        """
        numbers = list(range(len(cases)))
        answers, failed, asked = self._round(cases, list(self._batches(cases, numbers)), False)
        old = [number for number in failed if number not in asked]
        if old:
            again, still, _ = self._round(cases, [[number] for number in old], True)
            answers |= again
            failed = {n: why for n, why in failed.items() if n in asked} | still
        return Outcome(answers, failed)

    def _batches(self, cases: Sequence[Candidate], numbers: Sequence[int]) -> Iterator[list[int]]:
        """Cases of one concept, so many to a call, in their order."""
        by_concept: dict[str, list[int]] = {}
        for number in numbers:
            by_concept.setdefault(cases[number].concept, []).append(number)
        for own in by_concept.values():
            for first in range(0, len(own), self.per_call):
                yield own[first : first + self.per_call]

    def _round(
        self, cases: Sequence[Candidate], batches: list[list[int]], fresh: bool
    ) -> tuple[dict[int, Answer], dict[int, Invalid], set[int]]:
        """Ask, then repair. Returns: answers, failures, and which cases a call was made for."""
        answers: dict[int, Answer] = {}
        failed: dict[int, Invalid] = {}
        asked: set[int] = set()
        bad = self._ask(cases, batches, [""] * len(batches), fresh, answers, failed, asked)
        repairs = [[number] for number in bad]
        complaints = [f"Your last reply could not be used: {invalid.reason}." for invalid in bad.values()]
        failed |= self._ask(cases, repairs, complaints, fresh, answers, failed, asked)
        return answers, failed, asked

    def _ask(
        self,
        cases: Sequence[Candidate],
        batches: list[list[int]],
        complaints: list[str],
        fresh: bool,
        answers: dict[int, Answer],
        failed: dict[int, Invalid],
        asked: set[int],
    ) -> dict[int, Invalid]:
        """One request per batch. Fills the three; returns the cases whose replies were no answers."""
        requests = [self._request([cases[n] for n in b], c) for b, c in zip(batches, complaints, strict=True)]
        keys = [self._key(request) for request in requests]
        replies: dict[str, Reply | Invalid] = {}
        if not fresh:
            replies = {key: old for key in keys if (old := self.cache.get(key)) is not None}
            self.from_cache += len(replies)
        missing = {key: request for key, request in zip(keys, requests) if key not in replies}
        new = self._fetch(missing)
        bad: dict[int, Invalid] = {}
        for batch, key in zip(batches, keys):
            reply = replies.get(key) or new[key]
            if key in missing:
                asked.update(batch)
            if isinstance(reply, Invalid):  # none came: a repair would not help
                failed |= dict.fromkeys(batch, reply)
                continue
            found = [self._clean(f) for f in self.form.parse(self.backend.clean(reply.text), [cases[n] for n in batch])]
            if key in missing:
                self.cache.mark(key, all(isinstance(f, Answer) for f in found))
            for number, one in zip(batch, found, strict=True):
                if isinstance(one, Answer):
                    answers[number] = one
                else:
                    bad[number] = one
        return bad

    def _clean(self, word: Answer | Invalid) -> Answer | Invalid:
        """Without secrets, once more: reading joins what a reply kept apart, and an old cache may hold a key."""
        clean = self.backend.clean
        if isinstance(word, Invalid):
            return Invalid(clean(word.reason))
        return replace(word, description=clean(word.description), name=clean(word.name))

    def _fetch(self, missing: Mapping[str, Request]) -> dict[str, Reply | Invalid]:
        """Ask for what is missing; each reply is in the cache as soon as it is there."""
        if not missing:
            return {}
        keys, replies, progress = list(missing), {}, self.progress or Progress()
        if not self._said:
            most = max(request.max_tokens for request in missing.values())
            estimate = self.budget.estimate([r.messages for r in missing.values()], most)
            progress.say(f"asking {self.backend.name}: {estimate}; {self.from_cache} replies are in the cache")
            self._said = True

        def keep(number: int, reply: Reply | Invalid) -> None:
            if isinstance(reply, Reply):
                self.cache.put(keys[number], self.backend.name, reply)
            replies[keys[number]] = reply
            progress.step()

        progress.begin(len(missing))
        self.backend.ask(list(missing.values()), keep)
        return replies

    def _request(self, cases: Sequence[Candidate], complaint: str) -> Request:
        return Request(
            tuple(self.form.messages(cases, complaint)),
            self.form.schema(cases, self.backend.schema_is_kept),
            self.form.tokens_per_case * len(cases),
        )

    def _key(self, request: Request) -> str:
        return key_of({
            "version": VERSION, "form": self.form.name, "messages": list(request.messages), "schema": request.schema,
            "max_tokens": request.max_tokens, **self.backend.identity,
        })  # fmt: skip
