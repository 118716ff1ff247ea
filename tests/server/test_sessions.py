"""/v1/sessions: what can be done with a stream that is kept by name."""

import asyncio

import pytest

from infini_attention.errors import ConflictError
from infini_attention.sessions import Session, read_header
from server_helpers import events_of
from tiny import SEGMENT, book

SESSIONS = "/v1/sessions"


def read(client, id, text, **options):
    answer = client.post(f"{SESSIONS}/{id}/text", json={"text": text} | options)
    assert answer.status_code == 200, answer.text
    return answer


def ask(client, id, **options):
    answer = client.post(f"{SESSIONS}/{id}/ask", json={"question": "Who?", "max_new_tokens": 12} | options)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.fixture
def ref(chatty):
    """What the fixture `session` has read."""
    ref = Session(*chatty)
    ref.read(book(300), scored=False)
    return ref


def test_a_life(client, ref):
    made = client.post(SESSIONS, json={"id": "a.life"})
    assert (made.status_code, made.json()["infini"]["tokens_seen"]) == (201, 0)
    whole = read(client, "a.life", book(300)).json()
    assert (whole["tokens_read"], whole["complete"]) == (300, True)
    infini = whole["infini"]
    assert infini == {
        "tokens_seen": 300,
        "in_window": 300 % SEGMENT,
        "compressed": 300 - 300 % SEGMENT,
        "pending": 0,
        "dropped": 0,
        "state_bytes": ref.state_bytes,
    }
    shown = client.get(f"{SESSIONS}/a.life").json()
    assert (shown["infini"], shown["revision"], shown["turns"]) == (infini, 1, 0)
    assert "a.life" in [entry["id"] for entry in client.get(SESSIONS).json()["data"]]
    assert client.delete(f"{SESSIONS}/a.life").json() == {"id": "a.life", "object": "session", "deleted": True}
    assert client.get(f"{SESSIONS}/a.life").status_code == 404


def test_ask_leaves_it_as_it_was(client, session, ref):
    before = client.get(f"{SESSIONS}/{session}").json()
    answer, again = (ask(client, session).json() for _ in range(2))
    assert answer == again
    assert answer["text"] == ref.ask("Who?", max_new_tokens=12).text
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 300
    assert client.get(f"{SESSIONS}/{session}").json()["infini"] == before["infini"]
    *deltas, last, done = events_of(ask(client, session, stream=True))
    assert ("".join(delta["text"] for delta in deltas), last, done) == (answer["text"], answer, "[DONE]")


def test_complete_goes_on_as_one_who_has_read_it(client, session, ref):
    body = {"prompt": "She said", "max_new_tokens": 12}
    answer = client.post(f"{SESSIONS}/{session}/complete", json=body).json()
    assert answer["text"] == ref.generate("She said", max_new_tokens=12)
    assert client.get(f"{SESSIONS}/{session}").json()["infini"]["tokens_seen"] == 300


def test_chat_and_rewind(client, session, ref):
    said = [client.post(f"{SESSIONS}/{session}/chat", json={"message": m, "max_new_tokens": 8}) for m in ("Hi", "So")]
    assert [answer.json()["text"] for answer in said] == [ref.chat(m, max_new_tokens=8).text for m in ("Hi", "So")]
    assert said[1].json()["infini"]["tokens_seen"] == ref.stats.tokens_read
    back = client.post(f"{SESSIONS}/{session}/rewind", json={"to_turn": 1}).json()
    ref.rewind(to_turn=1)
    assert (back["infini"]["tokens_seen"], back["tokens_read_again"]) == (ref.stats.tokens_read, 0)
    assert client.get(f"{SESSIONS}/{session}").json()["turns"] == 1


def test_marks(client, session):
    url = f"{SESSIONS}/{session}"
    assert client.put(f"{url}/marks", json={"name": "here / there"}).json()["marks"] == {"here / there": 300}
    read(client, session, book(500)[300:])
    assert client.post(f"{url}/rewind", json={"to_mark": "here / there"}).json()["infini"]["tokens_seen"] == 300
    assert client.delete(f"{url}/marks/here / there").json()["marks"] == {}
    assert client.delete(f"{url}/marks/here / there").status_code == 404
    assert client.post(f"{url}/rewind", json={"to_mark": "here / there"}).status_code == 400


def test_a_fork_goes_its_own_way(client, session):
    copy = client.post(f"{SESSIONS}/{session}/fork", json={}).json()
    assert copy["id"] != session
    read(client, copy["id"], "More.")
    assert client.get(f"{SESSIONS}/{session}").json()["infini"]["tokens_seen"] == 300
    assert client.get(f"{SESSIONS}/{copy['id']}").json()["infini"]["tokens_seen"] == 305
    taken = client.post(f"{SESSIONS}/{session}/fork", json={"id": copy["id"]})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")


def test_forks_share_the_state_in_memory_too(client, session, monkeypatch):
    service = client.app.state.service
    alone = ask(client, session).json()
    monkeypatch.setattr(service.store, "load", None)  # nothing has to be read from the disk
    before = service.shelf._live["", session][0]
    copy = client.post(f"{SESSIONS}/{session}/fork", json={}).json()
    assert (copy["infini"], copy["revision"]) == (client.get(f"{SESSIONS}/{session}").json()["infini"], 1)
    assert service.shelf._live["", copy["id"]][0].position is before.position
    assert ask(client, copy["id"]).json()["text"] == alone["text"]


def test_an_upload_is_read_as_the_text(client, session):
    id = client.post(SESSIONS, json={}).json()["id"]
    text = book(300).encode("utf-16")
    answer = client.post(f"{SESSIONS}/{id}/file", files={"file": ("b.txt", text)}, data={"encoding": "utf-16"})
    assert answer.json()["tokens_read"] == 300
    assert ask(client, id).json()["text"] == ask(client, session).json()["text"]
    bad = client.post(f"{SESSIONS}/{id}/file", files={"file": ("b.txt", b"\xff" * 9)})
    message = bad.json()["error"]["message"]
    assert (bad.status_code, "not utf-8 text (byte 0xff at offset 0)" in message) == (400, True)
    assert "form field encoding" in message
    assert "--" not in message  # who sends a request has no command line
    assert client.get(f"{SESSIONS}/{id}").json()["infini"]["tokens_seen"] == 300


def test_a_scored_stream_says_how_far_it_is(client, ref, monkeypatch):
    monkeypatch.setattr("infini_attention.server.routes_reading._PROGRESS_SECONDS", 0)
    id = client.post(SESSIONS, json={}).json()["id"]
    *progress, last, done = events_of(read(client, id, book(2000), stream=True, scored=True))
    assert [event["tokens_read"] for event in progress] == sorted({event["tokens_read"] for event in progress})
    assert len(progress) > 3
    assert (last["tokens_read"], done) == (2000, "[DONE]")
    assert last["bits_per_byte"] > 1


def test_downloaded_and_restored(client, session, tmp_path):
    content = client.get(f"{SESSIONS}/{session}/download").content
    (tmp_path / "file").write_bytes(content)
    assert read_header(tmp_path / "file").stats.tokens_read == 300
    restored = client.post(f"{SESSIONS}/restore", files={"file": content}, data={"id": f"{session}-2"})
    assert (restored.status_code, restored.json()["id"]) == (201, f"{session}-2")
    assert ask(client, f"{session}-2").json()["text"] == ask(client, session).json()["text"]
    damaged = client.post(f"{SESSIONS}/restore", files={"file": content[:-9]})
    assert (damaged.status_code, damaged.json()["error"]["type"]) == (400, "invalid_request_error")


def test_pages(client, session):
    ids = [entry["id"] for entry in client.get(SESSIONS).json()["data"]]
    first = client.get(SESSIONS, params={"limit": 1}).json()
    rest = client.get(SESSIONS, params={"after": first["data"][0]["id"]}).json()
    assert [entry["id"] for entry in first["data"] + rest["data"]] == ids
    assert (first["has_more"], rest["has_more"]) == (len(ids) > 1, False)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("get", "/none", None, 404),
        ("post", "/none/ask", {"question": "Who?"}, 404),
        ("delete", "/none", None, 404),
        ("get", "/..", None, 404),
        ("get", "/-x", None, 422),
        ("post", "/{session}/rewind", {"to_token": 1, "to_turn": 1}, 422),
        ("post", "/{session}/rewind", {"to_token": 999}, 400),
        ("post", "/{session}/ask", {"question": "x" * 200_000}, 413),
        ("post", "/{session}/text", {"text": ""}, 422),
        ("post", "/{session}/text", {"text": "a", "more": 1}, 422),
        ("post", "/{empty}/rewind", {"to_token": 0}, 400),
        ("put", "/{empty}/marks", {"name": "a"}, 400),
        ("get", "/{empty}/download", None, 400),
        ("put", "/{session}", {}, 405),
    ],
)
def test_what_is_refused(client, session, method, path, body, status):
    empty = client.post(SESSIONS, json={}).json()["id"]
    answer = client.request(method, SESSIONS + path.format(session=session, empty=empty), json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_kept_on_the_disk(serving, tmp_path):
    with serving(tmp_path) as client:
        client.post(SESSIONS, json={"id": "empty"})
        client.post(SESSIONS, json={"id": "read"})
        read(client, "read", book(300))
        text = ask(client, "read").json()["text"]
    with serving(tmp_path) as client:
        assert {entry["id"] for entry in client.get(SESSIONS).json()["data"]} == {"empty", "read"}
        assert ask(client, "read").json()["text"] == text
        read(client, "empty", "Hi")


def test_states_are_kept_elsewhere(serving, tmp_path):
    """The store remembers where."""
    with serving(tmp_path, blobs=f"file://{tmp_path}/states") as client:
        client.post(SESSIONS, json={"id": "read"})
        text = read(client, "read", book(300)) and ask(client, "read").json()["text"]
    assert any((tmp_path / "states" / "parts").iterdir())
    assert not (tmp_path / "store" / "parts").exists()
    with serving(tmp_path) as client:
        assert ask(client, "read").json()["text"] == text


def test_few_are_kept_in_memory(serving, tmp_path):
    from infini_attention.server.settings import Room

    with serving(tmp_path, room=Room(live_sessions=2)) as client:
        for name in "abcd":
            client.post(SESSIONS, json={"id": name})
            read(client, name, f"This is {name}.")
        assert "infini_live_sessions 2.0" in client.get("/metrics").text
        assert [ask(client, name).json()["infini"]["tokens_seen"] > 0 for name in "abcd"] == [True] * 4


def test_another_process_has_changed_it(client, session, chatty):
    store = client.app.state.service.store
    other = store.load(session, *chatty)
    other.read("More.", scored=False)
    store.save(session, other)
    assert ask(client, session).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 305


def test_another_session_of_the_same_name(client, chatty):
    """The command line, or another server, may delete one and make another: same name, same revision."""
    store, shelf = client.app.state.service.store, client.app.state.service.shelf
    client.post(SESSIONS, json={"id": "twice"})
    read(client, "twice", book(300))

    def another(text):
        store.delete("twice")
        other = Session(*chatty)
        other.read(text, scored=False)
        assert store.save("twice", other).revision == 1
        return other

    other = another("Something else.")
    reply = ask(client, "twice", max_new_tokens=5).json()["text"]
    assert reply == other.ask("Who?", max_new_tokens=5).text

    async def while_it_is_written():
        async with shelf.writing("", "twice") as held:
            await asyncio.to_thread(another, "Something else again.")
            held.session.read("More.", scored=False)
            with pytest.raises(ConflictError):
                await held.save()

    client.portal.call(while_it_is_written)
    assert client.get(f"{SESSIONS}/twice").json()["infini"]["tokens_seen"] == len("Something else again.")
