"""An OpenAI-compatible endpoint: what it can do, when it fails, and how long to wait.

The `openai` client sends; retries are ours, so that Retry-After is honoured for all threads at once and every reply
is counted. The key is read from the environment by the caller, given to the client, and appears nowhere else.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from ..errors import JudgeError
from .budget import Budget, Call, LimitReached, estimated_tokens
from .cache import Cache, Reply
from .question import Invalid, Message, short
from .reading import load
from .redact import Redactor
from .wire import INSTALL, LONGEST_REPLY, Damaged, TooLong, Wire

DEFAULT_URL = "https://api.openai.com/v1"
FORMATS = ("json_schema", "json_object", "plain")
LONGEST_WAIT = 300.0  # seconds of Retry-After that are waited for
LONGEST_SAID = 200  # characters of what an endpoint says that are passed on
MOST_TOKENS = 10_000_000  # of one call: a count beyond is none
_HALVES = re.compile("[\\ud800-\\udfff]")
WRITTEN_IN_VAIN = {408, 502, 504, 524}  # a gateway gave up on a reply that may have been written, and paid
TOO_MANY_IN_VAIN = 3  # questions in a row without any reply: the endpoint is gone


@dataclass(frozen=True)
class Request:
    """One call: the conversation, the schema of its reply (None: free text), the tokens to generate at most."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None
    max_tokens: int


Keep = Callable[[int, Reply | Invalid], None]  # (number of the request, its reply or why there is none)


@dataclass(frozen=True)
class Patience:
    """How long and how often: seconds for a whole reply, tries of a question, seconds of the first pause, calls at once."""

    timeout: float = 600.0
    tries: int = 6
    pause: float = 1.0
    concurrency: int = 8


class Endpoint:
    """Asks a model behind an OpenAI-compatible endpoint.

    Args:
        model: its name there.
        url: the base URL; user names, passwords and queries in it are never shown.
        key: the API key.
        budget, cache: what calls are booked to; where the endpoint's abilities are remembered.

    Raises: JudgeError if the openai package is absent, the URL is none, or the key can't be sent.
    """

    schema_is_kept = False  # replies must be checked

    def __init__(self, model: str, url: str, key: str, budget: Budget, cache: Cache, patience: Patience = Patience()) -> None:
        try:
            import openai
        except ImportError as error:
            raise JudgeError("the LLM judge needs the openai package", remedy=INSTALL) from error
        url, key = url.strip(), key.strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise JudgeError("OPENAI_API_KEY is no key", expected="letters, digits and signs, without blanks")
        bare, secrets = _parts(url)
        self._openai, self._address, self._key = openai, url, key
        self._redact = Redactor([key, *secrets])
        if self.clean(model) != model or not model.isprintable():
            wrong = "holds the key" if model.isprintable() else "holds what is no character"
            raise JudgeError(f"the model's name {wrong}", expected="--judge-model NAME, as the endpoint calls it")
        self.model, self.url, self.budget, self.patience = model, self.clean(bare), budget, patience
        self.name = model
        self._cache, self._fact = cache, f"abilities of {model} at {self.url}"
        self._format, self._without = _abilities(cache.fact(self._fact))
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._resume_at = 0.0  # nobody sends before: the endpoint asked for it
        self._replied, self._in_vain = False, 0
        self._wire: Wire | None = None  # while questions are being asked

    def clean(self, text: str) -> str:
        """A text without the key and the secrets of the URL."""
        return self._redact(text)

    @property
    def identity(self) -> dict[str, Any]:
        """What replies depend on, for the cache."""
        return {"model": self.model, "url": self.url, "temperature": 0}

    def ask(self, requests: Sequence[Request], keep: Keep) -> None:
        """Send the requests, so many at once; `keep` gets every reply as it comes, in any order, from any thread.

        Raises: JudgeError, LimitReached; what was on its way has been kept by then.
        """
        self._stop.clear()
        self._wire = Wire(self._address, self._key, self.patience.timeout)
        pool = ThreadPoolExecutor(self.patience.concurrency)
        futures = [pool.submit(self._ask_one, i, request, keep) for i, request in enumerate(requests)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._wire.close()
        raised = [e for f in futures if not f.cancelled() and (e := f.exception())]
        for error in sorted(raised, key=lambda e: isinstance(e, LimitReached)):
            raise error

    def _ask_one(self, number: int, request: Request, keep: Keep) -> None:
        if self._stop.is_set():
            return
        with self.budget.call(request.messages, request.max_tokens) as call:
            found = self._try(request, call)
            if isinstance(found, Reply):
                call.reply = found
        if found is not None:
            keep(number, found)

    def _try(self, request: Request, call: Call) -> Reply | Invalid | None:
        """Send until there is a reply. None: stopped on the way. `call.lost`: it was sent in vain, and may have been paid."""
        openai, reason = self._openai, ""
        for attempt in range(self.patience.tries):
            call.again()  # may wait until others have ended
            if not self._pause(self._resume_at - time.monotonic()):
                return None
            asked = None
            try:
                reply = self._send(request)
                with self._lock:
                    self._replied, self._in_vain = True, 0
                return reply
            except (TimeoutError, openai.APITimeoutError):
                call.lost = True
                reason = f"no whole reply within {self.patience.timeout:g} s"
            except TooLong:  # another try would be as long
                call.lost = True
                return self._vain(f"the reply is longer than {LONGEST_REPLY / 1e6:g} MB")
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                reason = f"the connection failed ({self._said(cause)})"
                call.lost = type(cause).__name__ != "ConnectError"  # it broke when the question was there
                if not self._replied and attempt >= 1:
                    raise self._gone(reason) from None
            except openai.APIStatusError as error:
                if (refusal := self._refusal(error)) is not None:
                    return refusal
                call.lost = error.status_code in WRITTEN_IN_VAIN
                reason, asked = f"status {error.status_code}", _retry_after(error.response.headers)
                if asked is not None and asked > LONGEST_WAIT:
                    raise JudgeError(
                        f"{self.url} asks to wait {asked:.0f} s", remedy="Replies so far are kept: run it again then."
                    ) from None
            except JudgeError:  # of the cache
                raise
            except Exception as error:  # whatever a hostile reply makes the client raise
                call.lost = True
                kind = "" if isinstance(error, Damaged | openai.OpenAIError) else f"{type(error).__name__}: "
                reason = f"the reply is damaged ({kind}{self._said(error)})"
            rest = self.patience.pause * 2**attempt * random.uniform(0.5, 1)
            if asked is not None:
                with self._lock:
                    self._resume_at = max(self._resume_at, time.monotonic() + asked)
                rest = asked
            if attempt + 1 < self.patience.tries and not self._pause(rest):
                return None
        return self._vain(f"no reply after {self.patience.tries} tries: {reason}")

    def _vain(self, reason: str) -> Invalid:
        """Book a question that got no reply. Raises: JudgeError if it is one too many in a row."""
        with self._lock:
            self._in_vain += 1
            if self._in_vain >= TOO_MANY_IN_VAIN:
                raise self._gone(reason) from None
        return Invalid(reason)

    def _pause(self, seconds: float) -> bool:
        """Wait; False if everything stops meanwhile."""
        return not self._stop.wait(max(0.0, seconds))

    def _gone(self, reason: str) -> JudgeError:
        return JudgeError(
            f"no answer from the endpoint {self.url}",
            got=reason,
            remedy="Check OPENAI_BASE_URL, that a server listens there and that it has --judge-model "
            f"{short(self.name, LONGEST_SAID)}. Replies so far are kept.",
        )

    # -- one call -------------------------------------------------------------------------------------------------

    def _send(self, request: Request) -> Reply:
        """One call, with the most that the endpoint can do; what works is remembered for all later ones."""
        openai = self._openai
        form, without = self._format if request.schema is not None else "plain", set(self._without)
        while True:
            try:
                assert self._wire is not None
                body = self._wire.ask(self._arguments(request, form, without))
                reply = _reply(body, request)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                said = str(error).lower()
                if "max_tokens" in said and "max_tokens" not in without:
                    without.add("max_tokens")  # newer OpenAI models: max_completion_tokens
                elif "temperature" in said and "temperature" not in without:
                    without.add("temperature")
                elif form != "plain":
                    form = FORMATS[FORMATS.index(form) + 1]
                else:
                    raise
                continue
            self._remember(form if request.schema is not None else self._format, without)
            return Reply(self.clean(reply.text), reply.tokens_in, reply.tokens_out, short(self.clean(reply.finish), 40))

    def _arguments(self, request: Request, form: str, without: set[str]) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        arguments: dict[str, Any] = {"model": self.model, "messages": list(request.messages), limit: request.max_tokens}
        if "temperature" not in without:
            arguments["temperature"] = 0
        if form == "json_schema":
            schema = {"name": "answer", "strict": True, "schema": request.schema}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form == "json_object":
            arguments["response_format"] = {"type": "json_object"}
        return arguments

    def _remember(self, form: str, without: set[str]) -> None:
        with self._lock:
            if (form, without) == (self._format, self._without):
                return
            self._format = max(form, self._format, key=FORMATS.index)
            self._without |= without
            self._cache.learn(self._fact, {"format": self._format, "without": sorted(self._without)})

    def _refusal(self, error: Any) -> Invalid | None:
        """None if it is worth another try; what the endpoint says of this one question. Raises: JudgeError for all."""
        status, code = error.status_code, getattr(error, "code", None)
        kept = "Replies so far are kept."
        if status in (401, 403):
            raise JudgeError(
                f"{self.url} refuses the key (status {status})", remedy=f"Set OPENAI_API_KEY to one that it knows. {kept}"
            ) from None
        if status == 404 or code == "model_not_found":
            raise JudgeError(
                f"{self.url} does not know the model", got=short(self.model, LONGEST_SAID),
                remedy=f"Give one that it serves with --judge-model; check the path of OPENAI_BASE_URL. {kept}",
            ) from None  # fmt: skip
        if code == "insufficient_quota" or status == 402:
            raise JudgeError(f"the account at {self.url} has no credit left", remedy=kept) from None
        if status in (408, 409, 425, 429) or status >= 500:
            return None
        said = self._said(error)
        with self._lock:
            self._in_vain += not self._replied
            if not self._replied and self._in_vain >= TOO_MANY_IN_VAIN:
                raise JudgeError(f"{self.url} refuses every question (status {status})", got=said) from None
        return Invalid(f"refused with status {status}: {said}")

    def _said(self, said: object) -> str:
        """What somebody else says, without the key, on one line and cut to what can be read."""
        return short(self.clean(str(said)[:5000]), LONGEST_SAID)


def _reply(body: bytes, request: Request) -> Reply:
    """What a completion holds; tokens are estimated where the endpoint does not count them, or not as can be."""
    try:
        completion = load(body, strict=False)
    except ValueError as error:  # also what is no UTF-8
        raise Damaged(f"no JSON: {error}") from error
    if not isinstance(completion, dict):
        raise Damaged("no chat completion: it is no object")
    choices, said = completion.get("choices"), completion.get("error")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        message = said.get("message") if isinstance(said, dict) else None
        raise Damaged(f"no chat completion: {message if isinstance(message, str) else 'there are no choices'}")
    message = choices[0].get("message")
    if not isinstance(message, dict) or not isinstance(text := message.get("content", ""), str | None):
        raise Damaged("no chat completion: its message is no text")
    text = _HALVES.sub("\ufffd", text or "")  # UTF-8 has no place for them
    usage, finish = completion.get("usage"), choices[0].get("finish_reason")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        text,
        _count(counts.get("prompt_tokens"), estimated_tokens(request.messages)),
        _count(counts.get("completion_tokens"), estimated_tokens([{"content": text}])),
        finish if isinstance(finish, str) else "unknown",
    )


def _count(said: object, estimate: int) -> int:
    """A number of tokens as the endpoint counts them; the estimate where it says none that can be."""
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= MOST_TOKENS else estimate


def _abilities(known: Any) -> tuple[str, set[str]]:
    """What is remembered of an endpoint: the best format that it takes, the arguments that it refuses."""
    known = known if isinstance(known, dict) else {}
    without = known.get("without")
    best = known.get("format")
    refused = {name for name in without if isinstance(name, str)} if isinstance(without, list) else set()
    return best if best in FORMATS else FORMATS[0], refused


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait: `retry-after-ms`, or `Retry-After` as a number or a date."""
    try:
        if value := headers.get("retry-after-ms"):
            return float(value) / 1000
        if not (value := headers.get("retry-after")):
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _parts(url: str) -> tuple[str, list[str]]:
    """A URL without user, password, query and fragment; the password and what the query holds.

    Raises: JudgeError, which does not show it: a key may stand there by mistake.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise JudgeError("OPENAI_BASE_URL is no URL", expected="one such as http://127.0.0.1:8000/v1")
    host = f"[{host}]" if ":" in host else host
    bare = urlunsplit((parts.scheme, host + (f":{port}" if port else ""), parts.path.rstrip("/"), "", ""))
    hidden = [parts.password or "", unquote(parts.password or ""), *(value for _, value in parse_qsl(parts.query))]
    return bare, hidden
