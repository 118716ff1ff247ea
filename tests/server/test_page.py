"""The web page in a browser, against a server on a socket."""

import json
import re

import pytest
from playwright.sync_api import expect, sync_playwright

from chromium import CONTRAST, launch
from infini_attention.sessions import Session
from server_helpers import KEYS, running
from tiny import book, byte_tokenizer, infini_model

pytestmark = [pytest.mark.slow, pytest.mark.browser]
MARKUP = "<img src=x onerror=\"document.title='broken into'\"><b>bold</b>"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright, launch(playwright) as browser:
        yield browser


@pytest.fixture(scope="module")
def up(chatty, tmp_path_factory):
    with running(chatty, tmp_path_factory.mktemp("page")) as (url, service):
        yield url, service


@pytest.fixture
def opened(browser):
    """`opened(url, **options)` is a page that has asked nobody but the server, and had nothing to complain of."""
    contexts, wrong = [], []

    def opened(url, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda asked: None if asked.url.startswith(f"{url}/") else wrong.append(asked.url))
        page.goto(f"{url}/")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [each for each in wrong if not each.startswith("blob:")] == []


@pytest.fixture
def page(opened, up):
    page = opened(up[0])
    expect(page.locator("#model")).to_contain_text("gated_delta")
    return page


def begin(page, name, characters=0):
    page.get_by_label("Name of a new session").fill(name)
    page.get_by_role("button", name="New", exact=True).click()
    expect(page.locator("#session-name")).to_have_text(name)
    if characters:
        give(page, book(characters))
        expect_tokens(page, characters)


def give(page, text, name="book.txt"):
    page.locator("#files").set_input_files({"name": name, "mimeType": "text/plain", "buffer": text.encode()})


def expect_tokens(page, count):
    expect(page.locator("#account div").first).to_have_text(f"tokens read{count:,}")


def say(page, text, mode=None):
    if mode:
        page.get_by_label(mode, exact=True).check()
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")
    expect(page.locator("#log li").last.locator(".quiet")).to_contain_text("dropped")
    return page.locator("#log li").last.locator(".answer").text_content()


def test_a_book_is_read_talked_about_taken_back_and_forked(page, chatty):
    begin(page, "abbey")
    expect(page.get_by_role("button", name="API key")).to_be_hidden()  # nobody asks for one
    expect(page.locator("#memory-about")).to_have_text("Nothing was read yet.")
    give(page, book(3000), "the abbey.txt")
    expect(page.locator("#reading-what")).to_have_text(re.compile(r"^Read the abbey.txt in .* s$"))
    expect(page.locator("#reading-bar")).to_have_js_property("value", 1)
    expect(page.locator("#reading-figures")).to_contain_text("tokens/s")
    expect_tokens(page, 3000)
    expect(page.locator("#bytes-chart svg")).to_have_attribute(
        "aria-label", re.compile("full KV cache: 768 kB .* state: 6.2 kB")
    )

    ref = Session(*chatty)
    ref.read(book(3000), scored=False)
    page.get_by_label("at most").fill("8")
    assert say(page, "Who?", "Ask") == ref.ask("Who?", max_new_tokens=8).text
    expect_tokens(page, 3000)
    for message in ("Hi", "So"):
        assert say(page, message, "Chat") == ref.chat(message, max_new_tokens=8).text
    expect_tokens(page, ref.stats.tokens_read)

    page.get_by_placeholder("name of this place").fill("after two")
    page.get_by_role("button", name="Mark").click()
    expect(page.locator("#marks li")).to_contain_text("after two")
    first = page.locator("#track .message input").first
    first.check()
    expect(page.locator("#place-about")).to_contain_text("Token 3,000")
    page.get_by_role("button", name="Fork from here").click()
    expect(page.locator("#session-name")).to_have_text(re.compile("^sess_"))
    expect_tokens(page, 3000)
    page.locator("#session-list").get_by_text("abbey").click()
    expect_tokens(page, ref.stats.tokens_read)
    expect(page.locator("#log li")).to_have_count(3)  # what was said is still there
    page.locator("#track .message input").nth(1).check()
    page.get_by_role("button", name="Go back here").click()
    page.get_by_role("button", name="Yes").click()
    ref.rewind(to_turn=1)
    expect_tokens(page, ref.stats.tokens_read)
    expect(page.locator("#log li")).to_have_count(2)
    assert say(page, "So", "Chat") == ref.chat("So", max_new_tokens=8).text


def test_a_book_is_dropped(page):
    """Anywhere on the page; before there is a session, it says what is missing."""
    begin(page, "dropped")
    files = page.evaluate_handle(
        """text => {
            const files = new DataTransfer();
            files.items.add(new File([text], "dropped.txt", { type: "text/plain" }));
            return files;
        }""",
        book(700),
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": files})
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    page.dispatch_event("#timeline", "drop", {"dataTransfer": files})
    expect(page.locator("#reading-what")).to_contain_text("Read dropped.txt in")
    expect(page.locator("#drop")).not_to_have_class(re.compile("over"))
    expect_tokens(page, 700)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes").click()
    expect(page.locator("#welcome")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": files})
    expect(page.get_by_role("alert")).to_contain_text("make one first")


def test_the_description_of_the_api(page, up):
    """Swagger UI works under the policy that it is sent with, and asks nobody else."""
    page.goto(f"{up[0]}/docs")
    page.locator("#operations-sessions-create_v1_sessions_post .opblock-summary").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"object": "session"')


def test_the_memory_is_seen(page):
    begin(page, "seen", 500)
    cards = page.locator("#metrics > div")
    expect(cards).to_have_count(6)
    expect(page.locator("#heat table")).to_have_count(1)  # the state knows of no gate
    page.get_by_role("button", name="Probe it").click()
    expect(page.locator("#memory-about")).to_contain_text("4,096 tokens that a fork has read")
    expect(page.locator("#heat table")).to_have_count(3)
    expect(page.get_by_role("table", name=re.compile("^Gate")).locator("td")).to_have_count(2 * 4)
    expect(page.get_by_role("table", name=re.compile("^Utilisation")).locator("td")).to_have_count(2 * 2)
    expect(cards.first).to_contain_text("the same after 500 and")
    expect(cards.nth(4)).to_contain_text("of 4 questions")
    expect(page.locator("#retention-chart svg")).to_be_visible()
    expect_tokens(page, 500)


def test_markup_stays_text(page, up):
    begin(page, "text", 200)
    page.get_by_placeholder("name of this place").fill(MARKUP)
    page.get_by_role("button", name="Mark").click()
    expect(page.locator("#marks li button").first).to_contain_text(MARKUP)
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
    reply = {
        "object": "session.reply",
        "text": MARKUP,
        "finish_reason": "stop",
        "usage": usage,
        "infini": {"dropped": 0},
    }
    events = [json.dumps({"object": "session.delta", "text": MARKUP}), json.dumps(reply), "[DONE]"]
    body = "".join(f"data: {event}\n\n" for event in events)
    page.route("**/ask", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    assert say(page, MARKUP, "Ask") == MARKUP
    give(page, "Hi", f"{MARKUP[:20]}.txt")
    expect(page.locator("#reading-what")).to_contain_text(MARKUP[:20])
    assert page.locator("main img, main b:not(.legend b)").count() == 0
    assert page.title() == "infini"


def test_errors_are_shown_as_what_they_say(page):
    begin(page, "wrong")
    page.get_by_label("Name of a new session").fill("wrong")
    page.get_by_role("button", name="New", exact=True).click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("there is a session 'wrong' already; choose another id")
    page.get_by_role("button", name="Dismiss").click()
    expect(alert).to_be_empty()
    page.locator("#files").set_input_files({"name": "b.bin", "mimeType": "text/plain", "buffer": b"ab\xff\xff" * 9})
    expect(alert).to_contain_text("utf-8")
    expect(page.locator("#reading-what")).to_have_text("Failed: wrong is as it was before b.bin")
    expect_tokens(page, 0)
    page.route("**/v1/sessions/wrong/*", lambda route: route.abort())
    page.get_by_label("Message", exact=True).fill("Hi")
    page.get_by_label("Message", exact=True).press("Enter")
    expect(alert).to_contain_text("the server cannot be reached")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hi")


def test_what_takes_long_can_be_cancelled(page):
    begin(page, "long")
    give(page, book() * 4)
    expect(page.locator("#reading-what")).to_contain_text("Reading book.txt")
    page.locator("#reading-stop").click()
    expect(page.locator("#reading-what")).to_have_text("Cancelled: long is as it was before book.txt")
    page.get_by_label("at most").fill("4000")
    page.get_by_label("Message", exact=True).fill("Hi")
    page.get_by_label("Message", exact=True).press("Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#log li .quiet")).to_contain_text("as it was")
    page.reload()
    expect(page.locator("#session-name")).to_have_text("long")
    expect_tokens(page, 0)


def test_downloaded_restored_and_deleted(page, tmp_path):
    begin(page, "carried", 300)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "carried.session"
    download.value.save_as(tmp_path / "carried.session")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes").click()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#session-list")).not_to_contain_text("carried")
    page.locator("#restore").set_input_files(tmp_path / "carried.session")
    expect_tokens(page, 300)


def test_with_keys_and_without_a_chat_template(opened, tmp_path):
    """The key is asked for, kept in the tab alone, and forgotten; by keyboard."""
    pair = infini_model(), byte_tokenizer()
    with running(pair, tmp_path, keys=KEYS) as (url, _):
        page = opened(url)
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.type("not the right key")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_label("Key", exact=True).fill(KEYS[0])
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("no chat template")
        begin(page, "mine")
        expect(page.get_by_label("Chat", exact=True)).to_have_count(0)
        expect(page.get_by_label("Complete", exact=True)).to_be_checked()
        page.get_by_text("or paste a text").click()
        page.get_by_label("Text to read").fill(book(200))
        page.get_by_role("button", name="Read it").click()
        expect_tokens(page, 200)
        ref = Session(*pair)
        ref.read(book(200), scored=False)
        page.get_by_label("at most").fill("8")
        assert say(page, "She") == ref.fork().generate("She", max_new_tokens=8)
        expect_tokens(page, 200)
        kept = page.evaluate("[{...localStorage}, document.cookie, JSON.stringify(sessionStorage)]")
        assert kept[:2] == [{}, ""]
        assert KEYS[0] in kept[2]
        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Forget it").click()
        expect(page.get_by_label("Key", exact=True)).to_have_value("")
        assert KEYS[0] not in page.evaluate("JSON.stringify(sessionStorage)")


def test_it_can_be_read(opened, up):
    """Nothing is wider than a phone, and all text stands out from what is behind it."""
    viewport = {"width": 360, "height": 740}
    page = opened(up[0], bypass_csp=True, has_touch=True, reduced_motion="reduce", viewport=viewport)
    begin(page, "phone", 600)
    page.get_by_role("button", name="Probe it").click()
    expect(page.locator("#heat table")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    sizes = page.evaluate("[...document.querySelectorAll('button, .button')].map(e => e.offsetHeight).filter(Boolean)")
    assert min(sizes) >= 40
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(CONTRAST) > 4.5, scheme


def test_by_keyboard(page):
    """Past the list of sessions, to a place on the timeline, and back to it; the focus stays where it was."""
    begin(page, "typed", 2000)
    page.reload()
    expect(page.locator("#track input").first).to_be_attached()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    place = page.locator("#track input").first
    for _ in range(30):
        page.keyboard.press("Tab")
        if place.evaluate("e => e === document.activeElement"):
            break
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#track input").nth(1)).to_be_checked()
    there = page.locator("#track input").nth(1).input_value()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#rewind")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="No", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect_tokens(page, int(there))
    expect(page.locator("#rewind")).to_be_focused()
