"""An OpenAI-compatible server on loopback that knows the truth about every pole and fails in every way it can."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cotscope.concepts.lexicon import Candidate
from cotscope.records import Pole

KEY = "sk-test-4f1d9c0a7e"
FAULTS = ("429", "500", "timeout", "cut", "invalid", "schema")


def case(number: int, concept: str = "addition") -> Candidate:
    """A pole that the server recognises by a token."""
    promoted = ((f"pole-{number}", 2.0), (" add", 1.5), ("+", 1.0))
    return Candidate(Pole(number // 100, number % 100, 1), concept, (), promoted, (("x", -1.0),))


def truth(number: int) -> dict[str, Any]:
    """What the server answers about a pole, when it answers."""
    yes = number % 3 == 0
    return {"description": f"about {number}", "evidence": ["+"] if yes else [], "answer": "yes" if yes else "no",
            "confidence": (number % 11) / 10}  # fmt: skip


def completion(content: Any, finish: Any = "stop", **changes: Any) -> dict[str, Any]:
    """A chat completion with this content."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"id": "x", "object": "chat.completion", "created": 0, "choices": [choice], "usage": usage} | changes


def says(raw: bytes, status: int = 200, headers: str = "") -> Callable[[_Handler, dict[str, Any]], None]:
    """What sends these bytes as the body of a reply, and says that it closes the connection then: else the next request could
    be sent into one that is just being closed."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
    head += f"Connection: close\r\n{headers}\r\n"
    return lambda handler, body: handler.wfile.write(head.encode() + raw) and None


def drips(first: bytes, drop: bytes, seconds: float = 6.0) -> Callable[[_Handler, dict[str, Any]], None]:
    """What sends something and then a drop every 0.1 s: never silent for long, never at its end."""

    def speak(handler: _Handler, body: dict[str, Any]) -> None:
        until = time.monotonic() + seconds
        handler.wfile.write(first)
        while time.monotonic() < until and not handler.server.closing.wait(0.1):
            handler.wfile.write(drop)

    return speak


class FaultServer(ThreadingHTTPServer):
    """Attributes:
    faults: pole number → the fault of its first call.
    broken: poles that never get a reply; `always`: the fault of all calls.
    answered: pole → valid replies sent; `bodies`: what was received; `active`, `most`: calls at once.
    oracle: messages → the reply's text, instead of the truth about poles.
    level: what of response_format it takes: "json_schema", "json_object", "plain" or, ignored, "deaf".
    speak: writes the reply to a request itself, byte for byte.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: dict[int, str] = {}
        self.broken: set[int] = set()
        self.answered: Counter[int] = Counter()
        self.calls: Counter[int] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.level, self.model, self.key, self.slow, self.always = "json_schema", "judge-1", KEY, 0.0, ""
        self.oracle: Callable[[list[dict[str, str]]], str] | None = None
        self.speak: Callable[[_Handler, dict[str, Any]], None] | None = None
        self.active = self.most = 0
        self.lock, self.closing = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.active += 1
            server.most = max(server.most, server.active)
            server.bodies.append(body)
        try:
            time.sleep(server.slow)
            hang = self._answer(body)
        finally:
            with server.lock:
                server.active -= 1
        if hang:  # the client gives up long before
            server.closing.wait(5)
            self.close_connection = True

    def _answer(self, body: dict[str, Any]) -> bool:
        """Whether to say nothing, but keep the client waiting."""
        server = self.server
        if server.speak is not None:
            self.close_connection = True
            server.speak(self, body)
            return False
        if self.headers["Authorization"] != f"Bearer {server.key}":
            return self._send(401, {"error": {"message": f"Incorrect API key {self.headers['Authorization']}"}})
        if body["model"] != server.model:
            return self._send(404, {"error": {"message": "no such model", "code": "model_not_found"}})
        form = body.get("response_format", {}).get("type", "plain")
        order = ("plain", "json_object", "json_schema")
        if server.level != "deaf" and order.index(form) > order.index(server.level):
            return self._send(400, {"error": {"message": f"response_format {form} is not supported"}})
        poles = [int(n) for n in re.findall(r'"pole-(\d+)"', body["messages"][-1]["content"])]
        with server.lock:
            first = [n for n in poles if not server.calls[n]]
            server.calls.update(poles)
        fault = server.always or next((server.faults[n] for n in first if n in server.faults), "")
        several = {"neurons": [{"number": i} | truth(n) for i, n in enumerate(poles, start=1)]}
        content = json.dumps(truth(poles[0]) if len(poles) == 1 else several)
        fault = "500" if self.server.broken.intersection(poles) else fault
        if server.oracle is not None:
            content = server.oracle(body["messages"])
        if fault == "429":
            return self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.02"})
        if fault == "500":
            return self._send(500, {"error": {"message": "oops"}})
        if fault == "timeout":
            return True
        if fault == "invalid":
            content = content[: len(content) // 2]
        elif fault == "schema":
            content = json.dumps({"verdict": "yes", "answer": True})
        elif fault == "stranger":
            content = json.dumps(truth(0) | {"evidence": ["not in the list"]})
        elif fault == "echo":
            content = f"{self.headers['Authorization']} {content}"
        elif fault != "cut":
            with server.lock:
                server.answered.update(poles)
        if server.level == "deaf":
            content = f"Sure! Here it is:\n```json\n{content}\n```\nI hope {{this}} helps."
        return self._send(200, completion(content, model=body["model"]), cut=fault == "cut")

    def _send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None, cut: bool = False) -> bool:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if cut else raw)
        self.close_connection = cut
        return False


@contextmanager
def serving() -> Iterator[FaultServer]:
    server = FaultServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
