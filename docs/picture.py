"""Pictures of a report's first screen, and of the viewer's pages; the tests of the viewer look at them with the same browser.

    python docs/picture.py runs/study/report.html docs/report.png
    python docs/picture.py runs/study pictures            # its report and every page at three widths, light and dark
    python docs/picture.py runs/study pictures --model    # and what the model writes, which is loaded for it

Needs `pip install 'cotscope[browser]'` and a headless Chromium: the system's (Debian: `apt install chromium-headless-shell`)
or playwright's own (`playwright install chromium-headless-shell`), with which there are pictures, but no tests of pages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

REPORT = {"width": 1100, "height": 900}
WIDTHS, HEIGHT, TALLEST = (400, 1100, 1600), 900, 1800
SCHEMES = ("light", "dark")
CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in CHROMIUMS if (found := shutil.which(name))), None)
PAGES = ("neurons", "lists", "solutions", "predictions", "try")
"""Of a run, after `#/run/NAME/`."""
PATIENCE = 120_000  # ms


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium: the system's, or else playwright's own."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("docs/picture.py needs playwright: pip install 'cotscope[browser]'")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def viewing(*runs: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """A viewer of some folders in a process of its own; its address, with the token."""
    command = [sys.executable, "-m", "cotscope", "view", *map(str, runs), "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.terminate()


def report(path: Path, target: Path) -> None:
    """Save the first screen of a report as a PNG, in light colours."""
    with browser() as started:
        page = started.new_page(viewport=REPORT, color_scheme="light", java_script_enabled=False)
        page.goto(path.resolve().as_uri())
        page.screenshot(path=target)


def viewer(run: Path, folder: Path, model: bool) -> None:
    """Save a run's report and every page of the viewer as PNGs `PAGE-WIDTH-SCHEME.png`.

    Args:
        model: let the model show its tokens and answer a question first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = run.resolve()
    with viewing(run.parent) as address, browser() as started:
        pages = {name: f"{address}#/{part}" for name, part in _parts(run).items()}
        if (run / "report.html").is_file():
            pages["report"] = (run / "report.html").as_uri()
        for scheme in SCHEMES:
            for width in WIDTHS:
                page = started.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
                page.set_default_timeout(PATIENCE)
                for name, part in pages.items():
                    page.goto("about:blank")
                    page.goto(part)
                    page.wait_for_load_state("networkidle")
                    if name == "neurons" and page.locator("[data-row]").count():
                        page.locator("[data-row]").first.click()
                        page.wait_for_selector("aside h3")
                    if model:
                        _write(page, name)
                    tallest = 10 * TALLEST if name == "report" else TALLEST
                    tall = min(page.evaluate("document.documentElement.scrollHeight"), tallest)
                    clip = {"x": 0, "y": 0, "width": width, "height": tall}
                    page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True, clip=clip)
                page.close()


def _parts(run: Path) -> dict[str, str]:
    """Pages, and their addresses after `#/`; the run stands beside the first other one in its folder, or else beside itself."""
    name = quote(run.name, safe="")
    others = (p.name for p in sorted(run.parent.iterdir()) if p != run and (p / "manifest.json").is_file())
    two = urlencode({"a": run.name, "b": next(others, run.name)})
    return {"runs": "", "compare": f"compare?{two}", "run": f"run/{name}", **{part: f"run/{name}/{part}" for part in PAGES}}


def _write(page: Any, name: str) -> None:
    """Let the model do what a page has it do."""
    if name == "solutions":
        if (show := page.locator("text=Show tokens and activity")).count():
            show.click()
        page.locator("[data-token='0.3']").click()
        page.wait_for_selector(".layers a.pole")
    if name == "try":
        page.click("button:text-is('Write')")
        page.wait_for_selector("button:text-is('Write'):not(:disabled)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of a report (a PNG), or of a run's report and the viewer's pages.")
    parser.add_argument("source", type=Path, metavar="REPORT.html|RUN")
    parser.add_argument("target", type=Path, metavar="TARGET.png|FOLDER")
    parser.add_argument("--model", action="store_true", help="load the run's model and let it write on the viewer's pages")
    asked = parser.parse_args()
    if asked.source.is_file():
        report(asked.source, asked.target)
    elif asked.source.is_dir():
        viewer(asked.source, asked.target, asked.model)
    else:
        parser.error(f"{asked.source} is neither a report nor a run folder")


if __name__ == "__main__":
    main()
