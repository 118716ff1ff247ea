"""A browser for the tests of the web page, and for its pictures."""

import shutil

from playwright.sync_api import Browser, Error, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Playwright adds more: no sandbox, which root cannot have, and nothing that a browser would fetch for its own ends.
FLAGS = ("--disable-gpu", "--disable-quic")


def launch(playwright: Playwright) -> Browser:
    """The system's browser, or else the one that Playwright has installed. Raises `RuntimeError` without either."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        return playwright.chromium.launch(executable_path=path, args=FLAGS)
    except Error as error:
        reason = error.message.splitlines()[0]
        raise RuntimeError(f"no browser for the web page: run `make browser` ({reason})") from None
