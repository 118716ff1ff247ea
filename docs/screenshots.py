"""Writes the pictures of docs/server.md: the web page with the model that comes with the package, in headless Chromium.

Run by `make screenshots`. It starts a server of its own, lets it read a part of the novel with a pass key in it, and
asks for the key.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from chromium import launch

DOCS = Path(__file__).parent
NOVEL = DOCS.parent / "examples" / "books" / "northanger-abbey.txt"
CHARACTERS = 200_000
KEY = " The pass key is 71932. Remember it. 71932 is the pass key. "
MOST_BYTES = 200_000


def main() -> None:
    with tempfile.TemporaryDirectory() as store, sync_playwright() as playwright:
        command = [sys.executable, "-m", "infini_attention.cli", "serve", "-m", "builtin"]
        command += ["--store", store, "--port", "0", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        try:
            url = json.loads(server.stdout.readline())["url"]
            page = launch(playwright).new_page(
                viewport={"width": 1280, "height": 1000}, color_scheme="light", reduced_motion="reduce"
            )
            page.set_default_timeout(300_000)
            page.goto(url)
            prepare(page)
            page.locator(".top").scroll_into_view_if_needed()
            take(page, "page.png")
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size({"width": 390, "height": 1150})
            page.locator("#memory").scroll_into_view_if_needed()
            take(page, "page-phone.png")
        finally:
            server.terminate()
            server.wait()


def prepare(page: Page) -> None:
    """A session that has read, was marked, asked and probed."""
    text = NOVEL.read_text(encoding="utf-8")[:CHARACTERS]
    text = text[: CHARACTERS // 2] + KEY + text[CHARACTERS // 2 :]
    page.get_by_label("Name of a new session").fill("northanger-abbey")
    page.get_by_role("button", name="New", exact=True).click()
    page.locator("#files").set_input_files(
        {"name": NOVEL.name, "mimeType": "text/plain", "buffer": text.encode()},
    )
    expect(page.locator("#reading-what")).to_have_text(re.compile("^Read .* s$"), timeout=300_000)
    page.get_by_placeholder("name of this place").fill("the first volume")
    page.get_by_role("button", name="Mark", exact=True).click()
    page.get_by_label("at most").fill("6")
    page.get_by_label("Message", exact=True).fill("What is the pass key? The pass key is")
    page.get_by_label("Message", exact=True).press("Enter")
    expect(page.locator("#log li .quiet")).to_contain_text("dropped", timeout=300_000)
    expect(page.locator("#log li .answer")).to_have_text("71932")
    page.get_by_role("button", name="Probe it").click()
    expect(page.locator("#heat table")).to_have_count(3, timeout=300_000)
    page.locator("#track input").nth(3).check()


def take(page: Page, name: str) -> None:
    path = DOCS / "images" / name
    path.parent.mkdir(exist_ok=True)
    page.screenshot(path=path)
    size = path.stat().st_size
    assert size < MOST_BYTES, f"{path} has {size:,} bytes"
    print(f"{path.name}: {size:,} bytes")


if __name__ == "__main__":
    main()
