"""infini ask and infini chat with the sessions that the server has."""

import json

import pytest
from starlette.testclient import TestClient

from infini_attention.models import load_model, load_tokenizer
from infini_attention.server.app import create_app
from infini_attention.server.settings import ServerSettings
from infini_attention.sessions import Session, SessionStore
from tiny import book

URL = "/v1/sessions/abbey"
ASK = {"question": "Who?", "max_new_tokens": 8}
SAY = {"message": "Hi", "max_new_tokens": 8}


@pytest.fixture
def pair(chat_dir):
    return load_model(chat_dir), load_tokenizer(chat_dir)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's own store."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "infini-attention" / "store"


@pytest.fixture
def client(pair, chat_dir, folder):
    """Of a server with a session that has read something."""
    with TestClient(create_app(*pair, ServerSettings(folder, "tiny", source=str(chat_dir)))) as client:
        client.post("/v1/sessions", json={"id": "abbey"})
        client.post(f"{URL}/text", json={"text": book(200)})
        yield client


@pytest.fixture
def ref(pair):
    ref = Session(*pair)
    ref.read(book(200), scored=False)
    return ref


def test_asked_here_and_there(client, ref, run_json, run_cli, folder, tmp_path, monkeypatch):
    """Wherever it is asked; a file of the same name comes first, unless a store is named."""
    monkeypatch.chdir(tmp_path)
    answer = ref.ask("Who?", max_new_tokens=8).text
    assert client.post(f"{URL}/ask", json=ASK).json()["text"] == answer
    for store in ([], ["--store", folder]):
        out = run_json("ask", "abbey", "Who?", "-n", 8, *store)
        assert (out["answer"], out["tokens_read"]) == (answer, 200)
    assert client.get(URL).json()["revision"] == 1
    (tmp_path / "abbey").write_text("no session")
    assert run_cli("ask", "abbey", "Who?").code == 2
    assert run_json("ask", "abbey", "Who?", "-n", 8, "--store", folder)["answer"] == answer


def test_chatted_with_in_turn(client, ref, run_cli, typed):
    def here(message):
        typed(message)
        code, out, err = run_cli("chat", "--session", "abbey", "-n", 8, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    assert client.post(f"{URL}/chat", json=SAY).json()["text"] == ref.chat("Hi", max_new_tokens=8).text
    turn = here("So?")
    assert (turn["reply"], turn["dropped_tokens"]) == (ref.chat("So?", max_new_tokens=8).text, 0)
    assert client.post(f"{URL}/chat", json=SAY).json()["text"] == ref.chat("Hi", max_new_tokens=8).text
    assert here("/rewind 2")["tokens_read"] == client.get(URL).json()["infini"]["tokens_seen"]
    assert client.get(URL).json()["turns"] == 1


def test_begun_here(client, pair, chat_dir, run_cli, typed):
    """With the places that it can be taken back to."""
    typed("Hi\nWrong.")
    assert run_cli("chat", "-m", chat_dir, "--session", "new", "-n", 8).code == 0
    assert client.post("/v1/sessions/new/rewind", json={"to_turn": 1}).status_code == 200
    ref = Session(*pair)
    ref.chat("Hi", max_new_tokens=8)
    assert client.post("/v1/sessions/new/ask", json=ASK).json()["text"] == ref.ask("Who?", max_new_tokens=8).text


def test_changed_by_both(client, ref, run_cli, typed, monkeypatch, folder):
    """Neither loses what it said."""
    say = Session.chat

    def chat(*args, **options):
        monkeypatch.undo()
        monkeypatch.setenv("XDG_DATA_HOME", str(folder.parents[1]))
        client.post(f"{URL}/text", json={"text": "More."})
        return say(*args, **options)

    typed("Hi")
    monkeypatch.setattr(Session, "chat", chat)
    code, _, err = run_cli("chat", "--session", "abbey", "-n", 8, "--json")
    assert (code, "abbey was changed meanwhile" in err) == (0, True)
    (other,) = {entry.name for entry in SessionStore(folder).sessions()} - {"abbey"}
    assert other in err
    assert client.get(URL).json()["infini"]["tokens_seen"] == 205
    ref.chat("Hi", max_new_tokens=8)
    assert client.get(f"/v1/sessions/{other}").json()["infini"]["tokens_seen"] == ref.stats.tokens_read


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("ask none Who?", "no such session file"),
        ("ask none Who? --store STORE", "there is no session 'none'"),
        ("ask abbey Who? --store /no/such/folder", "there is no store"),
        ("chat --session a/b", "letters, digits"),
        ("chat --session abbey -o file", "leave --from and -o out"),
        ("chat --store STORE", "give its name with --session"),
    ],
)
def test_mistakes(client, run_cli, typed, folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    typed("Hi")
    code, out, err = run_cli(*arguments.replace("STORE", str(folder)).split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert client.get(URL).json()["revision"] == 1
