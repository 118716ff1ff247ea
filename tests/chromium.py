"""A browser for the tests of the web page and of reports, and for pictures of them."""

import shutil
from pathlib import Path

from playwright.sync_api import Browser, Error, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Playwright adds more: no sandbox, which root cannot have, and nothing that a browser would fetch for its own ends.
FLAGS = ("--disable-gpu", "--disable-quic")
CONTRAST = Path(__file__).with_name("contrast.js").read_text()  # for `evaluate`: the least of a page


def launch(playwright: Playwright) -> Browser:
    """The system's browser, or else the one that Playwright has installed. Raises `RuntimeError` without either."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        return playwright.chromium.launch(executable_path=path, args=FLAGS)
    except Error as error:
        reason = error.message.splitlines()[0]
        raise RuntimeError(f"no browser for the web page: run `make browser` ({reason})") from None
