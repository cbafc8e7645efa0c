"The Chromium that this computer has, driven by Playwright: for the tests that look at a page as a reader does."

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"


def executable() -> str:
    "Path of the browser; the environment variable CHROMIUM goes before what is found."
    for name in filter(None, (os.environ.get("CHROMIUM"), *NAMES)):
        if found := shutil.which(name):
            return found
    raise FileNotFoundError(
        "This needs a Chromium browser: install one (Debian and Ubuntu: apt-get install chromium), "
        "or name it in the environment variable CHROMIUM."
    )


@contextmanager
def page(width: int = 1200, height: int = 900, offline: bool = False) -> Iterator:
    """A Playwright page of a new browser; `offline` leaves it this computer only.

    `page.problems` collects one line for each error of a script or the console and for each request that failed,
    `page.requests` the address of every request, those of frames included; `page.waiting` holds the unanswered ones.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [*FLAGS, NO_NETWORK] if offline else FLAGS
        browser = playwright.chromium.launch(executable_path=executable(), headless=True, args=flags)
        try:
            tab = browser.new_page(viewport={"width": width, "height": height})
            tab.problems, tab.requests, tab.waiting = [], [], set()
            note = tab.problems.append
            tab.on("request", lambda request: (tab.requests.append(request.url), tab.waiting.add(request)))
            for end in ("requestfinished", "requestfailed"):
                tab.on(end, lambda request: tab.waiting.discard(request))
            tab.on("pageerror", lambda error: note(f"script: {error}"))
            tab.on("console", lambda message: message.type == "error" and note(f"console: {message.text}"))
            # What is missing fails in another way; a request is aborted when the page is left before its answer.
            left = "net::ERR_ABORTED"
            tab.on("requestfailed", lambda one: one.failure == left or note(f"failed: {one.url} ({one.failure})"))
            tab.on("response", lambda answer: answer.status >= 400 and note(f"{answer.status}: {answer.url}"))
            yield tab
        finally:
            browser.close()


def answered(tab, seconds: float = 20) -> None:
    "Wait until the page has got all that it asked for. The icon of a site is asked for when all else is there."
    until = time.monotonic() + seconds
    while tab.waiting and time.monotonic() < until:
        tab.wait_for_timeout(20)
