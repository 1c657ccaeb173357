"""Who may ask the viewer what."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from cotscope.cli import main
from cotscope.view.guard import LARGEST_BODY, Door, is_loopback

TOKEN = {"x-cotscope-token": "the-token"}


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:8717", True), ("localhost:8717", True), ("LOCALHOST:8717", True), ("[::1]:8717", True),
        ("127.0.0.1", False), ("127.0.0.1:80", False), ("127.0.0.1:08717x", False), ("evil.example:8717", False),
        ("127.0.0.1.evil.example:8717", False), ("localhost.:8717", False), ("192.168.0.7:8717", False), ("", False),
        ("127.0.0.1:8717@evil.example", False),
    ],
)  # fmt: skip
def test_only_its_own_name_is_answered(made: Path, viewer: Any, host: str, ours: bool) -> None:
    """A name that was made to point here (DNS rebinding) gets nothing, not even the page."""
    for path in ("/", "/api/runs", "/static/app.js"):
        assert viewer(made).get(path, headers={"host": host}).status_code == (200 if ours else 421)


def test_beyond_loopback_addresses_are_names_of_ours_and_others_are_not() -> None:
    door = Door("0.0.0.0", 8717)
    assert all(door.is_ours(f"{h}:8717") for h in ("192.168.0.7", "[fe80::1]", "localhost", socket.gethostname()))
    assert not any(door.is_ours(f"{h}:8717") for h in ("evil.example", "192.168.0.7.evil.example"))


def test_other_sites_are_refused(made: Path, viewer: Any) -> None:
    client = viewer(made)
    for origin in ("http://evil.example", "null", "https://127.0.0.1:8717", "http://localhost:8717", "http://127.0.0.1:1"):
        assert client.get("/api/runs", headers={"origin": origin}).status_code == 403
        assert client.post("/api/stop", json={}, headers={"origin": origin} | TOKEN).status_code == 403
    for site in ("cross-site", "same-site"):
        assert client.get("/api/runs", headers={"sec-fetch-site": site}).status_code == 403
    own = {"origin": "http://127.0.0.1:8717", "sec-fetch-site": "same-origin"}
    assert client.get("/api/runs", headers=own).status_code == 200
    assert client.post("/api/stop", json={}, headers=own | TOKEN).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link that somebody followed


@pytest.mark.parametrize(
    "path",
    ["stop", "studies", "studies/stop", *(f"runs/made/{a}" for a in ("model", "activity", "token", "similar", "edit", "try"))],
)
def test_what_runs_something_needs_the_token(made: Path, viewer: Any, path: str) -> None:
    client = viewer(made)
    for token in ({}, {"x-cotscope-token": ""}, {"x-cotscope-token": "the-toke"}, {"x-cotscope-token": "the-token\xff"}):
        answer = client.post(f"/api/{path}", json={}, headers={k: v.encode("latin-1") for k, v in token.items()})
        assert answer.status_code == 401
        assert "token" in answer.json()["error"]
    read = (200,) if path == "runs/made/model" else (404, 405)  # whether a model is loaded can be read
    assert client.get(f"/api/{path}?token=the-token").status_code in read  # a link runs nothing
    assert client.post(f"/api/{path}?token=the-token", json={}).status_code == 401


def test_a_form_of_another_site_can_not_post(made: Path, viewer: Any) -> None:
    """A form sends no JSON, and asks nobody before it sends."""
    answer = viewer(made).post("/api/stop", content="{}", headers=TOKEN | {"content-type": "text/plain"})
    assert answer.status_code == 415


def test_bodies_have_a_known_length(made: Path, viewer: Any) -> None:
    client, kind = viewer(made), {"content-type": "application/json"}
    assert client.post("/api/stop", content=iter([b"{}"]), headers=TOKEN | kind).status_code == 413
    long = {"content-length": str(LARGEST_BODY + 1)}
    assert client.post("/api/stop", content=b"{}", headers=TOKEN | kind | long).status_code == 413


def test_beyond_loopback_reading_needs_the_token_too(made: Path, viewer: Any) -> None:
    client = viewer(made, host="192.0.2.7")
    assert client.get("/").status_code == 200
    assert client.get("/api/runs").status_code == 401
    assert client.get("/api/runs", headers=TOKEN).status_code == 200


def test_beyond_loopback_a_cookie_opens_reports_and_nothing_else(made: Path, viewer: Any) -> None:
    """A link can't show the token. The cookie does not tell it, is sent by no other site, and is read by no script."""
    report = "/api/runs/made/report.html"

    def asked(path: str, cookie: str = "", method: str = "GET", **more: Any) -> int:
        headers = {"cookie": cookie} if cookie else {}
        return viewer(made, host="192.0.2.7").request(method, path, headers=headers, **more).status_code

    given = viewer(made, host="192.0.2.7").get("/api/runs", headers=TOKEN).headers["set-cookie"]
    cookie, *rules = given.split("; ")
    assert set(rules) == {"Path=/api/runs", "HttpOnly", "SameSite=Strict"} and TOKEN["x-cotscope-token"] not in given
    assert asked(report) == asked(report, cookie[:-1]) == asked(report, cookie.split("=")[0] + "=the-token") == 401
    assert asked(report, f"other=1; {cookie}") in (200, 404)
    for path in ("/api/runs", "/api/runs/made", "/api/runs/made/neurons", "/api/runs/report.html"):
        assert asked(path, cookie) == 401
    assert asked("/api/stop", cookie, "POST", json={}) == asked(report, cookie, "POST", json={}) == 401
    assert "set-cookie" not in viewer(made).get("/api/runs", headers=TOKEN).headers  # here reading needs none
    assert "set-cookie" not in viewer(made, host="192.0.2.7").get("/").headers


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/runs", "/api/runs/none", "/nowhere", "/api/runs/made/report.html"]
)
def test_every_answer_keeps_to_itself(made: Path, viewer: Any, path: str) -> None:
    headers = viewer(made).get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";") if " " in part.strip())
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert set(policy.get("connect-src", "'none'").split()) <= {"'self'", "'none'"}
    assert "unsafe" not in policy["script-src"] or "sandbox" in policy
    assert not any("http" in value or "*" in value for value in policy.values())
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_report_has_no_origin(made: Path, viewer: Any) -> None:
    """Whoever wrote it: its scripts reach neither the viewer nor anybody else."""
    (made / "made" / "report.html").write_text("<script>fetch('/api/runs')</script>")
    sandbox = viewer(made).get("/api/runs/made/report.html").headers["content-security-policy"].split(";")[0]
    assert sandbox.split()[0] == "sandbox"
    assert "allow-same-origin" not in sandbox


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(made: Path, viewer: Any) -> None:
    client = viewer(made)
    page = client.get("/").text
    assert "<style" not in page and "style=" not in page and "onload" not in page
    assert page.count("<script") == page.count('<script type="module" src="/static/') == 1
    for name in ("app.js", "page.js", "runs.js", "neurons.js", "solutions.js", "try.js", "lists.js", "style.css"):
        text = client.get(f"/static/{name}").text
        assert "http://" not in text and "https://" not in text, name
        assert not any(word in text for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")), (
            name
        )


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.7", "example.org", "")))


def test_other_hosts_are_asked_for_twice(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(made), "--host", "0.0.0.0"]) == 2
    assert "--beyond-this-machine" in capsys.readouterr().err


def test_no_folder_and_a_taken_port_are_said_in_a_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(made / "none")]) == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["view", str(made), "--port", str(taken.getsockname()[1])]) == 2
    assert main(["view", str(made), "--port", "99999"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("cotscope: error: ") for line in lines] == [True] * 3 and "port 99999 is above 65535" in lines[2]
