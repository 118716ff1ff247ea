"""What goes wrong on the disk is told clearly, and nothing that was answered is lost."""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from starlette.formparsers import MultiPartParser

from faults import as_nobody, small_files
from infini_attention.errors import StoreError
from infini_attention.server import response_shelf
from infini_attention.server.records import Records
from infini_attention.server.service import Service
from infini_attention.server.settings import Room, ServerSettings
from infini_attention.sessions import rebuild_store
from tiny import book

KEPT = "/v1/sessions/kept"
RESPONSES = "/v1/responses"
RESPOND = {"model": "tiny", "input": "Hi", "max_output_tokens": 3, "temperature": 0}


@pytest.fixture(autouse=True)
def uploads_lie_on_the_disk(monkeypatch):
    """As those do that are larger than a megabyte."""
    monkeypatch.setattr(MultiPartParser, "spool_max_size", 100)


@pytest.fixture(params=[64, 0], ids=["in memory", "on the disk alone"])
def client(request, serving, tmp_path):
    """Of a server that keeps a session and a response."""
    with serving(tmp_path, raises=False, room=Room(live_sessions=request.param)) as client:
        for method, path, body in [
            ("post", "/v1/sessions", {"id": "kept"}),
            ("post", f"{KEPT}/text", {"text": book(300)}),
            ("put", f"{KEPT}/marks", {"name": "here"}),
            ("post", f"{KEPT}/chat", {"message": "Hi", "max_new_tokens": 3}),
        ]:
            assert client.request(method, path, json=body).is_success
        client.response = client.post(RESPONSES, json=RESPOND).json()
        client.file = client.get(f"{KEPT}/download").content
        yield client


def changing(client):
    """All requests that keep something."""
    following = RESPOND | {"previous_response_id": client.response["id"]}
    upload = {"file": ("book.txt", book(3000))}
    yield from [
        ("post", "/v1/sessions", {"json": {}}),
        ("post", "/v1/sessions/restore", {"files": {"file": client.file}}),
        ("post", f"{KEPT}/text", {"json": {"text": "More."}}),
        ("post", f"{KEPT}/file", {"files": upload}),
        ("post", f"{KEPT}/chat", {"json": {"message": "So", "max_new_tokens": 3}}),
        ("post", f"{KEPT}/rewind", {"json": {"to_mark": "here"}}),
        ("post", f"{KEPT}/fork", {"json": {}}),
        ("put", f"{KEPT}/marks", {"json": {"name": "there"}}),
        ("delete", f"{KEPT}/marks/here", {}),
        ("delete", KEPT, {}),
        ("post", RESPONSES, {"json": following}),
        ("delete", f"{RESPONSES}/{client.response['id']}", {}),
    ]


def looking(client):
    """The answers to requests that only look."""
    asked = client.post(f"{KEPT}/ask", json={"question": "Who?", "max_new_tokens": 5})
    shown, listed = client.get(KEPT), client.get("/v1/sessions")
    answers = asked, shown, listed, client.get(f"{RESPONSES}/{client.response['id']}")
    assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
    about = shown.json() | {"used": None}
    return asked.json()["text"], about, [entry["id"] for entry in listed.json()["data"]], answers[3].json()


def assert_refused(client, requests):
    for method, path, options in requests:
        answer = client.request(method, path, **options)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable"), (path, answer.text)
        assert answer.headers["retry-after"]
        assert tempfile.gettempdir() not in answer.text


@pytest.mark.parametrize("limit", [0, 3000])
def test_a_full_disk(client, limit):
    before = looking(client)
    with small_files(limit):
        assert_refused(client, [*changing(client), ("get", f"{KEPT}/download", {})])
        assert looking(client) == before
    assert looking(client) == before
    for method, path, options in changing(client):
        assert client.request(method, path, **options).is_success, path


def test_a_damaged_state(client):
    """Of a session that has to be read from the disk: told as ours to put right, and whole again with a copy."""
    store = client.app.state.service.store
    before, parts = looking(client), [path for path in (store.folder / "parts").rglob("*") if path.is_file()]
    contents = [path.read_bytes() for path in parts]
    for path, content in zip(parts, contents, strict=True):
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if client.app.state.service.shelf.room.live_sessions == 0:
        assert_refused(client, [("post", f"{KEPT}/ask", {"json": {"question": "Who?"}})])
    assert_refused(client, [("post", RESPONSES, {"json": RESPOND | {"previous_response_id": client.response["id"]}})])
    for path, content in zip(parts, contents, strict=True):
        path.write_bytes(content)
    assert looking(client) == before


def test_a_folder_that_may_not_be_written(serving, chatty):
    """It may be read: what is there can be asked, and nothing is lost."""
    place = Path(tempfile.mkdtemp())  # others may look into it: pytest's own folders are closed to them
    try:
        with serving(place, raises=False) as client:
            client.post("/v1/sessions", json={"id": "kept"})
            client.post(f"{KEPT}/text", json={"text": book(300)})
            client.response = client.post(RESPONSES, json=RESPOND).json()
            before = looking(client)
            modes = {path: path.stat().st_mode for path in (place, *place.rglob("*"))}
            for path in modes:
                path.chmod(0o555 if path.is_dir() else 0o444)
            with as_nobody():
                goes_on = RESPOND | {"previous_response_id": client.response["id"]}
                assert_refused(
                    client,
                    [
                        ("post", f"{KEPT}/text", {"json": {"text": "More."}}),
                        ("post", f"{KEPT}/chat", {"json": {"message": "So", "max_new_tokens": 3}}),
                        ("post", f"{KEPT}/fork", {"json": {}}),
                        ("put", f"{KEPT}/marks", {"json": {"name": "there"}}),
                        ("post", RESPONSES, {"json": goes_on}),
                    ],
                )
                assert looking(client) == before
        with as_nobody(), pytest.raises(StoreError, match="can be written"):
            Service(*chatty, ServerSettings(place / "store", "tiny"))
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)
        with serving(place) as again:
            again.response = client.response
            assert looking(again) == before
    finally:
        shutil.rmtree(place)


def test_a_damaged_index(serving, chatty, tmp_path):
    """No server begins with it; made anew from what lies beside it, it has all sessions and responses."""
    with serving(tmp_path) as client:
        for path, body in (("", {"id": "kept"}), ("/kept/text", {"text": book(300)}), ("", {"id": "empty"})):
            client.post(f"/v1/sessions{path}", json=body)
        client.response = client.post(RESPONSES, json=RESPOND).json()
        before = looking(client)
    folder = tmp_path / "store"
    for file, words in (("index.sqlite", "infini session rebuild"), ("records.sqlite", "move it away")):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(b"no database" * 1000)
        with pytest.raises(StoreError, match=words):
            Service(*chatty, ServerSettings(folder, "tiny"))
        if file == "index.sqlite":
            assert rebuild_store(folder) == []
        else:
            (folder / file).write_bytes(whole)
    with serving(tmp_path) as again:
        again.response = client.response
        assert looking(again) == before
        goes_on = RESPOND | {"previous_response_id": client.response["id"]}
        assert again.post(RESPONSES, json=goes_on).status_code == 200


def test_a_second_server_on_the_same_store(serving, tmp_path, monkeypatch):
    """One that starts takes nothing away that another one is about to answer."""
    with serving(tmp_path) as first:
        put = Records.put

        def while_another_starts(*args):
            with serving(tmp_path):
                put(*args)

        monkeypatch.setattr(Records, "put", while_another_starts)
        answer = first.post(RESPONSES, json=RESPOND).json()
        monkeypatch.undo()
        assert first.post(RESPONSES, json=RESPOND | {"previous_response_id": answer["id"]}).status_code == 200
        service = first.app.state.service
        monkeypatch.setattr(service.records, "put", lambda *args: None)  # killed before it was answered
        first.post(RESPONSES, json=RESPOND)
        stored = service.responses.sessions(owner="/responses")
        service.replies.sweep([""])
        assert service.responses.sessions(owner="/responses") == stored
        monkeypatch.setattr(response_shelf.time, "time", lambda time=time.time: time() + 3601)
        service.replies.sweep([""])
        assert len(service.responses.sessions(owner="/responses")) == len(stored) - 1


def test_killed_between_a_session_and_its_first_text(client):
    """The session is there once, and once deleted it is gone."""
    client.app.state.service.records.put("", "empty session", "kept", {})
    assert looking(client)[2] == ["kept"]
    assert client.delete(KEPT).status_code == 200
    assert client.get(KEPT).status_code == 404


def test_two_requests_for_one_name(client):
    """Whoever comes first has it."""

    async def both():
        shelf = client.app.state.service.shelf
        return await asyncio.gather(*(shelf.create("", "same") for _ in range(2)), return_exceptions=True)

    name, error = client.portal.call(both)
    assert (name, error.status) == ("same", 409)
