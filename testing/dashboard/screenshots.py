"""Writes the screenshots in docs/dashboard, from an example stack with invented films.

python -m testing.dashboard.screenshots
"""

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from testing.dashboard.stack import ENDPOINT, example_stack, served
from testing.sandbox.process import ROOT

FOLDER = ROOT / "docs" / "dashboard"
MAX_BYTES = 150_000


def take(browser: Browser, url: str, name: str, scheme: str, width: int, height: int, view: str) -> None:
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.goto(f"{url}/{view}")
    if view == "try":
        rank(page)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    context.close()
    assert path.stat().st_size < MAX_BYTES, f"{path} has {path.stat().st_size:,} bytes"
    print(path)


def rank(page: Page) -> None:
    page.get_by_label("User").fill("u17")
    for hour in ("7", "22"):
        page.get_by_label("hour").fill(hour)
        page.get_by_role("button", name="Rank").click()
        page.get_by_text(f"Now: user u17, hour {hour}").wait_for()
    page.get_by_role("heading", level=1).click()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, example_stack(Path(folder)) as stack, sync_playwright() as playwright:
        stack.log_summary([0.004] * 60 + [0.019], without_features=1)
        for hour in range(20):
            stack.cloud.score(ENDPOINT, {"rows": [{"age": 30, "hour": hour} if hour % 3 else {"year": 1990}]})
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        with served(stack.source()) as url:
            take(browser, url, "architecture", "light", 1100, 760, "")
            take(browser, url, "try-dark", "dark", 1100, 900, "try")
            take(browser, url, "release-380", "light", 380, 800, "release")
            take(browser, url, "serving-380-dark", "dark", 380, 800, "serving")
        browser.close()


if __name__ == "__main__":
    main()
