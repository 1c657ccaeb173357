"""The viewer's pages in a real browser: they show hostile text as text, ask nobody else, are reached by keyboard, say no error.

Needs `pip install 'cotscope[browser]'` and a headless Chromium (`docs/picture.py` says how to get it); without them it is
skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from picture import CHROMIUM, PATIENCE, SCHEMES

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=PATIENCE)
pytest_plugins = ("small_study",)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

STRANGE = '"><img src=x onerror=alert(5)>\u202e'
"""The name of a run's folder (`conftest.py`)."""
FIRST = quote("<script>alert(1)</script>#0", safe="")
"""The name of a problem."""
PAGES = [
    "", "run/made", "run/made/neurons", "run/made/neurons?pole=2.3.-1", "run/made/lists", "run/made/solutions",
    f"run/made/solutions?condition=prediction.study&problem={FIRST}", "run/made/predictions", "run/made/try", "run/run",
    "run/run/neurons", "run/run/solutions?condition=study.plain&beside=ablation.reasoning&problem=p0", "run/run/predictions",
    "run/run/try", "compare?a=made&b=run", f"run/{quote(STRANGE)}", f"run/{quote(STRANGE)}/neurons",
]  # fmt: skip
Visit = Callable[..., Any]


@pytest.mark.parametrize("part", PAGES)
def test_every_page_is_a_link_and_fits_a_narrow_screen(visit: Visit, part: str) -> None:
    page = visit(part)
    assert page.locator("main .fault[role=alert]").count() == 0
    assert len(page.inner_text("main")) > 60 and page.title().endswith("cotscope")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 400, f"{part} is {width} pixels wide"


@pytest.mark.parametrize(
    ("part", "selector", "text"),
    [
        ("run/made/neurons?token=2:5&pole=2.5.-1", "[data-row]", "L2 #5 −"),
        ("run/made/neurons?token=2:5&pole=2.5.-1", "aside h2", "L2 #5 −"),
        ("run/made/neurons?sort=mean_update_size&descending=false", "[aria-sort=ascending]", "update size ▴"),
        ("run/made/predictions?predictor=confidence&correct=false&page=1", "main [role=status]", "51–60 of 60"),
        ("run/made/predictions?data=other%3Ci%3E", "main", "The run has no texts of these problems"),
        ("run/run/predictions", "main code", "cotscope predict"),
        (f"run/made/solutions?condition=prediction.study&problem={FIRST}", ".problem b", "Answer: 0"),
        (f"run/made/solutions?condition=prediction.study&problem={FIRST}", "[value='prediction.study']:checked", "study ("),
        (f"run/made/solutions?condition=prediction.study&problem={FIRST}", ".side h2", ", study"),
        ("run/run/solutions?condition=ablation.reasoning&problem=p1", ".side .meta", "tokens"),
        ("run/run/try?question=What%3F&tokens=7", "textarea", ""),
        ("run/broken", "main", "tables/poles.parquet"),
        ("run/none", "[role=alert]", "there is no run 'none'"),
        ("run/made/none", "[role=alert]", "There is no such page."),
        ("run/made%2F..%2Frun", "[role=alert]", "Not Found"),
        ("compare?a=made&b=none", "[role=alert]", "there is no run 'none'"),
        ("compare?a=made&b=run", "main", "annotate: annotator"),
        ("run/run/solutions?condition=study.gone", ".warning", "Nothing was written under study.gone in this run"),
        ("run/run/solutions?condition=study.plain&problem=gone", ".warning", "Problem gone was not asked under study.plain"),
        ("run/run/try?by=list&list=mine", ".warning", "This browser keeps no list mine"),
        ("run/run/try?by=edit", "main", "choose its file again"),
        ("run/made/lists?list=mine", ".warning", "This browser keeps no list mine"),
    ],
)
def test_a_link_is_what_was_seen(visit: Visit, wrong: list[str], part: str, selector: str, text: str) -> None:
    page = visit(part)
    expect(page.locator(selector)).to_contain_text(text)
    if selector == "textarea":
        assert page.input_value("textarea") == "What?" and page.input_value("[name=tokens]") == "7"
    if selector == "[role=alert]":  # the browser says of what was not found that it was not
        wrong[:] = [said for said in wrong if "Failed to load resource" not in said]


def test_back_and_forward(visit: Visit) -> None:
    page = visit("run/made")
    page.click("nav >> text=Neurons")
    page.click("[data-row='2.3.-1']")
    expect(page.locator("aside h2")).to_have_text("L2 #3 −")
    page.go_back()
    expect(page.locator("aside")).to_have_count(0)
    page.go_back()
    expect(page.locator("h1")).to_have_text("made")
    page.go_forward()
    expect(page.locator("h1")).to_have_text("Neurons")


# -- hostile texts -----------------------------------------------------------------------------------------------------------


def assert_only_text(page: Any) -> str:
    """Nothing of what is shown is an element of its own or can't be seen; all that it says."""
    assert page.locator("main script, main img, main style, main svg, main iframe, header img, header script").count() == 0
    said = page.evaluate("document.body.textContent + document.title")
    assert not {c for c in said if unicodedata.category(c) in ("Cc", "Cf", "Zl") and c != "\n"}
    return str(said)


@pytest.mark.parametrize(
    ("part", "texts"),
    [
        ("", ["tiny <b>", '"><img src=x onerror=alert(5)>U+202E']),
        (f"run/{quote(STRANGE)}", ['"><img src=x onerror=alert(5)>U+202E', "A note with U+001B and <em>.", "found <i>12</i>"]),
        ("run/made/neurons?pole=2.3.-1", ["<script>alert(1)</script>", "<script>alert(3)</script>", "U+202E", "U+0000", "␣add",
                                          '"><img onerror=alert(4)>']),
        ("run/made/predictions?descending=false", ["<script>alert(1)</script>#", "U+202E", "U+001B", "other<i>"]),
        ("run/made/predictions?text=onerror", ['How many "><img onerror=alert(4)>#20?']),
        (f"run/made/solutions?condition=prediction.study&problem={FIRST}", ["It is", "<script>alert(1)</script>#0"]),
        ("run/made/try", ["</svg><script>alert(2)</script>", "<script>alert(3)</script>"]),
        (f"compare?a=made&b={quote(STRANGE)}", ["tiny <b>", "U+202E"]),
    ],
)  # fmt: skip
def test_hostile_texts_are_texts(visit: Visit, part: str, texts: list[str]) -> None:
    page = visit(part, 1100)
    if "pole=" in part:
        page.wait_for_selector("aside h3")
    said = assert_only_text(page)
    assert [text for text in texts if text not in said] == []


def test_a_list_of_a_hostile_name(visit: Visit) -> None:
    page = visit("run/made/neurons?pole=2.3.-1")
    page.fill("aside [aria-label=list]", STRANGE)
    page.click("aside button:text-is('Keep')")
    expect(page.locator("aside [role=status]")).to_contain_text("holds 1 now")
    page.click("nav >> text=Lists")
    expect(page.locator("h2")).to_contain_text('"><img src=x onerror=alert(5)>U+202E 1 neurons')
    page.click("text=Try it >> nth=1")
    expect(page.locator("select[name=list]")).to_be_visible()
    assert_only_text(page)


# -- what the model writes ----------------------------------------------------------------------------------------------------


def test_tokens_are_coloured_and_have_poles(visit: Visit) -> None:
    page = visit("run/run/solutions?condition=study.plain&beside=ablation.reasoning&problem=p0")
    page.click("text=Show tokens and activity")
    page.wait_for_selector("[data-token='0.0']")
    page.focus("[data-token='0.0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".layers a.pole")
    assert "token=0.1" in page.url
    assert page.locator("[data-token][aria-pressed=true]").get_attribute("data-token") == "0.1"
    assert page.locator(".tok[style*=background]").count()


def test_a_question_is_answered_twice(visit: Visit) -> None:
    page = visit("run/run/try?tokens=8&question=What+is+0+and+0%3F")
    page.focus("textarea")
    page.click("button:text-is('Write')")
    expect(page.locator(".side .meta:has-text('8 tokens')")).to_have_count(2)
    assert page.locator(".side .tokens .tok").count() == 16
    expect(page.locator("button:text-is('Write')")).to_be_enabled()
    assert "question=What" in page.url and "tokens=8" in page.url


def test_tokens_come_one_by_one_and_are_stopped(visit: Visit) -> None:
    """While the model writes, what it wrote is there; then it is stopped, and can be asked again."""
    page = visit("run/run/try?tokens=600&by=nothing&question=What+is+0+and+0%3F")
    page.click("button:text-is('Write')")
    expect(page.locator(".side .tokens .tok")).not_to_have_count(0)
    assert page.locator("button:text-is('Stop')").is_enabled() and page.locator(".tokens.writing").count() == 1
    page.click("button:text-is('Stop')")
    expect(page.locator("main > form [role=status]")).to_have_text("Stopped.")
    assert 0 < page.locator(".side .tokens .tok").count() < 600
    page.fill("[name=tokens]", "4")
    page.click("button:text-is('Write')")
    expect(page.locator(".side .meta")).to_contain_text("4 tokens")


def test_hostile_tokens_of_a_stream(visit: Visit) -> None:
    tokens = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "\u202e\x00", "\n", " ", "\ufffd", "</span>"]
    lines = [
        {"concepts": ["<b>"]},
        *({"side": "base", "token": t, "ends": False, "active": [i, i]} for i, t in enumerate(tokens)),
    ]
    lines += [{"side": "base", "text": "".join(tokens), "finish": "stop"}, {"error": "<i>wrong</i>\x1b"}]
    page = visit("run/run/try?by=nothing")
    page.route("**/try", lambda route: route.fulfill(body="".join(json.dumps(line) + "\n" for line in lines)))
    page.click("button:text-is('Write')")
    expect(page.locator("[role=alert]")).to_have_text("<i>wrong</i>U+001B")
    said = assert_only_text(page)
    assert "<script>alert(1)</script>" in said and "U+202EU+0000" in said and page.locator(".tok").count() == len(tokens)


def test_a_run_that_goes_on_is_watched(visit: Visit, runs: Path, small_command: Any) -> None:
    """A study that is begun while the list is open appears there with its stage; its page keeps up until it has ended."""
    page = visit("")
    assert "live" not in page.inner_text("main table")
    live = runs / "live"
    command = [sys.executable, "-m", "cotscope", *small_command(live), "--matched", "30"]  # long enough to be looked at twice
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as study:
        row = page.locator("tr:has(a[href='#/run/live'])")
        expect(row.locator(".badge.started")).to_have_text("running")
        page.focus("[aria-label='compare made']")
        page.click("a[href='#/run/live']")
        expect(page.locator(".live [role=status]")).to_contain_text("is running.")
        first = page.inner_text(".live")
        page.wait_for_selector(f".live:not(:has-text({json.dumps(first)}))")
        assert study.wait(300) == 0
    expect(page.locator(".live")).to_have_count(0)
    expect(page.locator("table[class=figures]")).to_contain_text("accuracy, nothing zeroed")
    assert page.locator(".badge.done").count() > 4 and page.locator("h1").inner_text() == "live"
    page.click("header a >> nth=0")
    expect(row).to_contain_text("stages done")
    expect(row.locator(".badge")).to_have_count(0)


def test_a_study_is_begun_and_what_it_says_is_shown(visit: Visit, tiny_study: Any) -> None:
    """The tiny model has no word of the usual concepts, so that the study ends at once with a line that says so."""
    page = visit("")
    page.click("summary")
    for name, value in (("model", tiny_study.model), ("data", tiny_study.data), ("limit", "4"), ("name", "begun")):
        page.fill(f"[name={name}]", value)
    page.focus("[name=name]")
    page.keyboard.press("Enter")
    expect(page.locator("details [role=status]")).to_contain_text("Study begun ended with 2")
    expect(page.locator("pre.log")).to_contain_text("cotscope: error:")
    assert page.input_value("[name=name]") == "begun" and page.locator("button:text-is('Stop it')").is_hidden()


# -- keyboard and accessibility -----------------------------------------------------------------------------------------------

_CAN_BE_DONE = """() => {
  const all = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1'])");
  const found = [...all].filter((one) => !one.disabled && one.tabIndex >= 0 && one.checkVisibility({visibilityProperty: true}));
  found.forEach((one, i) => { one.walked = i; });
  return found.map((one) => one.outerHTML.slice(0, 120));
}"""
_FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {walked: one.walked ?? -1, outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
    seen: box.width > 0 && box.right > 0 && box.bottom > 0 && box.left < innerWidth && box.top < innerHeight};
}"""


@pytest.mark.parametrize("part", [*PAGES, "run/broken"])
def test_tab_reaches_all_that_can_be_done(visit: Visit, part: str) -> None:
    page = visit(part, 1100)
    wanted = page.evaluate(_CAN_BE_DONE)
    reached = set()
    for _ in range(len(wanted) + 5):
        page.keyboard.press("Tab")
        here = page.evaluate(_FOCUSED)
        if here["walked"] >= 0:
            assert here["outline"] >= 2 and here["seen"], f"it is not seen that this has the focus: {wanted[here['walked']]}"
            reached.add(here["walked"])
    assert [html for i, html in enumerate(wanted) if i not in reached] == []


def test_a_search_by_keyboard(visit: Visit) -> None:
    page = visit("run/made/neurons")
    page.keyboard.press("/")
    page.keyboard.type("2:5")
    page.keyboard.press("Enter")
    expect(page.locator("[data-row]")).to_have_count(1)
    assert "token=2%3A5" in page.url
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("aside h2")
    assert "pole=2.5.-1" in page.url


def test_enter_does_what_a_click_does(visit: Visit) -> None:
    page = visit("")
    page.focus("a[href='#/run/made']")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("made")
    page.focus("nav a:text-is('Neurons')")
    page.keyboard.press("Enter")
    page.route("**/neurons?*", lambda route: (time.sleep(0.5), route.continue_()))
    page.focus("th button:text('problems')")
    page.keyboard.press("Enter")
    page.wait_for_selector("main[aria-busy]", state="attached")
    expect(page.locator("[aria-sort=descending]")).to_have_text("problems ▾")
    assert page.evaluate("document.activeElement.textContent") == "problems ▾", "what was used keeps the focus, however long"
    assert page.locator("main[aria-busy]").count() == 0
    page.focus("nav a:text-is('Predictions')")
    page.keyboard.press("Enter")
    page.focus("table.ways a:has-text('confidence')")
    page.keyboard.press("Enter")
    expect(page.locator("h2 >> nth=1")).to_contain_text("confidence")
    page.focus("[data-row] >> nth=0")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Solutions")
    page.focus("#skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize(("width", "scheme"), [*zip((1100, 400), SCHEMES, strict=True)])
@pytest.mark.parametrize("part", [*PAGES, "run/broken"])
def test_axe_finds_nothing_serious(visit: Visit, part: str, width: int, scheme: str) -> None:
    """All of its rules, WCAG AA's among them; with tokens, a card and an answer shown, and all that is folded."""
    axe = files(pytest.importorskip("axe_playwright_python")).joinpath("axe.min.js").read_text(encoding="utf-8")
    page = visit(part, width, scheme)
    if part == "run/run/try":
        page.fill("[name=tokens]", "6")
        page.click("button:text-is('Write')")
        expect(page.locator(".side .meta:has-text('6 tokens')")).to_have_count(2)
    if "beside=" in part:
        if (show := page.locator("text=Show tokens and activity")).count():
            show.click()
        page.click("[data-token='0.3']")
        page.wait_for_selector(".layers a.pole")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert found["passes"], "axe looked at nothing"
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [f"{v['id']}: {node['html'][:200]} {node['failureSummary']}" for v in serious for node in v["nodes"]] == []
