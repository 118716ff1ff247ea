"""Who may see what, and what is too much."""

import asyncio
import stat

import pytest

from infini_attention.errors import ConfigError
from infini_attention.server.keys import Keys, load_keys, owner_of
from infini_attention.server.settings import Limits
from server_helpers import KEYS, bearer
from tiny import book

ANN, BOB = map(bearer, KEYS)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "A message of some length."}], "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(serving, tmp_path_factory):
    """A server that asks for keys, with small limits."""
    limits = Limits(body_bytes=20_000, upload_bytes=40_000, sessions=9, key_bytes=2_000_000, new_tokens=100)
    with serving(tmp_path_factory.mktemp("locked"), keys=KEYS, limits=limits) as client:
        yield client


class TestKeys:
    @pytest.mark.parametrize(
        "headers", [{}, bearer("no such key as this"), {"Authorization": f"Basic {KEYS[0]}"}, bearer(KEYS[0][:-1])]
    )
    @pytest.mark.parametrize("path", ["/v1/models", "/v1/sessions", "/v1/responses/resp_1", "/metrics"])
    def test_nobody_gets_in_without(self, locked, headers, path):
        answer = locked.get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["code"] == "invalid_api_key"

    def test_nothing_is_read_of_a_body_without_a_key(self, locked):
        operations = [
            (path, method.upper(), operation["requestBody"]["content"])
            for path, methods in locked.get("/openapi.json").json()["paths"].items()
            for method, operation in methods.items()
            if "requestBody" in operation
        ]
        assert len(operations) > 10

        async def call(path, method, kind):
            async def receive():
                raise AssertionError(f"{path}: something was read")

            async def send(message):
                answers.append(message.get("status"))

            headers = [(b"host", b"testserver"), (b"content-type", kind.encode())]
            scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
            await locked.app(scope, receive, send)

        for path, method, content in operations:
            answers = []
            (kind,) = content
            locked.portal.call(call, path, method, f"{kind}; boundary=x")
            assert answers[0] == 401, path

    @pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json"])
    def test_what_everybody_may_see(self, locked, path):
        assert locked.get(path).status_code == 200

    def test_nobody_sees_what_belongs_to_another(self, locked):
        id = locked.post("/v1/sessions", json={}, headers=ANN).json()["id"]
        locked.post(f"/v1/sessions/{id}/text", json={"text": "A secret."}, headers=ANN)
        response = locked.post(
            "/v1/responses", json={"model": "tiny", "input": "Hi", "max_output_tokens": 2}, headers=ANN
        )
        response_id = response.json()["id"]
        goes_on = {"model": "tiny", "input": "So?", "previous_response_id": response_id}
        tries = [
            ("get", f"/v1/sessions/{id}", None),
            ("delete", f"/v1/sessions/{id}", None),
            ("get", f"/v1/sessions/{id}/download", None),
            ("post", f"/v1/sessions/{id}/ask", {"question": "What?"}),
            ("post", f"/v1/sessions/{id}/fork", {}),
            ("post", f"/v1/sessions/{id}/text", {"text": "More."}),
            ("get", f"/v1/responses/{response_id}", None),
            ("get", f"/v1/responses/{response_id}/input_items", None),
            ("post", f"/v1/responses/{response_id}/cancel", None),
            ("delete", f"/v1/responses/{response_id}", None),
            ("post", "/v1/responses", goes_on),
        ]
        for method, path, body in tries:
            theirs = locked.request(method, path, json=body, headers=BOB)
            other = path.replace(id, "0" * len(id)).replace(response_id, "0" * len(response_id))
            assert theirs.status_code == 404, path
            if body is not goes_on:  # and nothing tells that it is there at all
                never = locked.request(method, other, json=body, headers=BOB).json()["error"]
                assert {**theirs.json()["error"], "message": ""} == {**never, "message": ""}
        assert locked.get("/v1/sessions", headers=BOB).json()["data"] == []
        assert [entry["id"] for entry in locked.get("/v1/sessions", headers=ANN).json()["data"]] == [id]
        taken = locked.post("/v1/sessions", json={"id": id}, headers=BOB)
        assert taken.json()["infini"]["tokens_seen"] == 0

    def test_a_prefix_belongs_to_a_key(self, locked):
        cached = [
            locked.post("/v1/chat/completions", json=CHAT, headers=headers).json()["usage"]["prompt_tokens_details"]
            for headers in (ANN, BOB, ANN)
        ]
        assert [details["cached_tokens"] > 0 for details in cached] == [False, False, True]

    def test_a_key_is_found_among_many(self):
        keys = Keys(f"a key of a length, {number}" for number in range(20))
        assert keys.owner("a key of a length, 7") == owner_of("a key of a length, 7")
        assert keys.owner("a key of a length, 77") is None
        assert Keys(()).owner(None) == ""

    def test_from_a_file_or_the_environment(self, tmp_path, monkeypatch):
        path = tmp_path / "keys"
        path.write_text(f"# people\n{KEYS[0]}\n\n{KEYS[1]}\n{KEYS[0]}\n")
        assert load_keys(path) == KEYS
        monkeypatch.setenv("INFINI_API_KEYS", ",".join(KEYS))
        assert load_keys(None) == KEYS

    @pytest.mark.parametrize(
        "content", ["", "# nothing\n", "too short\n", "with a space in it\n", "ümlautümlautümlaut\n"]
    )
    def test_files_of_no_use(self, tmp_path, content):
        path = tmp_path / "keys"
        path.write_text(content)
        with pytest.raises(ConfigError):
            load_keys(path)

    def test_others_on_this_machine_cannot_read_what_was_answered(self, serving, tmp_path):
        (tmp_path / "store").mkdir(mode=0o755)
        with serving(tmp_path):
            for path in (tmp_path / "store").glob("records.sqlite*"):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


class TestLimits:
    def test_bodies(self, locked):
        answer = locked.post("/v1/chat/completions", json=CHAT | {"user": "x" * 30_000}, headers=BOB)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        id = locked.post("/v1/sessions", json={}, headers=BOB).json()["id"]
        for size, status in ((30_000, 200), (50_000, 413)):
            answer = locked.post(f"/v1/sessions/{id}/file", files={"file": b"x" * size}, headers=BOB)
            assert answer.status_code == status, answer.text
            assert status == 200 or answer.json()["error"]["code"] == "request_too_large"

        def parts():  # without a Content-Length
            for _ in range(30):
                yield b" " * 1000

        answer = locked.post("/v1/sessions", content=parts(), headers=BOB | {"Content-Type": "application/json"})
        assert answer.status_code == 413

    def test_sessions_and_bytes_of_a_key(self, serving, tmp_path):
        with serving(tmp_path, limits=Limits(sessions=2, key_bytes=12_000)) as client:
            for name in "ab":
                client.post("/v1/sessions", json={"id": name})
            for path, body in (("", {}), ("/a/fork", {})):
                refused = client.post(f"/v1/sessions{path}", json=body)
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
            assert client.post("/v1/sessions/a/text", json={"text": "Short."}).status_code == 200
            refused = client.post("/v1/sessions/b/text", json={"text": book(8000)})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
            assert client.get("/v1/sessions/b").json()["infini"]["tokens_seen"] == 0

    def test_one_request_at_a_time_changes_a_session(self, locked):
        shelf, owner = locked.app.state.service.shelf, owner_of(KEYS[0])
        id = locked.post("/v1/sessions", json={}, headers=ANN).json()["id"]

        async def while_it_is_changed():
            async with shelf.writing(owner, id):
                return await asyncio.to_thread(
                    locked.post, f"/v1/sessions/{id}/text", json={"text": "More."}, headers=ANN
                )

        answer = locked.portal.call(while_it_is_changed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_busy")

    def test_a_page_of_another_site_gets_nowhere(self, serving, tmp_path):
        with serving(tmp_path, hosts=("127.0.0.1", "testserver")) as client:
            assert client.get("/v1/sessions", headers={"Origin": "http://testserver"}).status_code == 200
            for headers in (
                {"Origin": "https://evil.example"},
                {"Host": "evil.example"},
                {"Origin": "null"},
                {"Origin": "http://["},
            ):
                assert client.get("/v1/sessions", headers=headers).status_code == 403


class TestStore:
    def test_one_that_cannot_be_written(self, serving, tmp_path, monkeypatch):
        from infini_attention.errors import StoreError
        from infini_attention.sessions import SessionStore

        with serving(tmp_path) as client:
            id = client.post("/v1/sessions", json={}).json()["id"]
            client.post(f"/v1/sessions/{id}/text", json={"text": "Kept."})

            def full(*args, **kwargs):
                raise StoreError("the disk is full")

            with monkeypatch.context() as patch:
                patch.setattr(SessionStore, "save", full)
                answer = client.post(f"/v1/sessions/{id}/text", json={"text": "Lost."})
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert client.get(f"/v1/sessions/{id}").json()["infini"]["tokens_seen"] == 5
            assert client.post(f"/v1/sessions/{id}/text", json={"text": "More."}).json()["infini"]["tokens_seen"] == 10

    def test_a_failure_of_our_own_tells_nothing(self, serving, tmp_path, monkeypatch):
        from infini_attention.server.texts import Texts

        async def broken(*args):
            raise RuntimeError("a secret of the server")

        monkeypatch.setattr(Texts, "of_messages", broken)
        with serving(tmp_path, raises=False) as client:
            answer = client.post("/v1/chat/completions", json=CHAT)
            assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
            assert "secret" not in answer.text
