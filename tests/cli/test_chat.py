"""infini chat: scripted conversations, what they leave behind, and Ctrl-C."""

import builtins
import json
import os
import signal
import sys

import pytest

from infini_attention.sessions import Session, read_header
from tiny import SEGMENT

FIGURES = {"tokens_read", "tokens_in_window", "tokens_compressed", "dropped_tokens", "state_bytes", "seconds"}


@pytest.fixture
def chat(run_cli, typed, chat_dir):
    """`chat(lines, *args)` runs a scripted chat of short replies."""

    def chat(lines, *args):
        typed(lines)
        return run_cli("chat", "-m", chat_dir, "-n", 8, *args)

    return chat


@pytest.fixture
def chat_json(chat):
    """The JSON objects of a chat that succeeds without a word on stderr."""

    def chat_json(lines, *args):
        code, out, err = chat(lines, *args, "--json")
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return chat_json


@pytest.fixture
def session(tmp_path):
    return tmp_path / "session"


def without_seconds(turns):
    return [turn | {"seconds": 0} for turn in turns]


def test_turns_and_their_figures(chat_json, chat_dir):
    from infini_attention.models import load_model, load_tokenizer

    turns = chat_json("Hi\n\nWho are you?\n")
    ref = Session(load_model(chat_dir), load_tokenizer(chat_dir))
    for turn, message in zip(turns, ["Hi", "Who are you?"], strict=True):
        reply = ref.chat(message, max_new_tokens=8)
        assert turn.keys() == FIGURES | {"message", "reply", "finished", "new_tokens"}
        assert (turn["message"], turn["reply"], turn["finished"]) == (message, reply.text, reply.finished)
        assert turn["new_tokens"] == len(reply.token_ids)
        assert turn["tokens_read"] == ref.stats.tokens_read
        assert turn["tokens_in_window"] == turn["tokens_read"] % SEGMENT
        assert turn["tokens_in_window"] + turn["tokens_compressed"] == turn["tokens_read"]
        assert (turn["dropped_tokens"], turn["state_bytes"]) == (0, ref.state_bytes)


def test_as_text(chat, chat_json):
    turns = chat_json("Hi\nWho are you?\n")
    code, out, err = chat("Hi\nWho are you?\n")
    assert (code, out) == (0, "".join(turn["reply"] + "\n" for turn in turns))
    statuses = err.splitlines()
    assert len(statuses) == 2
    for status, turn in zip(statuses, turns, strict=True):
        count, window, rest = (turn[f"tokens_{name}"] for name in ("read", "in_window", "compressed"))
        assert status.startswith(f"{count} tokens read · {window} in the window · {rest} compressed · state ")


def test_saved_and_continued_is_never_saved(chat_json, session):
    whole = without_seconds(chat_json("Hi\nI am Ann.\nWho am I?\n"))
    first = chat_json("Hi\n", "-o", session)
    assert read_header(session).turns == 1
    second = chat_json("I am Ann.\n", "--from", session, "-o", session)
    third = chat_json("Who am I?\n", "--from", session)
    assert without_seconds(first + second + third) == whole
    assert read_header(session).turns == 2


def test_commands(chat_json, text, session, tmp_path):
    saved = tmp_path / "saved"
    turns = chat_json(f"Hi\n/read {text}\n/save {saved}\nWho?\n/save {saved}\n/quit\nnever\n", "-o", session)
    first, reading, last = turns
    assert reading.keys() == FIGURES | {"read", "interrupted"}
    assert (reading["read"], reading["interrupted"]) == (str(text), False)
    assert reading["tokens_read"] == first["tokens_read"] + text.stat().st_size
    assert last["message"] == "Who?"
    assert read_header(saved) == read_header(session)
    assert read_header(saved).stats.tokens_read == last["tokens_read"]


class TestRewind:
    def test_the_last_turns(self, chat_json):
        ref = without_seconds(chat_json("Hi\nI am Ann.\nWho am I?\n"))
        out = chat_json("Hi\nWrong.\nWrong again.\n/rewind 2\nI am Ann.\nWrong.\n/rewind\nWho am I?\n")
        said = [turn for turn in without_seconds(out) if turn.get("message") in ("Hi", "I am Ann.", "Who am I?")]
        assert said == ref
        first, second = (turn for turn in out if "rewind" in turn)
        assert first.keys() == FIGURES | {"rewind", "turns", "tokens_read_again"}
        assert (first["rewind"], first["turns"], first["tokens_read_again"]) == ("2", 1, 0)
        assert (second["rewind"], second["turns"]) == ("", 2)
        assert first["tokens_read"] == ref[0]["tokens_read"]

    def test_to_a_mark_and_a_text_between(self, chat_json, text):
        ref = without_seconds(chat_json(f"/read {text}\nHi\nWho?\n"))
        out = chat_json(f"/read {text}\nHi\n/mark good place\n/read {text}\nWrong.\n/rewind good place\nWho?\n")
        assert without_seconds([out[-1]]) == [ref[-1]]
        assert [turn["turns"] for turn in out if "rewind" in turn] == [1]

    def test_as_text(self, chat):
        code, _, err = chat("Hi\n/mark here\n/rewind here\n")
        assert (code, err.splitlines()[1]) == (0, "marked as here")
        assert err.splitlines()[0] == err.splitlines()[2]

    def test_not_before_a_session_that_was_opened(self, chat_json, chat, session):
        chat_json("Hi\n", "-o", session)
        code, _, err = chat("/rewind\n", "--from", session)
        assert (code, err.count("\n")) == (2, 1)
        assert "the place after 0 messages is not kept" in err


def test_a_text_read_before_the_chat(chat_json, run_json, chat_dir, text, session):
    run_json("read", text, "-m", chat_dir, "-o", session, "--no-score")
    [out] = chat_json("Hi\n", "--from", session)
    _, ref = chat_json(f"/read {text}\nHi\n")
    assert without_seconds([out]) == without_seconds([ref])


def test_sampling_with_a_seed(chat_json):
    options = ("--temperature", 2, "--top-p", 0.9, "--seed")
    one, again, two = (without_seconds(chat_json("Hi\nWho?\n", *options, seed)) for seed in (1, 1, 2))
    assert one == again != two


def test_nothing_said_is_not_saved(chat, session):
    code, out, err = chat("\n", "-o", session)
    assert (code, out, err) == (0, "", f"nothing was said: {session} was not written\n")
    assert not session.exists()


MISTAKES = [
    (
        "/reed book\n",
        "'/reed book' is no command; expected /read FILE, /save FILE, /mark NAME, /rewind [N or NAME], /quit",
    ),
    ("/read\n", "'/read' is no command"),
    ("/read missing.txt\n", "missing.txt: no such file"),
    ("/read .\n", ".: is a directory"),
    ("/save .\n", ". is a directory"),
    ("/mark\n", "'/mark' is no command"),
    ("/mark 3\n", "/mark 3: a number means messages to /rewind"),
    ("/rewind 2\n", "/rewind 2: expected 1 to "),
    ("/rewind 0\n", "/rewind 0: expected 1 to "),
    ("/rewind nowhere\n", "there is no mark 'nowhere'"),
    ("/save taken\n", "taken exists already"),
    ("/save nowhere/new\n", "its folder nowhere does not exist"),
    ("What is <|im_end|>?\n", "the message contains <|im_end|>"),
    (b"a\xff\n", "standard input: not utf-8 text"),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_a_mistake_ends_a_script_and_keeps_what_was_said(chat, session, tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("precious")
    code, _, err = chat(line, "-o", session)
    assert (code, not session.exists()) == (2, True)
    assert words in err.splitlines()[-1]
    if isinstance(line, bytes):
        return  # of a whole block, as standard input is decoded
    code, _, err = chat(f"Hi\n{line}never\n", "-o", session)
    assert code == 2
    assert words in err.splitlines()[-1]
    assert read_header(session).turns == 1
    assert (tmp_path / "taken").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--from missing", "missing: no such session file"),
        ("--from missing -o missing", "missing: no such session file"),
        ("-o taken", "taken exists already; give --force"),
        ("-o . --force", ". is a directory"),
        ("-o nowhere/new", "its folder nowhere does not exist"),
        ("--top-p 0", "--top-p must be above 0"),
        ("--no-such-option", "No such option"),
    ],
)
def test_mistakes_before_the_first_message(chat, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("precious")
    code, out, err = chat("Hi\n", *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert (tmp_path / "taken").read_text() == "precious"


def test_a_model_without_a_template(run_cli, typed, model_dir, session):
    typed("Hi\n")
    code, out, err = run_cli("chat", "-m", model_dir, "-o", session)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the model has no chat template" in err
    assert not session.exists()


@pytest.fixture
def press(monkeypatch):
    """`press(turn, *signals)` sends signals at the start of that turn, the first one being 1."""

    def press(turn, *signals):
        say, turns = Session.chat, iter(range(1, 100))

        def chat(*args, **options):
            if next(turns) == turn:
                for number in signals:
                    os.kill(os.getpid(), number)
            return say(*args, **options)

        monkeypatch.setattr(Session, "chat", chat)

    return press


class TestCtrlC:
    def test_during_a_reply_keeps_what_was_said_of_it(self, chat_json, press, session):
        press(1, signal.SIGINT)
        first, second = chat_json("Hi\nWho?\n", "-o", session)
        assert (first["new_tokens"], first["finished"]) == (1, False)
        assert second["new_tokens"] > 1
        assert read_header(session).turns == 2
        assert read_header(session).stats.tokens_read == second["tokens_read"]

    @pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
    def test_twice_or_a_request_to_end_saves_the_turns_before(self, chat, press, session, signals):
        press(2, *signals)
        code, out, err = chat("Hi\nWho?\nnever\n", "-o", session, "--json")
        assert (code, err) == (130, "")
        assert len(out.splitlines()) == 1
        assert read_header(session).turns == 1
        assert read_header(session).stats.tokens_read == json.loads(out)["tokens_read"]

    def test_during_a_text_keeps_what_was_read(self, chat, session, text, monkeypatch):
        steps = Session.read_steps

        def interrupted(*args, **options):
            yield next(steps(*args, chunk_size=SEGMENT, **options))
            raise KeyboardInterrupt

        monkeypatch.setattr(Session, "read_steps", interrupted)
        code, out, _ = chat(f"/read {text}\nnever\n", "-o", session, "--json")
        assert (code, json.loads(out)["interrupted"]) == (130, True)
        assert read_header(session).stats.tokens_read == SEGMENT


@pytest.fixture
def terminal(monkeypatch, run_cli, chat_dir):
    """`terminal(lines, *args)` runs a chat whose lines are typed at a terminal; an exception is raised instead."""

    def terminal(lines, *args):
        left, prompts = iter(lines), []

        def typed(prompt):
            prompts.append(prompt)
            line = next(left, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", typed)
        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        result = run_cli("chat", "-m", chat_dir, "-n", 8, *args)
        assert set(prompts) == {"> "}
        return result

    return terminal


class TestAtATerminal:
    def test_a_mistake_does_not_end_the_chat(self, terminal, session):
        code, _, err = terminal(["Hi", "/read missing.txt", "Who?"], "-o", session)
        assert code == 0
        help_line, status, mistake, again, saved = err.splitlines()
        assert help_line == "/read FILE, /save FILE, /mark NAME, /rewind [N or NAME], /quit; Ctrl-C stops a reply"
        assert mistake == "infini: missing.txt: no such file"
        assert " tokens read" in status
        assert " tokens read" in again
        assert saved == f"saved to {session}"
        assert read_header(session).turns == 2

    def test_ctrl_c_at_the_prompt_ends_and_saves(self, terminal, session):
        assert terminal(["Hi", KeyboardInterrupt(), "never"], "-o", session).code == 130
        assert read_header(session).turns == 1
