"""The judge against a server that fails: nothing lost, nothing asked twice, nothing invented."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import FAULTS, KEY, FaultServer, case, serving, truth

from cotscope.errors import JudgeError
from cotscope.judge.asking import Asker, Outcome
from cotscope.judge.budget import Budget, LimitReached, Prices, Reservation, estimated_tokens
from cotscope.judge.cache import Cache
from cotscope.judge.client import Endpoint, Patience, _retry_after
from cotscope.judge.prompts import PaperForm
from cotscope.judge.question import Answer, ConceptForm

QUESTIONS = {"addition": "Do these tokens stand for addition?", "division": "Do these tokens stand for division?"}
FAST = Patience(timeout=4, tries=4, pause=0.01, concurrency=16)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as running:
        yield running


def asker(server: FaultServer, folder: Path, *, budget: Budget | None = None, key: str = KEY, model: str = "judge-1",
          patience: Patience = FAST, per_call: int = 1, form=None, url: str = "") -> Asker:  # fmt: skip
    budget, cache = budget or Budget(), Cache(folder / "judge.sqlite")
    endpoint = Endpoint(model, url or server.url, key, budget, cache, patience)
    return Asker(endpoint, form or ConceptForm(QUESTIONS), cache, budget, per_call)


def is_true(outcome: Outcome, numbers: range) -> bool:
    return all(
        (a := outcome.answers[i]) and (a.accepted, a.confidence, a.description, list(a.evidence))
        == ((t := truth(n))["answer"] == "yes", t["confidence"], t["description"], t["evidence"])
        for i, n in enumerate(numbers)
    )  # fmt: skip


@pytest.mark.slow
def test_a_thousand_poles_and_every_fault(server: FaultServer, tmp_path: Path) -> None:
    poles = range(1000)
    server.faults = {n: FAULTS[n % 10] for n in poles if n % 10 < len(FAULTS)}
    server.faults = {n: f for n, f in server.faults.items() if f != "timeout" or n % 50 < 10}  # each is waited for
    cases = [case(n) for n in poles]
    first = asker(server, tmp_path)
    outcome = first.ask(cases)
    assert not outcome.failed  # nothing lost
    assert is_true(outcome, poles)  # nothing invented
    assert server.answered == dict.fromkeys(poles, 1)  # nothing answered twice
    assert all(server.calls[n] == (2 if n in server.faults else 1) for n in poles)
    assert 1 < server.most <= FAST.concurrency
    lost = sum(f in ("timeout", "cut") for f in server.faults.values())
    assert first.budget.lost == lost > 100  # may have been paid without a reply: time-outs and cut ones
    assert first.budget.calls == 1200 + lost
    sent = len(server.bodies)
    again = asker(server, tmp_path)
    assert again.ask(cases).answers == outcome.answers
    assert len(server.bodies) == sent
    assert again.budget.calls == 0
    stored = sqlite3.connect(tmp_path / "judge.sqlite")
    assert stored.execute("SELECT count(*), sum(valid) FROM replies").fetchone() == (1200, 1000)  # invalid ones kept too


@pytest.mark.slow
def test_a_killed_run_loses_no_reply(server: FaultServer, tmp_path: Path) -> None:
    server.slow = 0.02
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_client import asker, case\n"
        "import types; server = types.SimpleNamespace(url=sys.argv[2])\n"
        "asker(server, pathlib.Path(sys.argv[3])).ask([case(n) for n in range(300)])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), server.url, str(tmp_path)])
    deadline = time.monotonic() + 300
    while sum(server.answered.values()) < 60 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    answered = sum(server.answered.values())
    assert 60 <= answered < 300
    [[kept]] = sqlite3.connect(tmp_path / "judge.sqlite").execute("SELECT count(*) FROM replies")
    assert kept >= answered - FAST.concurrency  # those on their way
    server.slow = 0.0
    before = len(server.bodies)
    outcome = asker(server, tmp_path).ask([case(n) for n in range(300)])
    assert len(server.bodies) - before == 300 - kept
    assert is_true(outcome, range(300))


@pytest.mark.parametrize("fault", ["invalid", "schema", "stranger"])
def test_what_is_no_answer_fails_and_is_asked_again_by_the_next_run(server: FaultServer, tmp_path: Path, fault: str) -> None:
    server.always = fault
    outcome = asker(server, tmp_path).ask([case(5), case(6)])
    assert outcome.answers == {}
    assert set(outcome.failed) == {0, 1}
    assert server.calls == {5: 2, 6: 2}  # one repair each
    server.always = ""
    assert is_true(asker(server, tmp_path).ask([case(5), case(6)]), range(5, 7))
    assert server.calls == {5: 3, 6: 3}
    asker(server, tmp_path).ask([case(5), case(6)])
    assert server.calls == {5: 3, 6: 3}


def test_a_question_without_reply_fails_alone(server: FaultServer, tmp_path: Path) -> None:
    server.broken = {7}
    outcome = asker(server, tmp_path).ask([case(n) for n in range(10)])
    assert set(outcome.failed) == {7}
    assert "status 500" in outcome.failed[7].reason
    assert len(outcome.answers) == 9


def test_abilities_are_found_out_once(server: FaultServer, tmp_path: Path) -> None:
    for level, forms in (("json_object", ["json_schema", "json_object", "json_object"]),
                         ("plain", ["json_schema", "json_object", "plain", "plain"])):  # fmt: skip
        folder = tmp_path / level
        server.level, server.bodies, one = level, [], Patience(concurrency=1, pause=0.01)
        assert is_true(asker(server, folder, patience=one).ask([case(1), case(2)]), range(1, 3))
        assert [b.get("response_format", {}).get("type", "plain") for b in server.bodies] == forms
        assert is_true(asker(server, folder, patience=one).ask([case(3)]), range(3, 4))
        assert len(server.bodies) == len(forms) + 1  # remembered by the next run too
    server.level = "deaf"
    assert is_true(asker(server, tmp_path / "deaf").ask([case(1)]), range(1, 2))


def test_several_poles_in_one_call(server: FaultServer, tmp_path: Path) -> None:
    cases = [case(n, "division" if n % 4 == 1 else "addition") for n in range(20)]
    assert is_true(asker(server, tmp_path, per_call=5).ask(cases), range(20))
    assert len(server.bodies) == 4
    server.faults = {20: "invalid"}
    assert is_true(asker(server, tmp_path, per_call=5).ask([case(n) for n in range(20, 25)]), range(20, 25))
    assert server.calls[20] == 2


def test_bad_endpoints_give_one_clear_line(server: FaultServer, tmp_path: Path) -> None:
    cases = [case(n) for n in range(40)]
    with pytest.raises(JudgeError, match="refuses the key"):
        asker(server, tmp_path, key="sk-wrong-123456").ask(cases)
    with pytest.raises(JudgeError, match="does not know the model; got gpt-9"):
        asker(server, tmp_path, model="gpt-9").ask(cases)
    with pytest.raises(JudgeError, match="no answer from the endpoint http://127.0.0.1:9/v1"):
        asker(server, tmp_path, url="http://user:secret@127.0.0.1:9/v1").ask(cases)
    server.always = "500"
    with pytest.raises(JudgeError, match="no answer from the endpoint"):
        asker(server, tmp_path).ask(cases)
    assert len(server.bodies) < 300


def test_limits_keep_what_was_paid(server: FaultServer, tmp_path: Path) -> None:
    cases = [case(n) for n in range(60)]
    limited = asker(server, tmp_path, budget=Budget(max_calls=25))
    with pytest.raises(LimitReached, match="--max-calls 25"):
        limited.ask(cases)
    assert limited.budget.calls == len(server.bodies) == 25
    assert "goes on from there" in str(limited.budget._reached(Reservation(1, 1)))
    prices = Prices(10.0, 100.0)  # 0.002 a call here; 0.04 and more before it is known
    poor = asker(server, tmp_path, budget=Budget(prices, max_cost=0.06))
    with pytest.raises(LimitReached, match="cost limit"):
        poor.ask(cases)
    assert 0 < poor.budget.cost <= 0.06
    assert poor.budget.cost == pytest.approx(0.002 * poor.budget.calls)
    rich = asker(server, tmp_path, budget=Budget(prices, max_cost=1))
    assert is_true(rich.ask(cases), range(60))
    assert rich.budget.calls == 60 - 25 - poor.budget.calls
    assert max(server.answered.values()) == 1
    with pytest.raises(JudgeError, match="needs prices"):
        Budget(max_cost=1)


@pytest.mark.parametrize("fault", ["timeout", "cut"])
def test_what_is_sent_in_vain_is_within_the_limits(server: FaultServer, tmp_path: Path, fault: str) -> None:
    patience = Patience(timeout=0.2, tries=6, pause=0.001, concurrency=4)
    budgets = [Budget(max_calls=10), Budget(Prices(10.0, 100.0), max_cost=0.5)]
    for number, budget in enumerate(budgets):
        before = len(server.bodies)
        asking = asker(server, tmp_path, budget=budget, patience=patience)
        server.always = ""
        asking.ask([case(100 + number)])  # it has replied once: else one broken question may end all before the limit
        server.always = fault
        with pytest.raises(LimitReached):
            asking.ask([case(n) for n in range(8)])
        assert budget.calls == budget.lost + 1 >= len(server.bodies) - before  # a busy server may not have read them all
    assert budgets[0].calls == 10 and 0.1 < budgets[1].cost <= 0.5


def test_the_key_is_nowhere(server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server.always = "echo"
    outcome = asker(server, tmp_path).ask([case(1)])
    assert is_true(outcome, range(1, 2))
    server.key = "another-key"
    with pytest.raises(JudgeError) as caught:
        asker(server, tmp_path).ask([case(2)])
    assert KEY not in f"{caught.value}{caplog.text}"
    for file in tmp_path.rglob("*"):
        assert KEY.encode() not in file.read_bytes()


def test_the_paper_form_reads_yes_and_no(server: FaultServer, tmp_path: Path) -> None:
    form = PaperForm(QUESTIONS)
    said = {"Yes, it is.": True, "**No.** Nothing": False, "<think>yes</think>\nNo": False, "Maybe": None, "Yesterday": None}
    for text, accepted in said.items():
        [found] = form.parse(text, [case(1)])
        assert (found.accepted if isinstance(found, Answer) else None) is accepted
    asker(server, tmp_path, form=form).ask([case(1)])
    [_, user] = server.bodies[0]["messages"]
    assert "pole-1, add, +" in user["content"]
    assert QUESTIONS["addition"] in user["content"]
    assert "response_format" not in server.bodies[0]
    assert server.bodies[0]["max_tokens"] == 50


def test_retry_after() -> None:
    assert _retry_after({"retry-after": "1.5"}) == 1.5
    assert _retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert _retry_after({"retry-after": "soon"}) is None
    assert _retry_after({}) is None


def test_estimate() -> None:
    messages = [{"role": "user", "content": "加" * 30}]
    assert estimated_tokens(messages) == 38
    line = Budget(Prices(1, 2)).estimate([messages] * 1000, 100)
    assert line == "1000 calls, about 38,000 tokens in and at most 100,000 out, 0.238 in money"


def test_a_damaged_cache_is_said(tmp_path: Path) -> None:
    (tmp_path / "judge.sqlite").write_bytes(b"no database" * 200)
    with pytest.raises(JudgeError, match="can't be used"):
        Cache(tmp_path / "judge.sqlite")
