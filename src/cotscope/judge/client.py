"""An OpenAI-compatible endpoint: what it can do, when it fails, and how long to wait.

The `openai` client sends; retries are ours, so that Retry-After is honoured for all threads at once and every reply
is counted. The key is read from the environment by the caller, given to the client, and appears nowhere else.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import JudgeError
from .budget import Budget, LimitReached, estimated_tokens
from .cache import Cache, Reply
from .question import Invalid, Message

DEFAULT_URL = "https://api.openai.com/v1"
INSTALL = "pip install 'cotscope[judge]'"
FORMATS = ("json_schema", "json_object", "plain")
LONGEST_WAIT = 300.0  # seconds of Retry-After that are waited for
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
    """How long and how often: seconds for a reply, tries of a question, seconds of the first pause, calls at once."""

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

    Raises: JudgeError if the openai package is absent.
    """

    schema_is_kept = False  # replies must be checked

    def __init__(self, model: str, url: str, key: str, budget: Budget, cache: Cache, patience: Patience = Patience()) -> None:
        try:
            import openai
        except ImportError as error:
            raise JudgeError("the LLM judge needs the openai package", remedy=INSTALL) from error
        self._openai, self._key = openai, key
        self.model, self.url, self.budget, self.patience = model, _bare(url), budget, patience
        self.name = model
        self._client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=patience.timeout)
        self._cache, self._fact = cache, f"abilities of {model} at {self.url}"
        known = cache.fact(self._fact) or {}
        self._format, self._without = known.get("format", FORMATS[0]), set(known.get("without", ()))
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._resume_at = 0.0  # nobody sends before: the endpoint asked for it
        self._replied, self._in_vain = False, 0

    @property
    def identity(self) -> dict[str, Any]:
        """What replies depend on, for the cache."""
        return {"model": self.model, "url": self.url, "temperature": 0}

    def ask(self, requests: Sequence[Request], keep: Keep) -> None:
        """Send the requests, so many at once; `keep` gets every reply as it comes, in any order, from any thread.

        Raises: JudgeError, LimitReached; what was on its way has been kept by then.
        """
        self._stop.clear()
        pool = ThreadPoolExecutor(self.patience.concurrency)
        futures = [pool.submit(self._ask_one, i, request, keep) for i, request in enumerate(requests)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        raised = [e for f in futures if not f.cancelled() and (e := f.exception())]
        for error in sorted(raised, key=lambda e: isinstance(e, LimitReached)):
            raise error

    def _ask_one(self, number: int, request: Request, keep: Keep) -> None:
        if self._stop.is_set():
            return
        call = self.budget.reserve(request.messages, request.max_tokens)
        reply, lost = None, [0]
        try:
            found = self._try(request, lost)
            reply = found if isinstance(found, Reply) else None
        finally:
            self.budget.settle(call, reply, lost[0])
        if found is not None:
            keep(number, found)

    def _try(self, request: Request, lost: list[int]) -> Reply | Invalid | None:
        """Send until there is a reply. None: stopped on the way. `lost` counts calls in vain that may have been paid."""
        openai, reason = self._openai, ""
        for attempt in range(self.patience.tries):
            if not self._pause(self._resume_at - time.monotonic()):
                return None
            asked = None
            try:
                reply = self._send(request)
                with self._lock:
                    self._replied, self._in_vain = True, 0
                return reply
            except openai.APITimeoutError:
                lost[0] += 1
                reason = f"no reply within {self.patience.timeout:g} s"
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                reason = f"the connection failed ({self._clean(cause)})"
                lost[0] += type(cause).__name__ != "ConnectError"  # it broke when the question was there
                if not self._replied and attempt >= 1:
                    raise self._gone(reason) from None
            except openai.APIStatusError as error:
                if (refusal := self._refusal(error)) is not None:
                    return refusal
                reason, asked = f"status {error.status_code}", _retry_after(error.response.headers)
                if asked is not None and asked > LONGEST_WAIT:
                    raise JudgeError(
                        f"{self.url} asks to wait {asked:.0f} s", remedy="Replies so far are kept: run it again then."
                    ) from None
            except (openai.OpenAIError, json.JSONDecodeError, _NoReply) as error:
                lost[0] += 1
                reason = f"the reply is damaged ({self._clean(error)})"
            rest = self.patience.pause * 2**attempt * random.uniform(0.5, 1)
            if asked is not None:
                with self._lock:
                    self._resume_at = max(self._resume_at, time.monotonic() + asked)
                rest = asked
            if attempt + 1 < self.patience.tries and not self._pause(rest):
                return None
        with self._lock:
            self._in_vain += 1
            if self._in_vain >= TOO_MANY_IN_VAIN:
                raise self._gone(reason)
        return Invalid(f"no reply after {self.patience.tries} tries: {reason}")

    def _pause(self, seconds: float) -> bool:
        """Wait; False if everything stops meanwhile."""
        return not self._stop.wait(max(0.0, seconds))

    def _gone(self, reason: str) -> JudgeError:
        return JudgeError(
            f"no answer from the endpoint {self.url}", got=reason,
            remedy=f"Check OPENAI_BASE_URL, that a server listens there and that it has --judge-model {self.name}. Replies so "
            "far are kept.",
        )  # fmt: skip

    # -- one call -------------------------------------------------------------------------------------------------

    def _send(self, request: Request) -> Reply:
        """One call, with the most that the endpoint can do; what works is remembered for all later ones."""
        openai = self._openai
        form, without = self._format if request.schema is not None else "plain", set(self._without)
        while True:
            try:
                completion = self._client.chat.completions.create(**self._arguments(request, form, without))
                reply = _reply(completion, request)
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
            return Reply(self._clean(reply.text), reply.tokens_in, reply.tokens_out, reply.finish)

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
                f"{self.url} does not know the model", got=self.model,
                remedy=f"Give one that it serves with --judge-model; check the path of OPENAI_BASE_URL. {kept}",
            ) from None  # fmt: skip
        if code == "insufficient_quota" or status == 402:
            raise JudgeError(f"the account at {self.url} has no credit left", remedy=kept) from None
        if status in (408, 409, 425, 429) or status >= 500:
            return None
        said = self._clean(error)[:200]
        with self._lock:
            self._in_vain += not self._replied
            if not self._replied and self._in_vain >= TOO_MANY_IN_VAIN:
                raise JudgeError(f"{self.url} refuses every question (status {status})", got=said) from None
        return Invalid(f"refused with status {status}: {said}")

    def _clean(self, said: object) -> str:
        """Text without the key: some servers echo it."""
        return str(said).replace(self._key, "[key]") if len(self._key) >= 4 else str(said)


class _NoReply(Exception):
    """The body is JSON, but no chat completion."""


def _reply(completion: Any, request: Request) -> Reply:
    """What a completion holds; tokens are estimated where the endpoint does not count them."""
    try:
        choice = completion.choices[0]
        text = choice.message.content or ""
        usage = completion.usage
        counts = estimated_tokens(request.messages), estimated_tokens([{"content": text}])
        if usage is not None:
            counts = int(usage.prompt_tokens), int(usage.completion_tokens)
        return Reply(text, *counts, str(choice.finish_reason))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise _NoReply(f"no chat completion: {type(error).__name__}") from error


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
    except (ValueError, TypeError):
        return None


def _bare(url: str) -> str:
    """A URL without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, host + (f":{parts.port}" if parts.port else ""), parts.path.rstrip("/"), "", ""))
