"""infini session: what is in a store."""

import re

import pytest

from infini_attention.sessions import Session, SessionStore
from tiny import SEGMENT, byte_tokenizer, infini_model


@pytest.fixture
def folder(tmp_path):
    """A store with a session `talk`, which has a mark after three segments and stands after five."""
    session = Session(infini_model(), byte_tokenizer(), name="tiny")
    session.read("x" * 3 * SEGMENT)
    session.mark("here")
    session.read("y" * 2 * SEGMENT)
    SessionStore(tmp_path / "store").save("talk", session)
    return tmp_path / "store"


def test_list_and_show(run_cli, run_json, folder):
    (listed,) = run_json("session", "ls", "--store", folder)["sessions"]
    shown = run_json("session", "show", "talk", "--store", folder)
    assert shown == listed | {"places": shown["places"]}
    assert (listed["name"], listed["tokens"], listed["model"], listed["revision"]) == ("talk", 5 * SEGMENT, "tiny", 1)
    assert {"tokens": 3 * SEGMENT, "turn": None, "marks": ["here"]} in shown["places"]
    assert "talk" in run_cli("session", "ls", "--store", folder).out
    out = run_cli("session", "show", "talk", "--store", folder).out
    assert "48 tokens  here" in out
    assert len(re.findall(r"(?m)^(?:created|used) +20\d\d-\d\d-\d\d \d\d:\d\d$", out)) == 2


def test_fork_rewind_verify_and_remove(run_json, folder):
    assert run_json("session", "fork", "talk", "copy", "--store", folder)["tokens"] == 5 * SEGMENT
    back = run_json("session", "rewind", "talk", "--to-mark", "here", "--store", folder)
    assert (back["tokens"], back["revision"]) == (3 * SEGMENT, 2)
    for name, tokens in (("talk", 3), ("copy", 5)):
        done = run_json("session", "verify", name, "--store", folder)
        assert (done["verified"], done["tokens"]) == (True, tokens * SEGMENT)
    assert run_json("session", "rm", "talk", "copy", "--store", folder) == {"removed": ["talk", "copy"]}
    assert run_json("session", "ls", "--store", folder) == {"sessions": []}


def test_rewound_in_the_store_is_rewound_in_memory(run_json, folder):
    store, model, tokenizer = SessionStore(folder), infini_model(), byte_tokenizer()
    ref = store.load("talk", model, tokenizer)
    ref.rewind(to_token=3 * SEGMENT)
    run_json("session", "rewind", "talk", "--to-token", 3 * SEGMENT, "--store", folder)
    out = store.load("talk", model, tokenizer)
    assert out.places == ref.places
    assert out.ask("Who?", max_new_tokens=8) == ref.ask("Who?", max_new_tokens=8)


def test_a_new_index(run_cli, run_json, folder):
    before = run_json("session", "ls", "--store", folder)
    (folder / "index.sqlite").write_bytes(b"no database" * 1000)
    code, _, err = run_cli("session", "ls", "--store", folder)
    assert (code, "infini session rebuild" in err, err.count("\n")) == (2, True, 1)
    assert run_json("session", "rebuild", "--store", folder) == {"store": str(folder), "left_out": []}
    assert run_json("session", "ls", "--store", folder) == before


def test_an_owner_has_sessions_of_its_own(run_cli, run_json, folder, tmp_path):
    key = tmp_path / "key"
    key.write_text("# mine\nkey-of-ann-0123456789\n")
    assert run_json("session", "ls", "--store", folder, "--api-key-file", key) == {"sessions": []}
    assert run_cli("session", "show", "talk", "--store", folder, "--api-key-file", key).code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "none"],
        ["verify", "none"],
        ["rm", "talk", "none"],
        ["fork", "talk", "talk"],
        ["fork", "talk", "a/b"],
        ["rewind", "talk"],
        ["rewind", "talk", "--to-token", "1"],
        ["rewind", "talk", "--to-mark", "none"],
        ["rewind", "talk", "--to-turn", "3"],
    ],
)
def test_mistakes(run_cli, run_json, folder, arguments):
    code, out, err = run_cli("session", *arguments, "--store", folder)
    assert (code, out) == (2, "")
    assert err.startswith("infini: ")
    assert err.count("\n") == 1
    assert len(run_json("session", "ls", "--store", folder)["sessions"]) == 1


def test_without_a_store(run_cli, tmp_path):
    assert run_cli("session", "ls", "--store", tmp_path / "none").code == 2
    assert not (tmp_path / "none").exists()
