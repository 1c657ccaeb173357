"""The judge against an endpoint that means harm: no secret kept, nothing waited for without end, no traceback."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fault_server import KEY, FaultServer, case, completion, drips, says, serving, truth
from test_client import QUESTIONS, asker, is_true

from cotscope.errors import JudgeError
from cotscope.judge.budget import Budget, Prices
from cotscope.judge.client import Endpoint, Patience
from cotscope.judge.prompts import NamingForm, PaperForm
from cotscope.judge.question import Invalid

IMPATIENT = Patience(timeout=0.6, tries=2, pause=0.01, concurrency=4)
HALF = len(KEY) // 2
ESCAPED = "".join(f"\\u{ord(c):04x}" for c in KEY)
ENCODED = base64.b64encode(f"Bearer {KEY}".encode()).decode()
ECHOES = {
    "plain": f"the key {KEY}!",
    "halves": f"{KEY[:HALF]} … {KEY[HALF:]}",
    "joined": f"{KEY[:7]}\u200b{KEY[7:]}",
    "spaced": " ".join(KEY),
    "upper": KEY.upper(),
    "base64": ENCODED,
    "percent": "".join(f"%{ord(c):02X}" for c in KEY),
    "quoted": quote(KEY.replace("-", "\u2011")),
    "hex": KEY.encode().hex(),
    "entities": "".join(f"&#{ord(c)};" for c in KEY),
}
NEEDLES = [KEY, KEY.upper(), KEY[:HALF], KEY[HALF:], ESCAPED, ENCODED[12:30], KEY.encode().hex(), "&#115;", "%73%6B", "s k - t"]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as running:
        yield running


def is_clean(folder: Path, *told: object) -> bool:
    """No file, the cache's write-ahead log among them, and nothing that was told holds the key in any form."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"judge.sqlite", "judge.sqlite-wal"} <= {file.name for file in files}  # looked at while it is open
    everything = [file.read_bytes() for file in files] + [str(t).encode("utf-8", "replace") for t in told]
    return not any(needle.encode() in part for needle in NEEDLES for part in everything)


@pytest.mark.parametrize("form", ECHOES)
def test_an_echoed_key_is_nowhere(server: FaultServer, tmp_path: Path, form: str) -> None:
    echo = ECHOES[form]
    answer = truth(1) | {"description": f"about {echo}", "extra": echo}
    body = completion(json.dumps(answer), f"stop {echo}", model=echo, system_fingerprint=echo)
    server.speak = says(json.dumps(body | {"usage": body["usage"] | {"note": echo, "prompt_tokens": echo}}).encode())
    first = asker(server, tmp_path, patience=IMPATIENT)
    outcome = first.ask([case(1)])
    assert is_clean(tmp_path, outcome, first.cache.get(first._key(first._request([case(1)], ""))))
    assert outcome.answers[0].description.startswith("about ")
    assert "[key]" in outcome.answers[0].description


@pytest.mark.parametrize("twice", [False, True])
def test_an_echo_in_escapes_is_nowhere(server: FaultServer, tmp_path: Path, twice: bool) -> None:
    """Escaped in the answer's own JSON, so that reading it is what puts the key together."""
    answer = json.dumps(truth(1)).replace("about 1", f"about {ESCAPED}")
    answer = answer.replace("\\u", "\\\\u") if twice else answer
    server.speak = says(json.dumps(completion(answer)).encode())
    cache = asker(server, tmp_path, patience=IMPATIENT)
    assert is_clean(tmp_path, outcome := cache.ask([case(1)]))
    assert outcome.answers[0].description == "about [key]"


def test_a_key_in_two_strings_or_lines_is_not_joined(server: FaultServer, tmp_path: Path) -> None:
    parts = KEY[:5], KEY[5:]
    for i, between in enumerate(("\n", '" + "', "</think>", "", "<br>")):
        content = f"Yes, {between.join(parts)}"
        server.speak = says(json.dumps(completion(content)).encode())
        one = asker(server, tmp_path / str(i), patience=IMPATIENT, form=PaperForm(QUESTIONS))
        outcome = one.ask([case(1)])
        assert is_clean(tmp_path / str(i), outcome)
        assert KEY.replace("-", "") not in "".join(c for c in str(outcome) if c.isalnum())


@pytest.mark.parametrize("status", [400, 401, 404, 402, 429, 500])
def test_an_error_that_holds_the_key_is_nowhere(server: FaultServer, tmp_path: Path, status: int) -> None:
    for echo in (KEY, ESCAPED, ENCODED, " ".join(KEY)):
        message = json.dumps({"error": {"message": f"bad\x1b[2J key {echo} " + "x" * 5000, "code": echo}})
        server.speak = says(message.encode(), status)
        told: object
        try:
            told = asker(server, tmp_path, patience=IMPATIENT).ask([case(1)])
            assert all(len(why.reason) <= 300 for why in told.failed.values())
        except JudgeError as error:
            told = error
        assert is_clean(tmp_path, told)
        assert len(str(told)) < 700
        assert "\x1b" not in str(told)


def test_secrets_in_the_url_and_the_model_are_not_told(server: FaultServer, tmp_path: Path) -> None:
    url = server.url.replace("//", "//user:pass-8c1f77aa@") + "?api-key=query-5a5a90f1"
    server.speak = says(json.dumps({"error": {"message": "no: pass-8c1f77aa query-5a5a90f1"}}).encode(), 400)
    outcome = asker(server, tmp_path, url=url, patience=IMPATIENT).ask([case(1)])
    assert "no: [key] [key]" in outcome.failed[0].reason
    with pytest.raises(JudgeError, match="holds the key") as caught:
        asker(server, tmp_path, model=f"m-{KEY}")
    assert KEY not in str(caught.value)


def test_a_placeholder_for_a_key_is_no_secret(server: FaultServer, tmp_path: Path) -> None:
    """Servers on one's own machine get "none": the word "none" in a reply is a word."""
    server.key = "none"
    server.oracle = lambda messages: '{"description": "none of them", "name": "none"}'
    outcome = asker(server, tmp_path, key="none", form=NamingForm()).ask([case(1)])
    assert (outcome.answers[0].name, outcome.answers[0].description) == ("none", "none of them")


BAD_URLS = ["not a url", KEY, "ftp://127.0.0.1/v1", "http://127.0.0.1:99999/v1", "http://[::1/v1", "http://",
            "http://127.0.0.1:port/v1", "http://a b/v1", "http://x/\x00"]  # fmt: skip
BAD_KEYS = [f"{KEY}\nX: y", f"{KEY} é", f"{KEY}\x00"]
BAD_ENVIRONMENT = [*((url, KEY) for url in BAD_URLS), *(("", key) for key in BAD_KEYS)]


@pytest.mark.parametrize(("url", "key"), BAD_ENVIRONMENT)
def test_a_bad_environment_is_one_line(server: FaultServer, tmp_path: Path, url: str, key: str) -> None:
    with pytest.raises(JudgeError) as caught:
        asker(server, tmp_path, url=url, key=key, patience=IMPATIENT).ask([case(1)])
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENDLESS = {
    "status": drips(b"HTTP/1.1 200 ", b"O"),
    "header": drips(HEAD + b"X: ", b"x"),
    "headers": drips(HEAD, b"X: y\r\n"),
    "informational": drips(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": drips(HEAD + b"\r\n", b" "),
    "chunks": drips(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "error": drips(b"HTTP/1.1 400 X\r\n\r\n", b"x"),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", ENDLESS)
def test_a_drip_is_ended_by_the_timeout(server: FaultServer, tmp_path: Path, where: str) -> None:
    server.speak = ENDLESS[where]
    began = time.monotonic()
    one = asker(server, tmp_path, patience=IMPATIENT)
    outcome = one.ask([case(1)])
    assert time.monotonic() - began < 4  # two tries of 0.6 s
    assert "no whole reply within 0.6 s" in outcome.failed[0].reason
    assert one.budget.lost == 2


def test_a_huge_reply_is_cut_off(server: FaultServer, tmp_path: Path) -> None:
    sent: list[int] = []

    def speak(handler: Any, body: Any) -> None:
        handler.wfile.write(head + b'{"choices": "')
        for _ in range(1600):  # 100 MB
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    for status in (b"200 OK", b"400 X", b"500 X"):
        head = b"HTTP/1.1 " + status + b"\r\n\r\n"
        sent.clear()
        server.speak, folder = speak, tmp_path / status.decode()
        outcome = asker(server, folder, patience=Patience(timeout=30, tries=2, pause=0.01)).ask([case(1)])
        assert outcome.failed[0].reason == "the reply is longer than 4 MB"
        assert sum(sent) < 50e6


def test_a_compressed_reply_is_not_unpacked(server: FaultServer, tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    for headers in ("Content-Encoding: gzip\r\n", "Content-Encoding: gzip, gzip\r\n"):
        server.speak = says(bomb, 200, headers)
        outcome = asker(server, tmp_path, patience=IMPATIENT).ask([case(1)])
        assert "compressed" in outcome.failed[0].reason
    for status in (200, 400):  # the name of a codec that is none of text
        head = f"HTTP/1.1 {status} X\r\nContent-Type: text/plain; charset=zlib\r\nContent-Length: 8\r\n\r\n".encode()
        server.speak = lambda handler, body, head=head: handler.wfile.write(head + bytes(8)) and None
        assert set(asker(server, tmp_path, patience=IMPATIENT).ask([case(1)]).failed) == {0}


DEEP = "[" * 100_000 + "]" * 100_000
DAMAGED = {
    "deep": json.dumps(completion("x", deep=0)).replace('"deep": 0', f'"deep": {DEEP}'),
    "digits": json.dumps(completion("x", n=0)).replace('"n": 0', f'"n": {"9" * 5000}'),
    "list": "[]",
    "null": "null",
    "nothing": "",
    "word": '"yes"',
    "no choices": json.dumps(completion("x", choices=[])),
    "choices": json.dumps(completion("x", choices={"0": 1})),
    "message": json.dumps(completion("x", choices=[{"message": "yes"}])),
    "content": json.dumps(completion(truth(1))),
    "content list": json.dumps(completion(["yes"])),
    "number": json.dumps(completion(1)),
    "twice": json.dumps(completion(json.dumps(truth(1)))).replace('"choices":', '"choices": [], "choices":', 1),
    "error": json.dumps({"error": {"message": "out of memory"}}),
    "bytes": "\udc80\udcff",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_body_is_a_failed_case(server: FaultServer, tmp_path: Path, kind: str) -> None:
    server.speak = says(DAMAGED[kind].encode("utf-8", "surrogateescape"))
    one = asker(server, tmp_path, patience=IMPATIENT)
    outcome = one.ask([case(1)])
    assert "the reply is damaged" in outcome.failed[0].reason
    assert len(outcome.failed[0].reason) <= 300
    assert one.budget.lost == 2
    if kind == "error":
        assert "out of memory" in outcome.failed[0].reason


@pytest.mark.parametrize("count", ["1e999", "1e400", "-5", "true", '"100"', "null", "1.5", "10000001", "9" * 400, "NaN", "[]"])
def test_token_counts_that_cannot_be_are_unknown(server: FaultServer, tmp_path: Path, count: str) -> None:
    good = json.dumps(completion(json.dumps(truth(1))))
    for one, other in (("prompt_tokens", "completion_tokens"), ("completion_tokens", "prompt_tokens")):
        usage = f'"usage": {{"{one}": {count}, "{other}": 77}}'
        server.speak = says((good.partition('"usage"')[0] + usage + "}").encode())
        folder = tmp_path / one
        asked = asker(server, folder, patience=IMPATIENT, budget=Budget(Prices(1, 1)))
        assert is_true(asked.ask([case(1)]), range(1, 2))
        used = {"prompt_tokens": asked.budget.tokens_in, "completion_tokens": asked.budget.tokens_out}
        assert used[other] == 77
        assert 10 < used[one] < 3000  # the estimate
        assert 0 < asked.budget.cost < 0.01
    for usage in ("[]", "7", '"x"', "null", "{}"):
        server.speak = says((good.partition('"usage"')[0] + f'"usage": {usage}' + "}").encode())
        assert is_true(asker(server, tmp_path / "x", patience=IMPATIENT).ask([case(1)]), range(1, 2))


@pytest.mark.parametrize("wait", ["nan", "-1", "inf", "1e999", "9" * 400, "Wed, 21 Oct 99999 07:28:00 GMT", "\x7f"])
def test_a_strange_retry_after(server: FaultServer, tmp_path: Path, wait: str) -> None:
    for name in ("Retry-After", "Retry-After-Ms"):
        server.speak = says(b"{}", 429, f"{name}: {wait}\r\n")
        try:
            told = asker(server, tmp_path, patience=IMPATIENT).ask([case(1)]).failed[0].reason
        except JudgeError as error:
            told = str(error)
        assert "status 429" in told or "asks to wait inf s" in told
        assert len(told) < 300


def test_lone_halves_of_characters_read_alike_from_the_cache(server: FaultServer, tmp_path: Path) -> None:
    server.oracle = lambda messages: json.dumps(truth(1) | {"description": "a \ud83d b"})
    first = asker(server, tmp_path).ask([case(1)])
    content = json.dumps(completion('{"description": "a X b", "evidence": [], "answer": "no", "confidence": 0.1}'))
    server.oracle, server.speak = None, says(content.replace("X", "\\ud83d").encode())
    second = asker(server, tmp_path).ask([case(4)])
    assert asker(server, tmp_path).ask([case(1), case(4)]).answers == {0: first.answers[0], 1: second.answers[0]}


def test_invalid_reasons_are_short_and_on_one_line() -> None:
    reason = Invalid("x\n\x1b[2J" + "y" * 100_000).reason
    assert len(reason) == 300
    assert reason.endswith("…")
    assert reason.startswith("x \\u001b[2Jyyy")


def test_what_is_remembered_of_an_endpoint_may_be_damaged(server: FaultServer, tmp_path: Path) -> None:
    cache = asker(server, tmp_path).cache
    for value in ('"x"', "{", "[1]", '{"format": "xml", "without": 3}', '{"format": ["plain"], "without": [[1]]}'):
        cache._run("INSERT OR REPLACE INTO facts VALUES (?, ?)", f"abilities of judge-1 at {server.url}", value)
        assert is_true(asker(server, tmp_path / "other").ask([case(1)]), range(1, 2))
        assert isinstance(asker(server, tmp_path).backend, Endpoint)
