"""The dashboard in Chromium: every view, a ranking by keyboard, and no request to another server."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cli.dashboard.server import VIEWS
from testing.dashboard.stack import ENDPOINT, MODEL, RUN, ExampleStack, example_stack, served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"),
]
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 380, "height": 800}
TEXTS = {
    "architecture": "2 of 2 exist, 1 recorded",
    "release": f"run {RUN}",
    "serving": "100 % of traffic",
    "plan": "container registry",
    "model": f"{MODEL}:9, live model from training run {RUN}",
    "lineage": ENDPOINT,
    "try": "One of 200",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleStack]:
    with example_stack(tmp_path_factory.mktemp("dashboard")) as stack:
        yield stack


@pytest.fixture(scope="module")
def url(stack: ExampleStack) -> Iterator[str]:
    with served(stack.source()) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Chromium's sandbox does not work as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, **settings: Any) -> Iterator[Page]:
    """Yield a page. Fails the test after a request to another server, or an error of a script or of a policy."""
    urls: list[str] = []
    errors: list[str] = []
    context = browser.new_context(**settings)
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on("request", lambda request: urls.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert urls
    assert [url for url in urls if not url.startswith("http://127.0.0.1:")] == []
    assert errors == []


@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", NARROW)])
def test_every_view_is_readable_and_without_serious_accessibility_errors(
    scheme: Any, size: Any, browser: Browser, url: str, stack: ExampleStack
) -> None:
    stack.log_summary([0.004, 0.025], without_features=1)
    with opened(browser, color_scheme=scheme, viewport=size) as page:
        page.goto(url)
        for name, _, title in VIEWS:
            page.get_by_role("navigation").get_by_role("link", name=title).click()
            expect(page.get_by_role("heading", level=1)).to_have_text(title)
            expect(page.locator("main")).to_contain_text(TEXTS[name])
            if name == "model":
                expect(page.frame_locator("iframe").get_by_role("heading", level=1)).to_contain_text(
                    "Click probability"
                )
            if name == "try":
                page.get_by_label("User").fill("u3")
                page.get_by_role("button", name="Rank").click()
                page.locator(".ranking").wait_for()
            violations = Axe().run(page).response["violations"]
            serious = [(each["id"], each["nodes"]) for each in violations if each["impact"] in ("serious", "critical")]
            assert serious == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], f"{name} scrolls sideways"


def test_ranking_is_operated_by_keyboard_and_changes_with_the_hour(browser: Browser, url: str) -> None:
    with opened(browser, viewport=WIDE) as page:
        page.goto(f"{url}/try")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the view")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label("User")).to_be_focused()
        page.keyboard.type("u17")
        expect(page.locator("#users option[value=u17]")).to_have_count(1)
        started = time.monotonic()
        page.keyboard.press("Enter")
        page.locator(".ranking").wait_for()
        seconds = time.monotonic() - started
        assert seconds <= 1, f"the ranking took {seconds:.2f} s"
        expect(page.get_by_role("status")).to_contain_text("The best 10 of 119 items for user u17")
        first = page.locator(".ranking tbody th").all_inner_texts()
        assert len(first) == 10
        assert first[0].startswith("Film «")

        for hour in ("3", "22"):
            page.get_by_label("hour").focus()
            with page.expect_request(lambda request: request.method == "POST") as sent:
                page.keyboard.press("Control+a")
                page.keyboard.type(hour)
            assert f'name="context-hour"\r\n\r\n{hour}\r\n' in (sent.value.post_data or "")
            expect(page.get_by_role("status")).to_contain_text(f"user u17, hour {hour},")
        now, before = page.locator(".ranking").all()
        expect(now.locator("caption")).to_have_text("Now: user u17, hour 22")
        expect(before.locator("caption")).to_have_text("Before: user u17, hour 3")
        assert now.locator("tbody th").all_inner_texts() != before.locator("tbody th").all_inner_texts()
        assert set(now.locator(".moved").all_inner_texts()) - {"same place"}


def test_ranking_works_without_scripts(browser: Browser, url: str) -> None:
    with opened(browser, java_script_enabled=False) as page:
        page.goto(f"{url}/try")
        page.get_by_label("User").fill("u3")
        page.get_by_label("hour").fill("7")
        page.get_by_role("button", name="Rank").click()
        expect(page.locator(".ranking caption")).to_have_text("Now: user u3, hour 7")
        expect(page.get_by_label("User")).to_have_value("u3")


def test_stopped_endpoint_is_reported_in_the_view(browser: Browser, url: str, stack: ExampleStack) -> None:
    endpoint = f"{stack.cloud.workspace}/onlineEndpoints/{ENDPOINT}"
    with opened(browser, viewport=NARROW) as page:
        page.goto(f"{url}/try")
        page.get_by_label("User").fill("u3")
        stack.cloud.put(endpoint, **stack.cloud.endpoint_body({}))
        try:
            page.get_by_role("button", name="Rank").click()
            expect(page.get_by_role("alert")).to_contain_text("the endpoint answered 404")
        finally:
            stack.cloud.put(endpoint, **stack.cloud.endpoint_body({stack.outputs["deployment"]: 100}))
        page.get_by_role("button", name="Rank").click()
        page.locator(".ranking").wait_for()

        stack.cloud.stop()
        try:
            page.get_by_role("button", name="Rank").click()
            expect(page.get_by_role("alert")).to_contain_text("does not answer")
            page.get_by_role("link", name="Serving").click()
            expect(page.get_by_role("alert")).to_contain_text(f"{stack.cloud.url} does not answer")
            expect(page.get_by_role("alert")).to_contain_text("Restart the example stack.")
        finally:
            stack.cloud.start()


def test_script_reports_a_stopped_server(browser: Browser, stack: ExampleStack) -> None:
    context = browser.new_context()
    page = context.new_page()
    with served(stack.source()) as url:
        page.goto(f"{url}/try")
        page.get_by_label("User").fill("u3")
        page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Rank").click()
    expect(page.get_by_role("alert")).to_contain_text("the dashboard's server does not answer")
    context.close()
