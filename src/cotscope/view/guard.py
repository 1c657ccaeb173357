"""Who may ask the viewer what: checks of every request, before anything of it is read.

A page of another site must neither read runs nor start anything. It is told by its Origin, and by the Host that it
asked for: a name that it made point here (DNS rebinding) is none of ours. Whatever runs or changes something needs
the token that was printed with the address.

Beyond loopback reading needs it, too. A link can show none: whoever has shown it is given a cookie that opens reports,
and nothing else.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = b"x-cotscope-token"
LARGEST_BODY = 16 * 2**20  # bytes; an edit of every neuron of the default model has 3 million
_REPORT = re.compile(r"/api/runs/[^/]+/report\.html")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a server at this host is for this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Door:
    """What a server lets in.

    Attributes:
        host, port: where it listens.
        token: what runs or changes something must show it; beyond loopback everything but the page itself, and reports,
            for which the ticket will do.
    """

    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this server.

        Beyond loopback any address will do: only a name can be made to point elsewhere.
        """
        name, port = _parted(host)
        if port != self.port:
            return False
        if name in _LOOPBACK_NAMES or name == self.host:
            return True
        if is_loopback(self.host):
            return False
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name == socket.gethostname().lower()

    def refuses(self, scope: Scope) -> tuple[int, str] | None:
        """Why a request is not let in: status and a line; None: it is."""
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        host = headers.get(b"host", "")
        if len(hosts) != 1 or not self.is_ours(host):
            return 421, "this server does not have that name"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "this method is not known here"
        asks = scope["path"].startswith("/api/")
        if (origin := headers.get(b"origin")) is not None and origin != f"http://{host}":
            return 403, "another site must not ask this server"
        if asks and headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "another site must not ask this server"
        changes = scope["method"] == "POST"
        needed = changes or (asks and not is_loopback(self.host) and not self._opens_report(scope))
        if needed and not self._shows_token(scope):
            return 401, "this needs the token: open the address that `cotscope view` printed"
        if changes and headers.get(b"content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "expected a body of application/json"
        if changes and not 0 <= _number(headers.get(b"content-length", "")) <= LARGEST_BODY:
            return 413, f"expected a body of a known length, at most {LARGEST_BODY} bytes"
        return None

    def ticket(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The header that gives a ticket for reports to whoever shows the token; none on loopback, where none is needed."""
        if is_loopback(self.host) or not self._shows_token(scope):
            return []
        return [(b"set-cookie", self._ticket + b"; Path=/api/runs; HttpOnly; SameSite=Strict")]

    @property
    def _ticket(self) -> bytes:
        """The cookie. The token can't be told from it; browsers send it to other ports of this host too."""
        return f"cotscope-{self.port}={sha256(f'reports {self.token}'.encode()).hexdigest()}".encode()

    def _opens_report(self, scope: Scope) -> bool:
        """Whether somebody reads a report, and has the ticket."""
        if scope["method"] == "POST" or not _REPORT.fullmatch(scope["path"]):
            return False
        cookies = b";".join(value for key, value in scope["headers"] if key == b"cookie").split(b";")
        return any(secrets.compare_digest(cookie.strip(), self._ticket) for cookie in cookies)

    def _shows_token(self, scope: Scope) -> bool:
        return secrets.compare_digest(dict(scope["headers"]).get(TOKEN_HEADER, b""), self.token.encode())


class Guard:
    """Lets in what the door does, and gives every answer the headers that keep a page to itself."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)

        ticket: list[tuple[bytes, bytes]] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {key for key, _ in message["headers"]}
                message["headers"] = [*message["headers"], *_missing(own), *ticket]
            await send(message)

        if scope["type"] != "http":  # there are no web sockets here
            return await send({"type": "websocket.close", "code": 1008})
        if (refused := self.door.refuses(scope)) is None:
            ticket = self.door.ticket(scope)
            return await self.app(scope, receive, guarded)
        status, why = refused
        body = json.dumps({"error": why}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _missing(own: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    return [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in own]


def _parted(host: str) -> tuple[str, int]:
    """Name and port of a Host header; 80 where it has none."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, "80"
    return name.removeprefix("[").removesuffix("]").lower(), _number(port)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
