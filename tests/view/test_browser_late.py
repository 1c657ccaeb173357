"""The viewer's pages when answers come late, in another order, or not at all; when what is asked for is not there; by keyboard.

In the browser of `test_browser.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from picture import CHROMIUM, PATIENCE, viewing

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=PATIENCE)
pytest_plugins = ("small_study",)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

Visit = Callable[..., Any]
LISTS = f"cotscope.lists.{'ab' * 8}"
"""Where the browser keeps the lists of the made runs' model."""
LOADED = {"loaded": True, "other": False, "doing": "", "name": "tiny", "gigabytes": 0.1}
ACTIVITY = [{"pieces": ["one ", "two"], "active": {"small": [1, 0], "": [1, 2]}, "differs": []}]
ACTIVE = {"layer": 0, "index": 1, "sign": 1, "size": 1, "coefficient": 1, "concepts": [], "promoted": []}


def go(page: Any, part: str) -> None:
    page.evaluate("(part) => { location.hash = '#/' + part; }", part)


def held(page: Any, path: str) -> list[Any]:
    """Requests of a path (a pattern), which nobody answers but the test."""
    found: list[Any] = []
    page.route(re.compile(path), lambda route: found.append(route))
    return found


def first(page: Any, requests: list[Any]) -> Any:
    """The first of these, once it is there."""
    for _ in range(PATIENCE // 20):
        if requests:
            return requests[0]
        page.wait_for_timeout(20)
    raise AssertionError("nothing was asked")


def focused(page: Any) -> str:
    """The label of what has the focus, blanks as blanks."""
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.tagName")).replace(
        "\u00a0", " "
    )


def unloaded(wrong: list[str]) -> None:
    """The browser says of what did not come that it did not: that is meant."""
    wrong[:] = [said for said in wrong if "Failed to load resource" not in said]


# -- late answers -------------------------------------------------------------------------------------------------------------


def test_a_page_that_was_left_is_not_drawn(visit: Visit) -> None:
    """Neither is its word that it is loading, which would stay."""
    page = visit("run/made")
    held(page, "/predictions")
    page.evaluate("""() => {
        location.hash = "#/run/made/predictions";
        setTimeout(() => { location.hash = "#/run/made/lists"; }, 50);
    }""")
    expect(page.locator("h1")).to_have_text("Lists")
    page.wait_for_timeout(400)
    expect(page.locator("h1")).to_have_text("Lists", timeout=1000)
    assert page.locator("main[aria-busy]").count() == 0


def test_activity_of_a_page_that_was_left_is_not_waited_for(visit: Visit) -> None:
    """Nor does its address come back."""
    page = visit("run/run")
    page.route(re.compile("/model$"), lambda route: route.fulfill(json=LOADED))
    asked = held(page, "/activity$")
    go(page, "run/run/solutions?condition=study.plain&problem=p0&token=0.0")
    route = first(page, asked)
    go(page, "run/run/lists")
    expect(page.locator("h1")).to_have_text("Lists")
    page.wait_for_timeout(200)
    assert route.request.failure, "the page was left, and its question not given up"
    assert page.url.endswith("#/run/run/lists")


def test_the_later_question_is_the_one_that_is_answered(visit: Visit) -> None:
    """Of two tokens the poles of the second are shown, though those of the first come later; and it stays chosen."""
    page = visit("run/run", 1100)
    page.route(re.compile("/model$"), lambda route: route.fulfill(json=LOADED))
    page.route(re.compile("/activity$"), lambda route: route.fulfill(json=ACTIVITY))
    asked = held(page, "/token$")
    go(page, "run/run/solutions?condition=study.plain&problem=p0")
    page.click("[data-token='0.0']")
    slow = first(page, asked)
    page.route(re.compile("/token$"), lambda route: route.fulfill(json=[ACTIVE]))
    page.click("[data-token='0.1']")
    expect(page.locator("h2:has-text('(token 1)')")).to_be_visible()
    slow.fulfill(json=[ACTIVE])
    page.wait_for_timeout(300)
    expect(page.locator("h2:has-text('(token 1)')")).to_be_visible(timeout=1000)
    page.select_option("label:has-text('Coloured by') select", "small")
    expect(page.locator("[data-token='0.1'][aria-pressed=true]")).to_be_visible()
    assert "token=0.1" in page.url and "concept=small" in page.url


def test_one_side_is_coloured_where_the_other_can_not_be(visit: Visit) -> None:
    page = visit("run/run", 1100)
    page.route(re.compile("/model$"), lambda route: route.fulfill(json=LOADED))
    sides = [{"error": "not known <b>", "differs": []}, *ACTIVITY]
    page.route(re.compile("/activity$"), lambda route: route.fulfill(json=sides))
    go(page, "run/run/solutions?condition=study.plain&beside=ablation.reasoning&problem=p0")
    expect(page.locator(".side .warning")).to_have_text("not known <b>")
    assert page.locator("[data-token='1.1']").count() == 1 and page.locator("[data-token='0.0']").count() == 0
    assert page.locator(".side >> nth=0 >> .tok").count()
    go(page, "run/run/solutions?condition=study.plain&beside=discovery.plain&problem=p0")
    expect(page.locator(".side .warning").last).to_contain_text("nothing was written for problem 'p0'")
    assert page.locator(".side").count() == 2


# -- what fails, goes, or is not there ----------------------------------------------------------------------------------------


def test_a_viewer_that_has_ended_is_said_until_it_answers(visit: Visit, wrong: list[str]) -> None:
    page = visit("")
    page.route(re.compile("/api/runs$"), lambda route: route.abort())
    expect(page.locator("[role=alert]")).to_contain_text("does not answer")
    assert page.locator("a[href='#/run/made']").is_visible()
    page.unroute(re.compile("/api/runs$"))
    expect(page.locator("[role=alert]")).to_have_count(0)
    unloaded(wrong)


def test_a_run_that_is_gone_is_not_compared(visit: Visit) -> None:
    page = visit("")
    both = page.locator("button:text-is('Show two side by side')")
    found = page.evaluate("fetch('/api/runs').then((answer) => answer.json())")
    found["runs"] = [run for run in found["runs"] if run["name"] != "made"]
    page.check("[aria-label='compare made']")
    page.check("[aria-label='compare run']")
    expect(both).to_be_enabled()
    page.route(re.compile("/api/runs$"), lambda route: route.fulfill(json=found))
    expect(page.locator("a[href='#/run/made']")).to_have_count(0)
    expect(both).to_be_disabled()


def test_a_study_is_begun_once_and_linked_by_its_served_name(visit: Visit) -> None:
    page = visit("", 1100)
    asked = held(page, "/api/studies$")
    page.click("summary")
    page.fill("[name=model]", "any")
    page.click("button:text-is('Begin')")
    begun = first(page, asked)
    assert page.locator("button:text-is('Begin')").is_disabled()
    begun.fulfill(json={"name": "made", "run": "made~2", "command": ["cotscope"], "code": 0, "said": ""})
    expect(page.locator("details [role=status] a")).to_have_attribute("href", "#/run/made~2")
    expect(page.locator("button:text-is('Begin')")).to_be_enabled()


def test_a_page_that_failed_is_made_again_by_its_own_link(visit: Visit, wrong: list[str]) -> None:
    page = visit("run/made", 1100)
    page.route(re.compile("/predictions"), lambda route: route.abort())
    page.click("nav >> text=Predictions")
    expect(page.locator("main [role=alert]")).to_contain_text("does not answer")
    page.unroute(re.compile("/predictions"))
    page.click("nav >> text=Predictions")
    expect(page.locator("main [role=alert]")).to_have_count(0)
    expect(page.locator("[data-row]").first).to_be_visible()
    unloaded(wrong)


@pytest.mark.parametrize("part", ["neurons", "predictions"])
def test_what_was_typed_and_not_sent_is_cleared(visit: Visit, part: str) -> None:
    page = visit(f"run/made/{part}", 1100)
    page.fill("[type=search]", "unsent")
    page.click("button:text-is('Clear')")
    expect(page.locator("[type=search]")).to_have_value("")


def test_a_link_that_can_not_be_kept_changes_nothing(visit: Visit) -> None:
    assert visit("run/run/try?by=list&list=mine").input_value("[name=by]") == "nothing"


def test_a_report_is_a_link_beyond_this_machine(runs: Path, chromium: Any) -> None:
    """There it is not read without the token, and a link can't show that."""
    options = ("--host", "0.0.0.0", "--beyond-this-machine")
    with viewing(runs / "made", options=options) as address:
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address.replace("0.0.0.0", "127.0.0.1") + "#/run/made")
        page.click("text=The report")
        expect(page.locator("nav[aria-label='Parts of this report']")).to_be_visible()
        cookies = page.context.cookies()
        assert cookies and all(cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in cookies)
        page.close()


# -- lists --------------------------------------------------------------------------------------------------------------------


def lists(page: Any, kept: dict[str, Any]) -> None:
    """Show the page of lists, these being kept."""
    page.evaluate("([place, kept]) => localStorage.setItem(place, kept)", [LISTS, json.dumps(kept)])
    page.click("nav >> text=Lists")
    expect(page.locator("h2").first).to_be_visible()


def test_what_is_set_beside_a_list_stays_and_goes_with_it(visit: Visit) -> None:
    page = visit("run/made", 1100)
    lists(page, {"one": [[2, 1, -1], [2, 3, -1]], "two": [[2, 3, -1]]})
    page.fill("[aria-label='factor of two']", "0.5")
    page.select_option("section:has(h2:has-text('two')) select", "prompt")
    page.focus("[aria-label$='out of one'] >> nth=0")
    page.keyboard.press("Enter")
    assert focused(page) == "take L2 #3 − out of one"
    assert page.input_value("[aria-label='factor of two']") == "0.5"
    page.keyboard.press("Enter")
    assert focused(page) == "Delete one"
    page.keyboard.press("Enter")
    expect(page.locator("h2")).to_have_text("two 1 neurons")
    page.click("section button:text-is('Try it')")
    expect(page.locator("[name=factor]")).to_have_value("0.5")
    assert page.input_value("[name=scope]") == "prompt" and page.input_value("[name=list]") == "two"
    assert "factor=0.5" in page.url and "scope=prompt" in page.url


def test_a_list_has_a_link(visit: Visit) -> None:
    page = visit("run/made", 1100)
    lists(page, {"one": [[2, 1, -1]], "two": [[2, 3, -1]]})
    page.click("h2 a:has-text('two')")
    expect(page.locator("h2")).to_have_text(["two 1 neurons"])
    assert page.url.endswith("#/run/made/lists?list=two")
    page.click("text=All lists")
    expect(page.locator("h2")).to_have_count(2)


@pytest.mark.parametrize("name", ["constructor", "toString", "__proto__"])
def test_a_list_can_have_any_name(visit: Visit, name: str) -> None:
    page = visit("run/made/neurons?pole=2.3.-1", 1100)
    page.fill("aside [aria-label=list]", name)
    page.click("aside button:text-is('Keep')")
    expect(page.locator("aside [role=status]")).to_contain_text("holds 1 now")
    page.click("nav >> text=Lists")
    expect(page.locator("h2")).to_have_text(f"{name} 1 neurons")


def test_a_list_of_another_model_is_not_read(visit: Visit) -> None:
    """What was wrong is said once, and the same file can be chosen again."""
    page = visit("run/made/lists")
    page.click("summary")

    def choose(**content: Any) -> None:
        kept = json.dumps({"name": "theirs", "poles": [[2, 3, -1]]} | content).encode()
        page.set_input_files("[type=file]", [{"name": "list.json", "mimeType": "application/json", "buffer": kept}])

    for _ in range(2):
        choose(weights="cd" * 32)
        expect(page.locator("[role=alert]")).to_contain_text("of another model")
        assert page.locator("[role=alert]").count() == 1 and page.input_value("[type=file]") == ""
    assert page.locator("h2").count() == 0
    choose(weights="ab" * 32)
    expect(page.locator("h2")).to_have_text("theirs 1 neurons")
    expect(page.locator("[role=alert]")).to_have_count(0)


# -- keys, directions ---------------------------------------------------------------------------------------------------------


def test_arrows_go_between_rows_only_where_rows_are(visit: Visit) -> None:
    page = visit("run/made/neurons?pole=2.3.-1", 1100)
    page.focus("aside >> text=the other sign")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('aside') !== null"), "the card scrolls"
    page.focus("[data-row] >> nth=0")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[...document.querySelectorAll('[data-row]')].indexOf(document.activeElement)") == 1


def test_letters_that_are_keys_can_be_switched_off(visit: Visit) -> None:
    page = visit("run/made/neurons", 1100)
    at = "document.activeElement.type ?? document.activeElement.dataset.row ?? ''"
    page.keyboard.press("/")
    assert page.evaluate(at) == "search"
    page.uncheck("label:has-text('Keys:') input")
    for _ in range(2):
        page.focus("[data-row] >> nth=0")
        row = page.evaluate(at)
        for key in ("/", "j"):
            page.keyboard.press(key)
            assert page.evaluate(at) == row
        page.reload()  # it is remembered
        page.wait_for_selector("[data-row]")
    assert not page.is_checked("label:has-text('Keys:') input")


def test_contexts_of_either_direction_keep_to_themselves(visit: Visit) -> None:
    """The figure stands after an Arabic context, and not inside it."""
    context = {"problem_id": "p1", "before": "مرحبا ", "token": "7", "after": " بكم", "coefficient": 0.5}

    def answered(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"contexts": [context]})

    page = visit("run/made/neurons", 1600)
    page.route(re.compile("/neurons/2/3/-1$"), answered)
    go(page, "run/made/neurons?pole=2.3.-1")
    words, figure = (page.locator(".context > bdi").nth(i).bounding_box() for i in range(2))
    assert words["x"] + words["width"] <= figure["x"] + 1
