"""The judge against a real OpenAI-compatible server: `transformers serve` with a small model, on loopback."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.judge.client import Patience
from cotscope.lm.models import resolve
from cotscope.runs.folder import Run

pytestmark = pytest.mark.model
JUDGE = "smollm2-135m"
SMALL = ["--given", "2"]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("serve")
    (home / "hub").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with open(home / "log", "w") as log:
        environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        for _ in range(600):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (home / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def folder(endpoint: str, tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with few candidates, and the environment that sends its judge to the server."""
    concepts = tmp_path / "concepts.toml"
    concepts.write_text('name = "digits"\n[[concept]]\nname = "low"\nquestion = "Are these digits?"\nseeds = ["0", "1"]\n')
    options = [*tiny_study.options(), "--concepts", str(concepts), *SMALL]
    assert main(["discover", *options, "--out", str(tmp_path / "run")]) == 0
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return tmp_path / "run"


def test_a_small_model_behind_transformers_serve(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A poor judge, and the server ignores schemas: all that it says is kept, a word is only what is one, and what was
    answered is not asked again."""
    model = str(resolve(JUDGE))
    monkeypatch.setenv("COTSCOPE_CACHE", str(tmp_path / "cache"))
    command = ["annotate", str(folder), "--annotator", "llm", "--judge-model", model, "--concurrency", "2"]
    command += ["--judge-prompt", "paper", "--judge-max-tokens", "5", "--audit", "2"]
    ended = main(command)
    run = Run.open(folder)
    words = run.rows("SELECT * FROM judgements")
    assert len({w["id"] for w in words}) == len(words)
    candidates = run.rows("SELECT count(*) AS n FROM candidates")[0]["n"]
    assert 3 < sum(w["kind"] == "candidate" for w in words) == candidates < 60
    with sqlite3.connect(tmp_path / "cache/judge.sqlite") as cache:
        replies = [text for (text,) in cache.execute("SELECT text FROM replies")]
    assert len(replies) >= candidates
    assert any(replies), "the server wrote nothing at all"
    failed = [w for w in words if w["status"] == "failed"]
    assert all(w["status"] == "answered" for w in words if w not in failed)
    assert not any(w["accepted"] for w in failed)
    yes = [text for text in replies if re.match(r"\W*yes\b", text, re.IGNORECASE)]
    assert any(w["accepted"] for w in words) == bool(yes)
    accepted = [w for w in words if w["accepted"] and w["kind"] == "candidate"]
    assert ended == (0 if accepted else 2)
    if not accepted:
        assert f"accepted none of {candidates} candidates" in capsys.readouterr().err
    calls = run.manifest["judge"][words[0]["annotator"]]["calls"]
    assert len(words) <= calls <= 2 * len(words)

    # This judge may never answer. As if it had, five times:
    with sqlite3.connect(tmp_path / "cache/judge.sqlite") as cache:
        cache.execute("UPDATE replies SET text = 'Yes' WHERE number <= 5")
    assert main(command) == 0
    run = Run.open(folder)
    words = run.rows("SELECT * FROM judgements")
    assert sum(w["status"] == "answered" and w["accepted"] for w in words) >= 5
    assert run.manifest["judge"][words[0]["annotator"]]["calls"] - calls <= 2 * (len(words) - 5)


def test_a_model_that_the_server_does_not_have(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COTSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("cotscope.judge.annotators.Patience", partial(Patience, pause=0.02))
    assert main(["annotate", str(folder), "--annotator", "llm", "--judge-model", "no-such-model"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("cotscope: error: "), told
    assert "no-such-model" in told
    assert not Run.open(folder).state("annotate").current
