"""A picture of a report's first screen, for the README.

    python docs/picture.py runs/study/report.html docs/report.png

Needs `pip install playwright` and a headless Chromium: the system's (Debian: `apt install chromium-headless-shell`) or
playwright's own (`playwright install chromium-headless-shell`).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

WIDTH, HEIGHT = 1100, 900
CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def picture(report: Path, target: Path) -> None:
    """Save the first screen of a report as a PNG, in light colours."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("docs/picture.py needs playwright: pip install playwright")
    installed = next((found for name in CHROMIUMS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", java_script_enabled=False)
        page.goto(report.resolve().as_uri())
        page.screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: python docs/picture.py REPORT.html TARGET.png")
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
