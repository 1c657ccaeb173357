"""The viewer's pages in a real browser: they show hostile text as text, ask nobody else, and say no error.

Needs playwright and a headless Chromium (`docs/picture.py` says how to get them); without them it is skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest_plugins = ("small_study",)
CHROMIUM = next((found for name in ("chromium-headless-shell", "chromium") if (found := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
WAIT = 120_000  # ms


@pytest.fixture(scope="module")
def address(made: Path, small_run: Path) -> Iterator[str]:
    """A viewer of a made run and of one that was run, in a process of its own."""
    command = [sys.executable, "-m", "cotscope", "view", str(made), str(small_run), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
        process.terminate()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """A page that is narrow, and that fails the test at its end if anything went wrong on it."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.set_default_timeout(WAIT)
        wrong: list[str] = []
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith(address.split("?")[0]) else wrong.append(asked.url))
        page.goto(address)
        page.wait_for_selector("h1")
        assert "token" not in page.url
        yield page
        browser.close()
    assert not wrong


def show(page: Any, part: str) -> str:
    """Go to a page; what it says."""
    page.evaluate("part => { document.querySelector('h1').remove(); location.hash = part; }", f"#/{part}")
    page.wait_for_selector("h1")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 400, f"{part} is {width} pixels wide"
    return str(page.inner_text("main"))


@pytest.mark.parametrize("run", ["made", "run"])
def test_every_page_shows_and_asks_nobody_else(page: Any, run: str) -> None:
    for part in ("", "/neurons", "/lists", "/solutions", "/try"):
        assert show(page, f"run/{run}{part}")
    assert show(page, "compare?a=made&b=run")


def test_hostile_tokens_are_text(page: Any) -> None:
    said = show(page, "run/made/neurons?pole=2.3.-1")
    assert "<script>alert(1)</script>" in said
    page.wait_for_selector("aside h3")
    card = page.inner_text("aside")
    assert "<script>alert(3)</script>" in card and "U+202E" in card and "\u202e" not in card and "␣add" in card
    assert page.locator("main script, main img, main style").count() == 0


def test_a_search_by_keyboard(page: Any) -> None:
    show(page, "run/made/neurons")
    page.keyboard.press("/")
    page.keyboard.type("2:5")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('[data-row]').length === 1")
    assert "token=2%3A5" in page.url
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("aside h2")
    assert "pole=2.5.-1" in page.url


def test_tokens_are_coloured_and_have_poles(page: Any) -> None:
    show(page, "run/run/solutions?condition=study.plain&beside=ablation.reasoning&problem=p0")
    page.click("text=Show tokens and activity")
    page.wait_for_selector("[data-token='0.0']")
    page.click("[data-token='0.0']")
    page.wait_for_selector(".layers a.pole")
    assert "token=0.0" in page.url


def test_a_question_is_answered_twice(page: Any) -> None:
    show(page, "run/run/try?tokens=8&question=What+is+0+and+0%3F")
    page.click("button:text-is('Write')")
    page.wait_for_function(
        "[...document.querySelectorAll('.side .meta')].filter(e => /8 tokens/.test(e.textContent)).length === 2"
    )
    assert page.locator(".side .tokens .tok").count() == 16
